"""Every family against the library it comes from: tiny random models, equal weights, equal numbers; no download."""

import logging

import pytest
import torch

from malmoi.config import ModelConfig
from malmoi.formats import families, huggingface
from malmoi.formats.published import FAMILIES, OWN
from malmoi.layers import count_parameters
from malmoi.model.cache import Cache
from small_models import BASE

transformers = pytest.importorskip("transformers")

CONTEXT = 128
WIDE = BASE | {"max_position_embeddings": CONTEXT}
OPENAI = {"vocab_size": 61, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "original_max_position_embeddings": 32}
LLAMA3 |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "norm_topk_prob": True}
CASES = {
    "openai-gpt": ("OpenAIGPT", OPENAI),
    "openai-gpt-relu": ("OpenAIGPT", OPENAI | {"afn": "relu", "tie_word_embeddings": False}),
    "gpt2": ("GPT2", OPENAI),
    "gpt2-untied": ("GPT2", OPENAI | {"tie_word_embeddings": False, "n_inner": 40, "activation_function": "gelu"}),
    "llama": ("Llama", WIDE | {"mlp_bias": True, "attention_bias": True}),
    "llama-3": (
        "Llama",
        WIDE | {"head_dim": 16, "rope_parameters": LLAMA3},
    ),
    "llama-linear": (
        "Llama",
        WIDE
        | {"tie_word_embeddings": True, "num_key_value_heads": 4}
        | {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0}},
    ),
    "mistral": ("Mistral", WIDE | {"sliding_window": 5}),
    "mistral-full": ("Mistral", WIDE | {"sliding_window": None, "head_dim": 16}),
    "mixtral": ("Mixtral", WIDE | {"num_local_experts": 4, "sliding_window": None}),
    "mixtral-windows": ("Mixtral", WIDE | {"num_local_experts": 3, "num_experts_per_tok": 1, "sliding_window": 5}),
    "qwen3": ("Qwen3", WIDE | {"head_dim": 16, "tie_word_embeddings": True}),
    "qwen3-yarn": ("Qwen3", WIDE | {"head_dim": 8, "attention_bias": True, "rope_parameters": YARN}),
    "qwen3-windows": (
        "Qwen3",
        WIDE
        | {"head_dim": 8, "use_sliding_window": True, "sliding_window": 5}
        | {"layer_types": ["sliding_attention", "full_attention"]}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
    ),
    "qwen3_moe": ("Qwen3Moe", WIDE | EXPERTS | {"head_dim": 8}),
    "gpt_oss": (
        "GptOss",
        WIDE
        | {"head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 5, "swiglu_limit": 0.5}
        | {"num_hidden_layers": 4, "rope_parameters": YARN | {"truncate": False, "beta_fast": 8.0, "beta_slow": 1.0}},
    ),
}


@pytest.fixture(scope="module", params=CASES)
def pair(request, tmp_path_factory):
    """A tiny random model of the other library with visible logits; its folder; ours, read from it; the folder of ours.

    All of its parameters are moved away from where they start, so that no bias, norm or sink is without effect.
    """
    name, settings = CASES[request.param]
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    torch.manual_seed(2)
    config = getattr(transformers, f"{name}Config")(**settings, **ends)
    theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    folder = tmp_path_factory.mktemp(request.param)
    theirs.save_pretrained(folder / "theirs")
    ours = huggingface.load(folder / "theirs")
    huggingface.save(ours, folder / "ours")
    return theirs, ours, folder


def prompts(rows=3, length=20):
    return torch.randint(1, 61, (rows, length), generator=torch.Generator().manual_seed(1))


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_logits_are_theirs(pair):
    theirs, ours, _ = pair
    for length in (1, 7, 20, 70):
        ids = prompts(2, length)
        plain = theirs(ids).logits
        assert plain.std() > 0.1
        close(ours(ids).logits, plain)
        cache = Cache()
        parts = [ours(part, cache=cache).logits for part in ids.split((length + 2) // 3, dim=1)]
        close(torch.cat(parts, 1), plain)


@torch.no_grad()
def test_padded_rows_are_theirs(pair):
    theirs, ours, _ = pair
    ids = prompts()
    mask = torch.ones_like(ids)
    mask[1, :7], mask[2, :16] = 0, 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    padded = theirs(ids, attention_mask=mask, position_ids=positions).logits
    close(ours(ids, attention_mask=mask).logits[mask.bool()], padded[mask.bool()])


@torch.no_grad()
def test_the_loss_is_theirs(pair):
    theirs, ours, _ = pair
    ids = prompts()
    labels = ids.masked_fill(ids % 5 == 0, -100)
    close(ours(ids, labels=labels).loss, theirs(ids, labels=labels).loss)


def test_greedy_text_is_theirs(pair):
    theirs, ours, _ = pair
    ids = prompts(2, 9)
    settings = {"max_new_tokens": 64, "do_sample": False}
    expected = theirs.generate(ids, attention_mask=torch.ones_like(ids), eos_token_id=60, pad_token_id=0, **settings)
    found = ours.generate(ids, eos_token_id=60, pad_token_id=0, **settings)
    assert found.tolist() == expected.tolist()
    assert expected.shape[1] > 40


class Notes(logging.Handler):
    """What the other library finds worth a warning."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record):
        self.said.append(record.getMessage())


@torch.no_grad()
def test_what_we_save_opens_there_in_silence(pair, recwarn):
    theirs, ours, folder = pair
    notes = Notes()
    logging.getLogger("transformers").addHandler(notes)
    try:
        again, info = transformers.AutoModelForCausalLM.from_pretrained(folder / "ours", output_loading_info=True)
    finally:
        logging.getLogger("transformers").removeHandler(notes)
    assert not notes.said
    assert not recwarn.list
    assert type(again).__name__ == families.family_of(ours.config).architecture
    assert {name: held for name, held in info.items() if held} == {}
    assert torch.equal(again(prompts()).logits, theirs(prompts()).logits)
    before, after = theirs.config.to_dict(), again.config.to_dict()
    if type(again) is type(theirs):
        changed = {name for name in before if before[name] not in (None, after.get(name))}
        assert changed <= {"_name_or_path", "max_window_layers", "architectures"}


def test_what_we_save_we_open(pair):
    _, ours, folder = pair
    again = huggingface.load(folder / "ours")
    assert again.config == ours.config
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), ours.state_dict().values(), strict=True))


def test_a_folder_keeps_its_family(pair):
    theirs, ours, _ = pair
    windowless = theirs.config.model_type == "mistral" and theirs.config.sliding_window is None
    expected = "llama" if windowless else theirs.config.model_type  # the two are then the same network
    assert families.family_of(ours.config).model_type == expected


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.model_type)
def test_what_a_folder_leaves_out_means_what_it_means_there(family):
    """The shortest config.json that the other library takes, and the same one with all its defaults written out."""
    sizes = {"vocab_size": 61, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 32}
    short = {family.settings[ours]: size for ours, size in sizes.items()}
    short |= {family.settings["max_position_embeddings"]: 64, "model_type": family.model_type}
    if family.model_type == "gpt2":
        short |= {"bos_token_id": 0, "eos_token_id": 0}  # the default is the published vocabulary's
    if family.model_type not in ("gpt2", "openai-gpt"):
        short["intermediate_size"] = 48
    if family.model_type == "qwen3_moe":
        short["norm_topk_prob"] = True  # the default is refused
    config = transformers.AutoConfig.for_model(**short)
    assert families.from_config(short) == families.from_config(config.to_dict())


# config.json as it stands in the published folders (what decides the network), and how many parameters they have
OLD = {"hidden_act": "silu", "initializer_range": 0.02, "torch_dtype": "bfloat16", "use_cache": True}
PUBLISHED = {
    "openai-community/openai-gpt": (
        {"model_type": "openai-gpt", "afn": "gelu", "attn_pdrop": 0.1, "embd_pdrop": 0.1, "n_ctx": 512, "n_embd": 768}
        | {"n_head": 12, "n_layer": 12, "n_positions": 512, "n_special": 0, "vocab_size": 40478},
        116_534_784,
    ),
    "openai-community/gpt2": (
        {"model_type": "gpt2", "activation_function": "gelu_new", "bos_token_id": 50256, "eos_token_id": 50256}
        | {"n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024, "vocab_size": 50257},
        124_439_808,
    ),
    "meta-llama/Llama-3.2-1B": (
        OLD
        | {"model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16}
        | {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "max_position_embeddings": 131072}
        | {"rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": True, "vocab_size": 128256}
        | {"eos_token_id": [128001, 128008], "pretraining_tp": 1, "mlp_bias": False}
        | {"rope_scaling": LLAMA3 | {"factor": 32.0, "original_max_position_embeddings": 8192}},
        1_235_814_400,
    ),
    "mistralai/Mistral-7B-v0.1": (
        OLD
        | {"model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32}
        | {"num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 32768}
        | {"rms_norm_eps": 1e-5, "rope_theta": 10000.0, "sliding_window": 4096, "vocab_size": 32000},
        7_241_732_096,
    ),
    "mistralai/Mixtral-8x7B-v0.1": (
        OLD
        | {"model_type": "mixtral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32}
        | {"num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 32768}
        | {"num_experts_per_tok": 2, "num_local_experts": 8, "rms_norm_eps": 1e-5, "rope_theta": 1000000.0}
        | {"sliding_window": None, "tie_word_embeddings": False, "vocab_size": 32000},
        46_702_792_704,
    ),
    "Qwen/Qwen3-0.6B": (
        OLD
        | {"model_type": "qwen3", "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28}
        | {"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 40960}
        | {"max_window_layers": 28, "rms_norm_eps": 1e-6, "rope_scaling": None, "rope_theta": 1000000}
        | {"sliding_window": None, "tie_word_embeddings": True, "use_sliding_window": False, "vocab_size": 151936},
        596_049_920,
    ),
    "Qwen/Qwen3-30B-A3B": (
        OLD
        | {"model_type": "qwen3_moe", "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 48}
        | {"num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "max_position_embeddings": 40960}
        | {"decoder_sparse_step": 1, "max_window_layers": 48, "mlp_only_layers": [], "moe_intermediate_size": 768}
        | {"norm_topk_prob": True, "num_experts": 128, "num_experts_per_tok": 8, "rope_scaling": None}
        | {"rope_theta": 1000000.0, "sliding_window": None, "use_sliding_window": False, "vocab_size": 151936},
        30_532_122_624,
    ),
    "openai/gpt-oss-20b": (
        OLD
        | {"model_type": "gpt_oss", "hidden_size": 2880, "intermediate_size": 2880, "num_hidden_layers": 24}
        | {"num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64, "max_position_embeddings": 131072}
        | {"attention_bias": True, "eos_token_id": 200002, "experts_per_token": 4, "initial_context_length": 4096}
        | {"layer_types": ["sliding_attention", "full_attention"] * 12, "num_experts_per_tok": 4}
        | {"num_local_experts": 32, "rms_norm_eps": 1e-5, "rope_theta": 150000, "router_aux_loss_coef": 0.9}
        | {"sliding_window": 128, "swiglu_limit": 7.0, "vocab_size": 201088, "tie_word_embeddings": False}
        | {"rope_scaling": YARN | {"factor": 32.0, "original_max_position_embeddings": 4096, "truncate": False}}
        | {"quantization_config": {"quant_method": "mxfp4"}},
        20_914_757_184,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_describe_the_published_models(name):
    said, parameters = PUBLISHED[name]
    config = families.from_config(said)
    assert count_parameters(config) == parameters
    assert families.family_of(config).model_type == said["model_type"]
    theirs = transformers.AutoConfig.for_model(**said)
    assert families.from_config(theirs.to_dict()) == config  # read by way of the other library


def test_every_setting_of_a_family_is_one_of_ours():
    for family in FAMILIES:
        assert {*family.settings, *family.fixed} <= set(ModelConfig.model_fields)
        assert set(family.spellings) <= set(family.settings)
    assert set(OWN.settings) == set(ModelConfig.model_fields)
