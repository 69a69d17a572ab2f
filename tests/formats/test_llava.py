"""LLaVA folders against transformers: tiny random models, equal logits, cached and not; what does not fit is said."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from malmoi.config import MalmoiError, ModelConfig
from malmoi.config.vision import VisionConfig
from malmoi.formats import llava
from malmoi.model.cache import Cache
from malmoi.model.gpt import GPT4LMHeadModel
from malmoi.vision.seeing import SeeingModel
from small_models import BASE

transformers = pytest.importorskip("transformers")

EYES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
EYES |= {"image_size": 24, "patch_size": 8}
TEXT = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
TEXT |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
FULL = {"vision_feature_select_strategy": "full"}
PLACE = 60
CASES = {
    "clip-llama": ("CLIP", "Llama", {}, {}),
    "clip-many-layers": ("CLIP", "Llama", {}, FULL | {"vision_feature_layer": [-2, 1, -1]}),
    "clip-mistral": ("CLIP", "Mistral", {}, {"projector_hidden_act": "gelu_pytorch_tanh"}),
    "siglip-qwen2": ("Siglip", "Qwen2", {}, FULL | {"vision_feature_layer": -1, "multimodal_projector_bias": False}),
    "siglip-qwen3": ("Siglip", "Qwen3", {"head_dim": 8, "tie_word_embeddings": True}, FULL),
}


def published(case: str, folder) -> torch.nn.Module:
    tower, text, more, whole = CASES[case]
    config = transformers.LlavaConfig(
        vision_config=getattr(transformers, f"{tower}VisionConfig")(**EYES),
        text_config=getattr(transformers, f"{text}Config")(**TEXT | more),
        image_token_index=PLACE,
        image_seq_length=9,
        **whole,
    )
    torch.manual_seed(0)
    model = transformers.LlavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases too, which are all alike in a new model
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


@pytest.fixture
def folder(tmp_path):
    published("clip-llama", tmp_path)
    return tmp_path


@pytest.mark.parametrize("case", CASES)
def test_logits_are_transformers(case, tmp_path):
    theirs, ours = published(case, tmp_path), llava.load(tmp_path)
    places = [PLACE] * ours.vision.config.features
    ids = torch.tensor([[1, 5, *places, 7, 8, 9, *places, 3, 4], [4, 2, *places, 2, 6, 1, *places, 9, 9]])
    pixels = torch.randn(4, 3, 24, 24)
    with torch.no_grad():
        expected = theirs(input_ids=ids, pixel_values=pixels).logits
        torch.testing.assert_close(ours(ids, pixel_values=pixels).logits, expected, atol=1e-4, rtol=1e-4)
        cache, cut = Cache(), len(places) + 4
        begun = ours(ids[:1, :cut], pixel_values=pixels[:1], cache=cache).logits
        ended = [ours(ids[:1, cut : cut + 1 + len(places)], pixel_values=pixels[1:2], cache=cache).logits]
        ended += [ours(ids[:1, i : i + 1], cache=cache).logits for i in range(cut + 1 + len(places), ids.shape[1])]
        torch.testing.assert_close(torch.cat((begun, *ended), dim=1), expected[:1], atol=1e-4, rtol=1e-4)
        words = ids[:, :2]
        torch.testing.assert_close(ours(words).logits, theirs(input_ids=words).logits, atol=1e-4, rtol=1e-4)


def test_names_of_other_versions_are_understood(folder):
    weights = load_file(folder / "model.safetensors")
    expected = llava.load(folder)(torch.tensor([[1, 2, 3]])).logits
    new = {}
    for name, tensor in weights.items():
        name = name.replace("language_model.lm_head", "lm_head").replace("language_model.model", "model.language_model")
        name = name.replace("vision_tower.", "model.vision_tower.vision_model.")
        new[name.replace("multi_modal_projector", "model.multi_modal_projector")] = tensor
    assert not set(new) & set(weights)
    save_file(new, folder / "model.safetensors")
    assert torch.equal(llava.load(folder)(torch.tensor([[1, 2, 3]])).logits, expected)


def test_preprocessing_is_read(folder):
    assert llava.load(folder).vision.config.image_mean == pytest.approx((0.481, 0.458, 0.408), abs=1e-3)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 1]})
    )
    assert llava.load(folder).vision.config.image_mean == (0.1, 0.2, 0.3)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("eyes", [{}, {"class_token": True, "pre_norm": True, "patch_bias": False}])
def test_what_is_trained_here_opens_in_transformers(tmp_path, eyes, tied):
    language = GPT4LMHeadModel(
        ModelConfig(**BASE | {"vocab_size": 61, "image_token_id": PLACE, "tie_word_embeddings": tied})
    )
    size = {"image_size": 24, "patch_size": 8, "hidden_size": 32, "intermediate_size": 48}
    ours = SeeingModel.new(language, VisionConfig(**size, **eyes), seed=3).eval()
    llava.save(ours, tmp_path / "made")
    theirs = transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path / "made").eval()
    back = llava.load(tmp_path / "made")
    ids, pixels = torch.tensor([[1, 5, *[PLACE] * 9, 7, 8]]), torch.randn(1, 3, 24, 24)
    with torch.no_grad():
        logits = ours(ids, pixel_values=pixels).logits
        assert torch.equal(back(ids, pixel_values=pixels).logits, logits)
        expected = theirs(input_ids=ids, pixel_values=pixels).logits
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    assert back.vision.config == ours.vision.config


def test_a_tower_of_no_family_is_not_written(tmp_path):
    language = GPT4LMHeadModel(ModelConfig(**BASE | {"image_token_id": 2}))
    with pytest.raises(MalmoiError, match="No published family"):
        llava.save(SeeingModel.new(language, VisionConfig(class_token=True)), tmp_path / "made")
    assert list(tmp_path.iterdir()) == []


def _changed(folder, **changes):
    said = json.loads((folder / "config.json").read_text())
    for path, value in changes.items():
        at = said
        *before, last = path.split("__")
        for key in before:
            at = at[key]
        at[last] = value
    (folder / "config.json").write_text(json.dumps(said))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "llava_next"}, "model_type is 'llava_next'"),
        ({"vision_config__model_type": "dinov2"}, "type 'dinov2'; known: clip_vision_model"),
        ({"vision_config__model_type": "siglip_vision_model"}, "would drop the first patch"),
        ({"vision_feature_select_strategy": "some"}, "'default' and 'full'"),
        ({"vision_feature_layer": 7}, "names layer 7; there are 3"),
        ({"projector_hidden_act": "swiglu"}, "projector_act"),
        ({"text_config__model_type": "bloom"}, "'bloom' is not a family"),
        ({"image_token_index": 61}, "image_token_id=61 is outside vocab_size=61"),
        ({"vision_config__hidden_size": 64}, r"has shape \[32\], but config.json asks for \[64\]"),
    ],
)
def test_what_would_be_computed_differently_is_refused(folder, changes, words):
    _changed(folder, **changes)
    with pytest.raises(MalmoiError, match=words):
        llava.load(folder)


def test_missing_and_strange_tensors_are_named(folder):
    weights = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "linear_2.bias" not in k}, folder / "model.safetensors")
    with pytest.raises(MalmoiError, match=r"missing: multi_modal_projector\.linear_2\.bias"):
        llava.load(folder)
    save_file(weights | {"vision_tower.more": torch.zeros(2)}, folder / "model.safetensors")
    with pytest.raises(MalmoiError, match=r"not expected: vision_tower\.more"):
        llava.load(folder)
    save_file(weights | {"qformer.weight": torch.zeros(2)}, folder / "model.safetensors")
    with pytest.raises(MalmoiError, match=r"no part of a LLaVA model has: qformer\.weight"):
        llava.load(folder)
    save_file({k: v for k, v in weights.items() if "layers.1.mlp.up" not in k}, folder / "model.safetensors")
    with pytest.raises(MalmoiError, match="missing"):
        llava.load(folder)
