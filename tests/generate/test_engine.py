"""The engine on a real, small model: what people call, what they get, what they are told when it makes no sense."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from speakers import CONTEXT, PROMPTS, SETTINGS, Scripted, build

from malmoi.config import GenerationConfig, MalmoiError
from malmoi.generate import sampling
from malmoi.generate.engine import generate, stream


@pytest.mark.parametrize("asked", SETTINGS, ids=str)
def test_the_engine_agrees_with_a_loop_that_anyone_would_write(model, asked):
    """The plain way: the whole text through the model for each token, the settings one after the other."""
    config = GenerationConfig(**asked, do_sample="seed" in asked)
    ids = list(PROMPTS[0])
    with torch.no_grad():
        for position in range(3, 23):
            logits = model(torch.tensor([ids])).logits[0, -1].numpy()
            shaped = sampling.shape(logits, config, tokens=ids, prompt_length=3)
            draw = sampling.draw(config.seed, position, 0) if config.do_sample else None
            ids.append(int(shaped.argmax()) if draw is None else sampling.sample(shaped, draw))
    assert generate(model, PROMPTS[0], max_new_tokens=20, eos_token_id=(), **asked).sequences.tolist() == [ids]


def test_a_sample_has_its_number_whatever_the_number_of_samples(model):
    many = generate(model, PROMPTS[0], num_return_sequences=6, seed=9, max_new_tokens=12).new_tokens
    few = generate(model, PROMPTS[0], num_return_sequences=2, seed=9, max_new_tokens=12).new_tokens
    assert many[:2] == few
    assert len({tuple(tokens) for tokens in many}) > 1


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


@settings(max_examples=10)
@given(seed=st.integers(0, 2**40), temperature=st.floats(0.5, 3))
def test_a_stream_is_the_same_text_without_broken_characters(model, tokenizer, seed, temperature):
    prompt = tokenizer.encode("한때 ")
    asked = {"seed": seed, "temperature": temperature, "max_new_tokens": 30, "eos_token_id": ()}
    tokens = list(stream(model, tokenizer, prompt, **asked))
    made = generate(model, prompt, tokenizer=tokenizer, **asked)
    assert [token.id for token in tokens] == made.new_tokens[0]
    assert "".join(token.text for token in tokens) == made.texts[0]
    assert [token.finish_reason for token in tokens] == [None] * 29 + ["length"]


WRITINGS = st.text(st.sampled_from(list("ab \n끝가각👩‍👧🇰🇷é")), min_size=1, max_size=30)


@settings(max_examples=40)
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
