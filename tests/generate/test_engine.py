"""The engine on a real, small model: company, caches, streams and traces change nothing about what is written."""

import functools
import itertools
import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from malmoi.config import GenerationConfig, MalmoiError, ModelConfig
from malmoi.generate import sampling
from malmoi.generate.engine import generate, stream
from malmoi.model.gpt import GPT4LMHeadModel
from malmoi.tokens import vocabulary

CONTEXT = 48
CORPUS = [
    "한때 작은 마을에 할머니가 살았어요. 비가 오면 고양이와 함께 책을 읽었어요.",
    "Once upon a time there was a small village. An old woman read books with her cat.",
    "Il était une fois un petit village. L'été, la vieille dame lisait à l'ombre.",
    "안녕하세요! 👩‍👩‍👧 🇰🇷 🇫🇷 hello, bonjour 1 + 2 = 3\n",
] * 4


@pytest.fixture(scope="module")
def tokenizer():
    return vocabulary.learn(CORPUS, 400)


def build(vocab_size, **changes):
    """Random weights, large enough for logits that differ clearly from token to token."""
    config = {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
        "initializer_range": 0.3,
        "eos_token_id": 0,
        "pad_token_id": 1,
    }
    return GPT4LMHeadModel(ModelConfig(**{**config, **changes})).eval()


@pytest.fixture(scope="module")
def model(tokenizer):
    return build(len(tokenizer))


LAYOUTS = {
    "modern": {},
    "gpt2": {
        "positions": "learned",
        "norm": "layer_norm",
        "feed_forward": "plain",
        "qk_norm": False,
        "attention_bias": True,
        "mlp_bias": True,
    },
    "window": {"layer_types": ("sliding_attention", "full_attention"), "sliding_window": 4},
    "experts": {"num_experts": 4, "moe_intermediate_size": 32},
}
SETTINGS = [{}, {"temperature": 0.9, "seed": 5}, {"top_p": 0.8, "top_k": 40, "repetition_penalty": 1.2, "seed": 6}]
PROMPTS = [[5, 6, 7], [9], list(range(20, 50)), [8, 8]]


# ------------------------------------------------------------------- exact in any company


@pytest.mark.parametrize("asked", SETTINGS, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_alone_together_and_without_a_cache_the_same_is_written(layout, asked):
    """Rows of different lengths end at different times, so that rows leave and columns are dropped on the way."""
    model = build(300, **LAYOUTS[layout])
    together = generate(model, PROMPTS, max_length=CONTEXT, **asked)
    uncached = generate(model, PROMPTS, max_length=CONTEXT, use_cache=False, **asked)
    assert uncached.new_tokens == together.new_tokens
    assert max(map(len, together.new_tokens)) > CONTEXT - len(PROMPTS[2])  # beyond what the longest prompt leaves
    for prompt, tokens in zip(PROMPTS, together.new_tokens, strict=True):
        alone = generate(model, prompt, max_length=CONTEXT, **asked)
        assert alone.new_tokens == [tokens]


@functools.cache
def plain_model():
    return build(300)


@settings(max_examples=15)
@given(st.lists(st.lists(st.integers(2, 299), min_size=1, max_size=12), min_size=1, max_size=5), st.integers(0, 2**62))
def test_any_batch_writes_what_each_prompt_alone_would(batch, seed):
    model = plain_model()
    asked = {"max_new_tokens": 6, "temperature": 0.8, "num_return_sequences": 2, "seed": seed}
    together = generate(model, batch, **asked)
    alone = [tokens for prompt in batch for tokens in generate(model, prompt, **asked).new_tokens]
    assert together.new_tokens == alone


@pytest.mark.parametrize("asked", SETTINGS, ids=str)
def test_the_engine_agrees_with_a_loop_that_anyone_would_write(model, asked):
    """The plain way: the whole text through the model for each token, the settings one after the other."""
    config = GenerationConfig(**asked, do_sample="seed" in asked)
    ids = list(PROMPTS[0])
    with torch.no_grad():
        for position in range(3, 23):
            logits = model(torch.tensor([ids])).logits[:, -1]
            seen = torch.zeros_like(logits, dtype=torch.bool)
            seen[0, ids] = True
            shaped = sampling.shape(logits, config, seen=seen)
            if config.do_sample:
                ids += sampling.sample(shaped, sampling.draws(config.seed, [position], [0])).tolist()
            else:
                ids += shaped.argmax(-1).tolist()
    assert generate(model, PROMPTS[0], max_new_tokens=20, eos_token_id=(), **asked).sequences.tolist() == [ids]


def test_a_sample_has_its_number_whatever_the_number_of_samples(model):
    many = generate(model, PROMPTS[0], num_return_sequences=6, seed=9, max_new_tokens=12).new_tokens
    few = generate(model, PROMPTS[0], num_return_sequences=2, seed=9, max_new_tokens=12).new_tokens
    assert many[:2] == few
    assert len({tuple(tokens) for tokens in many}) > 1


def test_each_prompt_is_read_once_whatever_the_number_of_its_sequences(model):
    shapes = []
    hook = model.register_forward_pre_hook(lambda _, arguments: shapes.append(tuple(arguments[0].shape)))
    try:
        generate(model, PROMPTS[:2], num_return_sequences=3, max_new_tokens=3, seed=0, eos_token_id=())
    finally:
        hook.remove()
    assert shapes == [(2, 3), (6, 1), (6, 1)]


def test_rows_that_ended_leave_the_batch(model):
    sizes = []
    hook = model.register_forward_pre_hook(lambda _, arguments: sizes.append(arguments[0].shape[0]))
    prompts = [list(range(5, 5 + length)) for length in (40, 40, 40, 4)]
    try:
        generate(model, prompts, max_length=CONTEXT, eos_token_id=())
    finally:
        hook.remove()
    assert sizes == [4] * 8 + [1] * (CONTEXT - 4 - 8)


# ------------------------------------------------------------------- what people call


def test_the_call_of_the_readme(model, tokenizer):
    inputs = tokenizer.encode("Translate this text to French: ", return_tensors="pt")
    outputs = model.generate(inputs, max_length=CONTEXT, num_return_sequences=5, temperature=0.7)
    assert outputs.dtype == torch.int64
    assert outputs.shape[0] == 5
    assert inputs.shape[1] < outputs.shape[1] <= CONTEXT
    assert all(row[: inputs.shape[1]].tolist() == inputs[0].tolist() for row in outputs)
    assert all(isinstance(tokenizer.decode(row, skip_special_tokens=True), str) for row in outputs)


def test_a_padded_batch_of_texts(model, tokenizer):
    texts = ["한때", "Once upon a time there was"]
    outputs = model.generate(**tokenizer(texts, padding=True, return_tensors="pt"), max_new_tokens=8)
    for text, output in zip(texts, outputs, strict=True):
        alone = model.generate(tokenizer.encode(text, return_tensors="pt"), max_new_tokens=8)[0]
        real = output[output != 1]
        assert real.tolist() == alone.tolist()


def test_rows_are_filled_up_on_the_right(model):
    free = generate(model, PROMPTS[:2], max_new_tokens=10, seed=1, temperature=1.0)
    stop = free.new_tokens[0][3]
    assert stop not in free.new_tokens[0][:3] + free.new_tokens[1]
    asked = {"max_new_tokens": 10, "seed": 1, "temperature": 1.0, "eos_token_id": stop}
    made = generate(model, PROMPTS[:2], **asked)
    assert made.finish_reasons == ["eos", "length"]
    assert made.sequences[0].tolist() == PROMPTS[0] + free.new_tokens[0][:4] + [1] * 6
    assert generate(model, PROMPTS[:2], **asked, pad_token_id=7).sequences[0, -6:].tolist() == [7] * 6


def test_min_new_tokens_holds_back_the_end(model):
    free = generate(model, PROMPTS[0], max_new_tokens=12).new_tokens[0]
    asked = {"max_new_tokens": 12, "eos_token_id": free[0]}
    assert generate(model, PROMPTS[0], **asked).new_tokens == [free[:1]]
    held = generate(model, PROMPTS[0], min_new_tokens=5, **asked)
    assert free[0] not in held.new_tokens[0][:5]
    assert len(held.new_tokens[0]) >= 5


def test_without_a_seed_torch_decides_and_the_result_says_what(model):
    def write(**asked):
        return generate(model, PROMPTS[0], temperature=1.5, max_new_tokens=8, **asked)

    torch.manual_seed(4)
    first, second = write(), write()
    torch.manual_seed(4)
    assert write().new_tokens == first.new_tokens
    assert first.seed != second.seed
    assert write(seed=second.seed).new_tokens == second.new_tokens
    assert generate(model, PROMPTS[0], max_new_tokens=2).seed is None


def test_the_models_own_suggestions_count(tokenizer):
    model = build(len(tokenizer))
    model.generation_config = GenerationConfig(temperature=0.8, max_new_tokens=5, eos_token_id=(3, 4), seed=2)
    made = generate(model, PROMPTS[0])
    assert made.config.do_sample
    assert made.config.eos_token_id == (3, 4)
    assert len(made.new_tokens[0]) <= 5
    assert generate(model, PROMPTS[0], made.config).new_tokens == made.new_tokens  # a result's settings repeat it


def test_a_model_in_training_writes_without_dropout_and_goes_on_training():
    model = build(300, residual_dropout=0.5, embedding_dropout=0.5)
    expected = generate(model, PROMPTS[0], max_new_tokens=6).new_tokens
    model.train()
    assert generate(model, PROMPTS[0], max_new_tokens=6).new_tokens == expected
    assert model.training
    assert model.model.layers[0].training


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"input_ids": [5], "temprature": 1}, "Did you mean 'temperature'"),
        ({"input_ids": [[]]}, "prompt is empty"),
        ({"input_ids": [5] * CONTEXT}, f"has {CONTEXT} tokens"),
        ({"input_ids": [5], "max_length": CONTEXT + 1}, "beyond the model's context"),
        ({"input_ids": [5], "stop_strings": "x"}, "needs the tokenizer"),
        ({"input_ids": [5], "eos_token_id": 10_000}, "eos_token_id=10000"),
        ({"input_ids": [5], "config": GenerationConfig(), "top_k": 3}, "not both"),
        ({"input_ids": [5], "config": GenerationConfig(max_new_tokens=10_000)}, "does not fit"),
    ],
    ids=str,
)
def test_mistakes_are_explained(model, arguments, says):
    with pytest.raises(MalmoiError, match=says):
        generate(model, **arguments)


def test_nan_in_the_weights_is_an_error_and_not_a_text():
    model = build(300)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = math.nan
    for asked in SETTINGS:
        with pytest.raises(MalmoiError, match="NaN"):
            generate(model, [5, 6], max_new_tokens=2, **asked)


# ------------------------------------------------------------------- text: streams and stop strings


@settings(max_examples=25)
@given(seed=st.integers(0, 2**40), temperature=st.floats(0.5, 3))
def test_a_stream_is_the_same_text_without_broken_characters(model, tokenizer, seed, temperature):
    prompt = tokenizer.encode("한때 ")
    asked = {"seed": seed, "temperature": temperature, "max_new_tokens": 30, "eos_token_id": ()}
    tokens = list(stream(model, tokenizer, prompt, **asked))
    made = generate(model, prompt, tokenizer=tokenizer, **asked)
    assert [token.id for token in tokens] == made.new_tokens[0]
    assert "".join(token.text for token in tokens) == made.texts[0]
    assert [token.finish_reason for token in tokens] == [None] * 29 + ["length"]


class Scripted(torch.nn.Module):
    """A stand-in for a model that writes given ids, one after the other, whatever the prompt: for exact texts."""

    def __init__(self, ids, vocab_size):
        super().__init__()
        self.ids, self.device = ids, torch.device("cpu")
        self.config = ModelConfig(vocab_size=vocab_size, hidden_size=24, max_position_embeddings=512, eos_token_id=0)
        self.generation_config = GenerationConfig()
        self.calls = itertools.count()

    def forward(self, ids, attention_mask=None, cache=None, logits_to_keep=0):
        logits = torch.zeros(ids.shape[0], 1, self.config.vocab_size)
        logits[..., self.ids[next(self.calls)]] = 10.0
        if cache is not None:
            cache.advance(ids.shape[1], None)
        return type("Output", (), {"logits": logits})


WRITINGS = st.text(st.sampled_from(list("ab \n끝가각👩‍👧🇰🇷é")), min_size=1, max_size=30)


@settings(max_examples=60)
@given(
    writing=WRITINGS, stops=st.lists(st.text(st.sampled_from(list("ab\n끝가🇰")), min_size=1, max_size=3), max_size=3)
)
def test_nothing_of_a_stop_string_is_ever_shown(tokenizer, writing, stops):
    ids = tokenizer.encode(writing)
    config = GenerationConfig(stop_strings=tuple(stops), max_new_tokens=len(ids), temperature=0)
    tokens = list(stream(Scripted(ids, len(tokenizer)), tokenizer, [5], config))
    shown = "".join(token.text for token in tokens)
    ends = [(writing.find(stop) + len(stop), writing.find(stop)) for stop in stops if stop in writing]
    assert shown == (writing[: min(ends)[1]] if ends else writing)
    assert tokens[-1].finish_reason == ("stop" if ends else "length")
    made = generate(Scripted(ids, len(tokenizer)), [5], config, tokenizer=tokenizer)
    assert made.texts == [shown]
    assert made.new_tokens == [[token.id for token in tokens]]
    assert made.finish_reasons == [tokens[-1].finish_reason]


def test_the_end_of_text_is_not_text(tokenizer):
    ids = [*tokenizer.encode("끝"), 0]
    tokens = list(stream(Scripted(ids, len(tokenizer)), tokenizer, [5]))
    assert "".join(token.text for token in tokens) == "끝"
    assert tokens[-1].finish_reason == "eos"
    assert generate(Scripted(ids, len(tokenizer)), [5], tokenizer=tokenizer).texts == ["끝"]


def test_a_stream_says_what_is_wrong_when_it_is_asked_for_not_later(model, tokenizer):
    with pytest.raises(MalmoiError, match="one sequence"):
        stream(model, tokenizer, [5], num_return_sequences=2)
    with pytest.raises(MalmoiError, match="empty"):
        stream(model, tokenizer, [])


# ------------------------------------------------------------------- the trace


@pytest.mark.parametrize("asked", SETTINGS, ids=str)
def test_a_trace_tells_what_the_model_believed_and_what_the_settings_did(model, tokenizer, asked):
    made = generate(model, PROMPTS[:2], tokenizer=tokenizer, trace=3, max_new_tokens=6, eos_token_id=(), **asked)
    for prompt, tokens, traces in zip(PROMPTS, made.new_tokens, made.traces, strict=False):
        ids = prompt + tokens
        with torch.no_grad():
            logprobs = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        assert [trace.id for trace in traces] == tokens
        assert [trace.position for trace in traces] == list(range(len(prompt), len(ids)))
        for trace in traces:
            raw = logprobs[trace.position - 1]
            assert trace.bytes == tokenizer.token_bytes(trace.id)
            assert trace.logprob == pytest.approx(float(raw[trace.id]), abs=1e-4)
            assert trace.entropy == pytest.approx(float(-(raw.exp() * raw).sum()), abs=1e-4)
            assert trace.rank == 1 + int((raw > raw[trace.id] + 1e-5).sum())
            assert [other.id for other in trace.alternatives] == raw.topk(3).indices.tolist()
            for other in trace.alternatives:
                assert other.logprob == pytest.approx(float(raw[other.id]), abs=1e-4)
            assert 0 < trace.probability <= 1 + 1e-12
            assert all(0 <= mass <= 1 + 1e-12 for mass in trace.removed.values())
    order = {0: ["temperature"], 1: ["temperature"], 2: ["repetition_penalty", "top_k", "top_p"]}
    assert list(traces[0].removed) == order[SETTINGS.index(asked)]


def test_a_filter_removes_exactly_the_mass_of_what_it_cuts(model):
    made = generate(model, PROMPTS[0], trace=4, top_k=2, seed=0, max_new_tokens=4)
    for trace in made.traces[0]:
        best = [math.exp(other.logprob) for other in trace.alternatives[:2]]
        assert trace.removed == {"top_k": pytest.approx(1 - sum(best), abs=1e-9)}
        assert trace.probability == pytest.approx(math.exp(trace.logprob) / sum(best), rel=1e-9)
        assert [math.isfinite(other.final_logprob) for other in trace.alternatives[:4]] == [True, True, False, False]


def test_greedy_is_reported_as_temperature_zero(model):
    for trace in generate(model, PROMPTS[0], trace=True, max_new_tokens=3).traces[0]:
        assert trace.rank == 1
        assert trace.probability == 1
        assert trace.removed == {"temperature": pytest.approx(1 - math.exp(trace.logprob), abs=1e-9)}


@pytest.mark.parametrize("asked", SETTINGS, ids=str)
def test_being_watched_changes_nothing(model, tokenizer, asked):
    plain = generate(model, PROMPTS, max_new_tokens=10, **asked)
    watched = generate(model, PROMPTS, max_new_tokens=10, trace=True, tokenizer=tokenizer, **asked)
    assert watched.new_tokens == plain.new_tokens
    assert plain.traces is None
    streamed = list(stream(model, tokenizer, PROMPTS[0], trace=True, max_new_tokens=10, **asked))
    assert [token.trace.id for token in streamed] == plain.new_tokens[0]


class Softmaxes(TorchDispatchMode):
    """Counts the softmaxes that torch carries out."""

    def __init__(self):
        super().__init__()
        self.count = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if "softmax" in name:
            self.count[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("asked", "each"), [({}, 0), ({"temperature": 0.7, "top_k": 5, "seed": 0}, 1)], ids=str)
def test_who_does_not_ask_for_a_trace_does_not_pay_for_it(tokenizer, asked, each):
    """No softmax for greedy, the one that sampling needs otherwise; the stand-in model itself has none."""
    counts = []
    for trace in (False, True):
        with Softmaxes() as mode:
            generate(Scripted([5] * 4, len(tokenizer)), [5], trace=trace, max_new_tokens=4, **asked)
        counts.append(mode.count.total())
    assert counts[0] == 4 * each
    assert counts[1] > counts[0]
