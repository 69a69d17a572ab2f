"""Bits per byte against the plain way: one document, one window, one token after the other."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.config import MalmoiError, ModelConfig
from malmoi.data.corpus import Document
from malmoi.evaluate import bits_per_byte
from malmoi.evaluate.perplexity import windows
from malmoi.model.gpt import GPT4LMHeadModel
from malmoi.tokens import chat, vocabulary

CONTEXT = 24
TEXTS = [
    "한때 작은 마을에 할머니가 살았어요. 비가 오면 고양이와 함께 책을 읽었어요.",
    "Once upon a time there was a small village. An old woman read books with her cat. " * 3,
    "Il était une fois un petit village 👩‍👩‍👧.",
    "",
    "a",
]


@pytest.fixture(scope="module")
def tokenizer():
    return vocabulary.learn(TEXTS * 3, 340)


@pytest.fixture(scope="module")
def model(tokenizer):
    config = ModelConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
        initializer_range=0.2,
        residual_dropout=0.5,
    )
    return GPT4LMHeadModel(config)


def plain(model, ids, scored):
    """(nats, tokens) the plain way; of a long document, each token from a window that ends just before it."""
    model.eval()
    nats, tokens = 0.0, 0
    for at in range(1, len(ids)):
        if scored[at]:
            start = next(start for start, end, first in windows(len(ids), CONTEXT) if first <= at <= end)
            with torch.no_grad():
                logits = model(torch.tensor([ids[start:at]])).logits[0, -1].double()
            nats -= float(logits.log_softmax(-1)[ids[at]])
            tokens += 1
    return nats, tokens


@pytest.mark.parametrize("count_eos", [True, False])
@pytest.mark.parametrize("batch_tokens", [1, 40, 4096])
def test_documents_are_scored_as_one_by_one(model, tokenizer, count_eos, batch_tokens):
    nats = tokens = size = 0
    for text in TEXTS:
        ids = tokenizer.encode(text)
        if not ids:
            continue
        size += len(text.encode()) - len(tokenizer.token_bytes(ids[0]))
        if count_eos:
            ids = [*ids, tokenizer.eos_token_id]
        more, count = plain(model, ids, [True] * len(ids))
        nats, tokens = nats + more, tokens + count
    model.train()
    found = bits_per_byte(model, tokenizer, TEXTS, count_eos=count_eos, batch_tokens=batch_tokens)
    assert model.training
    assert (found["tokens"], found["bytes"], found["documents"]) == (tokens, size, 4)
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / size, rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(nats / tokens), rel=1e-5)
    assert found["perplexity_per_byte"] == pytest.approx(math.exp(nats / size), rel=1e-5)
    assert found["perplexity_per_word"] == pytest.approx(math.exp(nats / found["words"]), rel=1e-4)


def test_who_knows_nothing_needs_the_logarithm_of_the_vocabulary(tokenizer):
    model = GPT4LMHeadModel(ModelConfig(vocab_size=len(tokenizer), hidden_size=24, max_position_embeddings=CONTEXT))
    with torch.no_grad():
        model.lm_head.weight.zero_()
    found = bits_per_byte(model, tokenizer, TEXTS)
    assert found["perplexity"] == pytest.approx(len(tokenizer))
    assert found["bits_per_byte"] == pytest.approx(math.log2(len(tokenizer)) * found["tokens"] / found["bytes"])


@given(st.integers(0, 500), st.integers(1, 60))
def test_windows_score_every_token_once_with_half_a_context_before_it(length, context):
    scored = []
    for start, end, first in windows(length, context):
        assert 0 <= start < first <= end < length
        assert end - start <= context
        if start > 0:
            assert first - start >= context // 2  # tokens that the first scored one is predicted from
            assert end - start == context
        scored += range(first, end + 1)
    assert scored == list(range(1, length))


@settings(max_examples=10, deadline=None)
@given(st.lists(st.sampled_from(TEXTS), min_size=1, max_size=6).filter(lambda texts: any(len(t) > 1 for t in texts)))
def test_the_order_and_the_company_of_documents_do_not_matter(model, tokenizer, texts):
    found, turned = bits_per_byte(model, tokenizer, texts), bits_per_byte(model, tokenizer, texts[::-1])
    parts = [bits_per_byte(model, tokenizer, [text]) for text in texts if len(text) > 1]
    parts += [{"loss": 0, "tokens": 0}]
    single = sum(plain(model, [*tokenizer.encode("a"), 0], [1, 1])[0] for text in texts if text == "a")
    assert turned["bits_per_byte"] == pytest.approx(found["bits_per_byte"], rel=1e-6)
    total = sum(part["loss"] * part["tokens"] for part in parts) + single
    assert found["loss"] * found["tokens"] == pytest.approx(total, rel=1e-5)


def test_of_a_conversation_only_the_assistants_words_are_scored(model, tokenizer):
    messages = ({"role": "user", "content": "비가 와요?"}, {"role": "assistant", "content": "Oui, il pleut."})
    ids, mask = chat.render(tokenizer, messages)
    nats, tokens = plain(model, ids, mask)
    found = bits_per_byte(model, tokenizer, [Document(messages=messages)])
    assert (found["tokens"], found["bytes"], found["words"]) == (tokens, len(b"Oui, il pleut."), 3)
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / found["bytes"], rel=1e-5)
    assert bits_per_byte(model, tokenizer, [Document(messages=messages)], count_eos=False)["tokens"] == tokens - 1


def test_a_single_text_a_document_and_progress(model, tokenizer):
    seen = []
    found = bits_per_byte(model, tokenizer, TEXTS[0], progress=lambda *numbers: seen.append(numbers))
    assert found == bits_per_byte(model, tokenizer, [Document(text=TEXTS[0])])
    assert seen == [(1, found["bytes"])]


@pytest.mark.parametrize(
    ("documents", "says"),
    [
        ([], "nothing to measure"),
        (["", ""], "nothing to measure"),
        (["a"], "nothing to measure"),  # its only byte is the first token
        ([b"bytes"], "Document 1 is bytes"),
        (["fine", 7], "Document 2 is int"),
        (["half \ud83d"], "surrogate"),
    ],
    ids=str,
)
def test_what_cannot_be_measured(model, tokenizer, documents, says):
    with pytest.raises(MalmoiError, match=says):
        bits_per_byte(model, tokenizer, documents)


def test_a_model_that_predicts_nan_and_a_tokenizer_of_another_model(tokenizer):
    small = ModelConfig(vocab_size=len(tokenizer), hidden_size=24, num_hidden_layers=1, max_position_embeddings=CONTEXT)
    model = GPT4LMHeadModel(small)
    with torch.no_grad():
        model.model.norm.weight[0] = math.nan
    with pytest.raises(MalmoiError, match="NaN"):
        bits_per_byte(model, tokenizer, TEXTS)
    with pytest.raises(MalmoiError, match="vocabulary only 300"):
        bits_per_byte(GPT4LMHeadModel(small.replace(vocab_size=300)), tokenizer, TEXTS)
