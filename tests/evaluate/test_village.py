"""The Village's measure: the count is right, the interval is right, batching changes nothing, and learning shows."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from malmoi.config import MalmoiError, ModelConfig
from malmoi.data import village
from malmoi.evaluate import village as measure
from malmoi.evaluate import village_accuracy
from malmoi.evaluate.village import complete, wilson
from malmoi.generate.engine import generate
from malmoi.model.gpt import GPT4LMHeadModel
from malmoi.tokens import vocabulary


def words(document):
    return document.text or "\n".join(message["content"] for message in document.messages)


@pytest.fixture(scope="module")
def tokenizer():
    return vocabulary.learn((words(document) for document in village.documents(0, stop=300)), 600)


def build(tokenizer, **changes):
    config = {
        "vocab_size": len(tokenizer),
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "initializer_range": 0.1,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return GPT4LMHeadModel(ModelConfig(**{**config, **changes}))


def some_examples(n=2):
    return [
        example
        for task in village.TASKS
        for label in village.labels(task)
        for example in village.examples(task, label, n, seed=3)
    ]


def test_answers_are_counted_where_they_belong(monkeypatch, tokenizer):
    """A stand-in for the model that is right in what the test says: French always, the first of each other place."""

    def answers(model, tokenizer, examples, *, progress):
        seen, made = set(), []
        for example in examples:
            right = example.language.endswith("fr") or (example.task, example.language) not in seen
            seen.add((example.task, example.language))
            made.append(example.answer if right else None if example.task == "story" else "?")
        return made

    monkeypatch.setattr(measure, "complete", answers)
    found = village_accuracy(None, tokenizer, n_per_task=4)
    assert [(row["task"], row["language"]) for row in found["rows"]] == [
        (task, label) for task in village.TASKS for label in village.labels(task)
    ]
    for row in found["rows"]:
        french = row["language"].endswith("fr")
        assert (row["n"], row["correct"], row["exact"]) == ((4, 4, 1.0) if french else (4, 1, 0.25))
        assert row["too_long"] == (3 if row["task"] == "story" and not french else 0)
        assert (row["low"], row["high"]) == wilson(row["correct"], 4)
    assert (found["tasks"]["translation"]["n"], found["tasks"]["translation"]["correct"]) == (24, 2 * 4 + 4)
    assert found["languages"]["fr"]["exact"] == 1
    assert found["languages"]["ko"]["n"] == found["languages"]["en"]["n"] == 4 * (len(village.TASKS) + 1)
    assert found["total"]["n"] == 4 * len(found["rows"])
    assert found["total"]["correct"] == sum(row["correct"] for row in found["rows"])


def test_every_example_is_of_the_split_that_was_asked_for(monkeypatch, tokenizer):
    asked = []
    monkeypatch.setattr(measure, "complete", lambda m, t, examples, progress: asked.append(examples) or [""] * 6)
    for split in ("held_out", "train"):
        found = village_accuracy(None, tokenizer, 2, 5, ["question1"], split=split)
        assert (found["split"], found["seed"]) == (split, 5)
        expected = [e for label in village.LANGUAGES for e in village.examples("question1", label, 2, 5, split)]
        assert asked.pop() == expected


def test_together_as_one_by_one(tokenizer):
    """Whatever the company, a row writes what it would write alone: text or chat, to the end of its line or turn."""
    model = build(tokenizer, initializer_range=0.2)
    examples = some_examples(1)
    made = complete(model, tokenizer, examples)
    smaller = complete(model, tokenizer, examples, batch=5)
    for example, text, again in zip(examples, made, smaller, strict=True):
        (prompt,) = measure._prompts(tokenizer, [example])
        budget = len(tokenizer.encode(example.answer))
        alone = generate(
            model, prompt, tokenizer=tokenizer, do_sample=False, max_new_tokens=budget, stop_strings="\n",
            eos_token_id=(tokenizer.eos_token_id, tokenizer.special_tokens["<|end|>"]),
        )  # fmt: skip
        assert text.startswith(alone.texts[0])  # a batch gives every row as much room as its longest answer needs
        assert again.startswith(alone.texts[0])
        assert "\n" not in text


def test_what_was_learned_by_heart_is_found_again(tokenizer):
    """The whole way once, with a model that has learned some answers: they are exact, and others are not."""
    model = build(tokenizer, hidden_size=64)
    known = [e for e in some_examples(1) if e.task == "translation"] + [e for e in some_examples(1) if e.messages][:1]
    prompts = measure._prompts(tokenizer, known)
    end = [tokenizer.special_tokens["<|end|>"]]
    rows = [
        [*prompt, *tokenizer.encode(e.answer), *(tokenizer.encode("\n") if e.messages is None else end)]
        for prompt, e in zip(prompts, known, strict=True)
    ]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    labels = torch.tensor(
        [
            [-100] * len(prompt) + row[len(prompt) :] + [-100] * (width - len(row))
            for prompt, row in zip(prompts, rows, strict=True)
        ]
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, betas=(0.9, 0.95))
    for _ in range(150):
        loss = model(ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if loss < 0.02:
            break
    made = complete(model, tokenizer, known, batch=4)
    assert [village.is_correct(e, text) for e, text in zip(known, made, strict=True)] == [True] * len(known)
    found = village_accuracy(model, tokenizer, n_per_task=2, seed=99, tasks=["arithmetic"])
    assert found["total"]["correct"] < found["total"]["n"]


def test_a_prompt_without_room_counts_as_wrong(tokenizer):
    model = build(tokenizer, max_position_embeddings=16)
    done = []
    found = village_accuracy(model, tokenizer, 1, tasks="question2", progress=lambda *numbers: done.append(numbers))
    assert found["total"] == {**found["total"], "n": 3, "correct": 0, "too_long": 3}
    assert done == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"tasks": ["translaton"]}, "Did you mean 'translation'"),
        ({"tasks": []}, "No task"),
        ({"n_per_task": 0}, "n_per_task=0"),
        ({"split": "test"}, "split"),
    ],
    ids=str,
)
def test_mistakes_are_explained(tokenizer, arguments, says):
    with pytest.raises(MalmoiError, match=says):
        village_accuracy(None, tokenizer, **arguments)


@given(st.integers(1, 2000), st.data())
def test_wilsons_interval_is_where_the_normal_test_stops_rejecting(n, data):
    correct = data.draw(st.integers(0, n))
    low, high = wilson(correct, n)
    assert 0 <= low <= correct / n <= high <= 1
    for bound in (low, high):
        if 0 < bound < 1:
            deviation = abs(correct / n - bound) / math.sqrt(bound * (1 - bound) / n)
            assert deviation == pytest.approx(1.959964, rel=1e-5)


def test_wilsons_interval_has_the_published_values():
    assert wilson(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert wilson(0, 10) == (0.0, pytest.approx(0.2775, abs=1e-4))
    assert wilson(10, 10) == (pytest.approx(0.7225, abs=1e-4), 1.0)
    with pytest.raises(MalmoiError):
        wilson(3, 2)
