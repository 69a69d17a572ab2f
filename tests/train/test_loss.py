"""The chunked loss equals the plain one in value and gradients, and holds no more than a chunk of logits."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_run import PatternBatches, tiny_model
from torch import nn

from malmoi.train import loss as subject
from malmoi.train.loss import bits_per_byte, cross_entropy, evaluate, first_tokens, token_cross_entropy


def plain(hidden, labels, head):
    return F.cross_entropy(head(hidden).float().flatten(0, -2), labels.flatten(), ignore_index=-100, reduction="sum")


def case(seed, rows, columns, vocabulary, masked, width=8):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, columns, width, generator=generator, requires_grad=True)
    head = nn.Linear(width, vocabulary, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.randn(vocabulary, width, generator=generator))
    labels = torch.randint(0, vocabulary, (rows, columns), generator=generator)
    labels[torch.rand(rows, columns, generator=generator) < masked] = -100
    return hidden, labels, head


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    rows=st.integers(1, 3),
    columns=st.integers(1, 40),
    vocabulary=st.integers(2, 50),
    masked=st.sampled_from([0.0, 0.3, 1.0]),
    scale=st.sampled_from([1.0, 0.01]),
)
def test_equals_the_plain_loss_and_its_gradients(seed, rows, columns, vocabulary, masked, scale):
    hidden, labels, head = case(seed, rows, columns, vocabulary, masked)
    total, count = token_cross_entropy(hidden, labels, head)
    assert count == int((labels != -100).sum())
    (total * scale).backward()
    ours = hidden.grad.clone(), head.weight.grad.clone() if head.weight.grad is not None else 0 * head.weight
    hidden.grad = head.weight.grad = None
    expected = plain(hidden, labels, head)
    (expected * scale).backward()
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(ours[0], hidden.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours[1], head.weight.grad, rtol=1e-4, atol=1e-4)


def test_many_chunks_are_one(monkeypatch):
    hidden, labels, head = case(5, 4, 300, 30, 0.1)
    whole, _ = token_cross_entropy(hidden, labels, head)
    whole.backward()
    expected = hidden.grad.clone(), head.weight.grad.clone()
    hidden.grad = head.weight.grad = None
    monkeypatch.setattr(subject, "CHUNK_NUMBERS", 1)  # the least number of rows a chunk may have
    parts, _ = token_cross_entropy(hidden, labels, head)
    parts.backward()
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(hidden.grad, expected[0])
    torch.testing.assert_close(head.weight.grad, expected[1], rtol=1e-5, atol=1e-4)


def test_all_logits_never_stand_in_memory():
    """No tensor made on the way is as large as the logits would be."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else (out,):
                if isinstance(tensor, torch.Tensor):
                    largest = max(largest, tensor.numel())
            return out

    tokens, vocabulary = 4096, 65_536
    hidden, labels, head = case(0, 1, tokens, vocabulary, 0.0)
    with Watch():
        total, _ = token_cross_entropy(hidden, labels, head)
        total.backward()
    assert largest <= subject.CHUNK_IN_PLACE < tokens * vocabulary / 4


def test_gradients_are_taken_once():
    hidden, labels, head = case(0, 1, 8, 5, 0.0)
    total, _ = token_cross_entropy(hidden, labels, head)
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="taken already"):
        total.backward()


def test_a_head_that_is_watched_or_not_plain_still_counts():
    hidden, labels, head = case(2, 2, 10, 20, 0.2)
    expected = float(plain(hidden, labels, head).detach())
    seen = []
    head.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    assert token_cross_entropy(hidden, labels, head)[0].item() == pytest.approx(expected, rel=1e-5)
    assert seen
    assert token_cross_entropy(hidden, labels, lambda x: x @ head.weight.t())[0].item() == pytest.approx(
        expected, rel=1e-5
    )


def test_the_models_own_loss_is_the_same():
    """Aligned labels here, shifted labels there: one document a row makes them equal."""
    model = tiny_model()
    ids = torch.randint(0, 32, (2, 16), generator=torch.Generator().manual_seed(0))
    batch = PatternBatches(rows=2).batch(0)
    aligned = torch.cat([ids[:, 1:], torch.full((2, 1), -100)], dim=1)
    batch = type(batch)(ids, aligned, torch.arange(16).expand(2, 16), torch.zeros(2, 16, dtype=torch.long), 30, 30)
    nats, count = cross_entropy(model, batch)
    assert count == 30
    assert nats.item() / count == pytest.approx(model(ids, labels=ids).loss.item(), rel=1e-5)


def test_evaluation_is_the_mean_over_targets_without_dropout():
    batches = [PatternBatches(seed=3).batch(index) for index in range(3)]
    model = tiny_model(residual_dropout=0.5, embedding_dropout=0.5)
    model.train()
    first, second = evaluate(model, batches), evaluate(model, batches)
    assert first == second  # dropout is off
    assert model.training  # and the mode is given back
    sums = [cross_entropy(model.eval(), batch) for batch in batches]
    tokens = sum(count for _, count in sums)
    assert first.tokens == tokens == sum(batch.num_target_tokens for batch in batches)
    assert first.loss == pytest.approx(sum(nats.item() for nats, _ in sums) / tokens)
    assert first.bits_per_byte == pytest.approx(first.loss / math.log(2) / 2)  # two bytes a token there


def test_no_byte_counts_no_bits_per_byte():
    from dataclasses import replace

    batch = replace(PatternBatches().batch(0), num_bytes=None)
    assert evaluate(tiny_model(), [batch]).bits_per_byte is None
    assert math.isnan(evaluate(tiny_model(), []).loss)


def test_a_uniform_model_over_bytes_costs_eight_bits_a_byte():
    assert bits_per_byte(1000 * math.log(256), 1000) == pytest.approx(8)


def test_first_tokens_takes_whole_batches():
    batches = PatternBatches()
    all_of_them = [batches.batch(index) for index in range(10)]
    counts = [batch.num_target_tokens for batch in all_of_them]
    assert first_tokens(None, 10) == []
    assert len(first_tokens(all_of_them, counts[0] + 1)) == 2
    assert len(first_tokens(batches, 10**9)) == 10  # one epoch of an object that gives batches
    assert [b.num_target_tokens for b in first_tokens(iter(all_of_them), sum(counts[:3]))] == counts[:3]


@pytest.mark.parametrize("bias", [False, True])
def test_label_smoothing_is_in_the_gradient_and_not_in_the_value(bias):
    torch.manual_seed(0)
    hidden, labels = torch.randn(7, 8, requires_grad=True), torch.tensor([1, 2, -100, 0, 4, 4, 3])
    head = torch.nn.Linear(8, 5, bias=bias)
    total, count = token_cross_entropy(hidden, labels, head, label_smoothing=0.2)
    total.backward()
    mine = (hidden.grad.clone(), head.weight.grad.clone())
    plain, _ = token_cross_entropy(hidden.detach(), labels, head)
    assert count == 6 and total.item() == pytest.approx(plain.item(), rel=1e-6)
    hidden.grad = head.weight.grad = None
    logits = head(hidden)
    F.cross_entropy(logits, labels, ignore_index=-100, reduction="sum", label_smoothing=0.2).backward()
    torch.testing.assert_close(mine[0], hidden.grad, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(mine[1], head.weight.grad, rtol=1e-5, atol=1e-6)
