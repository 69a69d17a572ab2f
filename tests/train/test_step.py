"""One step: pieces add up to the whole, bad numbers are not learned from, dropout is a function of the step."""

import math
from dataclasses import replace

import pytest
import torch
from tiny_run import Batch, PatternBatches, tiny_model

from malmoi.config import TrainConfig
from malmoi.train.optimizer import build
from malmoi.train.precision import Precision
from malmoi.train.step import optimizer_step, seed_torch

FP32 = Precision(torch.float32, torch.float32, "cpu")
CONFIG = TrainConfig()


def one_step(model, micro_batches, *, step=0, seed=0, max_grad_norm=0.0, optimizer=None):
    return optimizer_step(
        model.train(),
        optimizer or build(model, CONFIG),
        micro_batches,
        learning_rate_factor=1.0,
        max_grad_norm=max_grad_norm,
        precision=FP32,
        seed=seed,
        step=step,
    )


def slice_rows(batch, rows):
    tensors = [tensor[rows] for tensor in (batch.input_ids, batch.labels, batch.position_ids, batch.document_ids)]
    return Batch(*tensors, num_target_tokens=int((tensors[1] != -100).sum()))


def test_accumulated_is_the_large_batch_however_unevenly_the_targets_fall():
    whole = PatternBatches(rows=8).batch(0)
    whole.labels[:3] = -100  # the first pieces hardly hold a target
    whole.labels[0, 0] = 5
    whole = replace(whole, num_target_tokens=int((whole.labels != -100).sum()))
    pieces = [slice_rows(whole, rows) for rows in (slice(0, 1), slice(1, 3), slice(3, 4), slice(4, 8))]
    assert [piece.num_target_tokens for piece in pieces][:2] == [1, 0]
    large, accumulated = tiny_model(), tiny_model()
    one, other = one_step(large, [whole]), one_step(accumulated, pieces)
    assert other.loss == pytest.approx(one.loss, rel=1e-6)
    assert other.grad_norm == pytest.approx(one.grad_norm, rel=1e-5)
    assert one.targets == other.targets == whole.num_target_tokens
    for a, b in zip(large.parameters(), accumulated.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_loss_is_the_mean_over_real_targets():
    batch, model = PatternBatches().batch(1), tiny_model()
    with torch.no_grad():
        hidden = model.hidden_states(batch.input_ids, position_ids=batch.position_ids, document_ids=batch.document_ids)
        expected = torch.nn.functional.cross_entropy(model.lm_head(hidden).flatten(0, 1), batch.labels.flatten())
    assert one_step(model, [batch]).loss == pytest.approx(float(expected), rel=1e-6)


def test_clipping_limits_the_norm_and_nothing_else():
    seen = []

    class Spy:
        def __init__(self, optimizer):
            self.inner = optimizer

        def __getattr__(self, name):
            return getattr(self.inner, name)

        def step(self):
            seen.append(float(self.inner.grad_norm()))
            self.inner.step()

    batch = PatternBatches().batch(0)
    for limit in (0.0, 0.05, 1e9):
        model = tiny_model()
        result = one_step(model, [batch], max_grad_norm=limit, optimizer=Spy(build(model, CONFIG)))
        assert result.applied
    assert seen[0] == pytest.approx(seen[2]) == pytest.approx(result.grad_norm)  # reported before clipping
    assert seen[1] == pytest.approx(0.05, rel=1e-4)


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_a_bad_number_leaves_everything_as_it_was(poison):
    model = tiny_model()
    optimizer = build(model, CONFIG)
    assert one_step(model, [PatternBatches().batch(0)], optimizer=optimizer).applied
    with torch.no_grad():
        model.model.norm.weight[3] = poison
    before = [p.clone() for p in model.parameters()]
    state = {name: tensor.clone() for name, tensor in optimizer.state_tensors().items()}
    result = one_step(model, [PatternBatches().batch(1)], optimizer=optimizer)
    assert not result.applied and not (math.isfinite(result.loss) and math.isfinite(result.grad_norm))
    assert all(
        torch.equal(
            a,
            b,
        )
        or a.isnan().any()
        for a, b in zip(model.parameters(), before, strict=True)
    )
    assert all(torch.equal(tensor, state[name]) for name, tensor in optimizer.state_tensors().items())
    assert all(p.grad is None for p in model.parameters())


def test_nothing_to_learn_is_not_a_step():
    batch = PatternBatches().batch(0)
    empty = replace(batch, labels=torch.full_like(batch.labels, -100), num_target_tokens=0)
    model = tiny_model()
    before = [p.clone() for p in model.parameters()]
    result = one_step(model, [empty])
    assert not result.applied and result.targets == 0
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))


def test_dropout_is_a_function_of_seed_step_and_micro_batch():
    batch = PatternBatches().batch(0)

    def loss(**where):
        torch.rand(int(torch.randint(1, 50, ())))  # whatever was drawn before
        return one_step(tiny_model(residual_dropout=0.3, embedding_dropout=0.2), [batch], **where).loss

    assert loss(seed=1, step=5) == loss(seed=1, step=5)
    assert len({loss(seed=1, step=5), loss(seed=1, step=6), loss(seed=2, step=5)}) == 3
    same_twice = one_step(tiny_model(residual_dropout=0.3), [batch, batch]).loss
    assert same_twice != one_step(tiny_model(residual_dropout=0.3), [batch]).loss  # the second draws anew


def test_the_generators_of_the_step_are_set_as_torch_sets_them(monkeypatch):
    seed_torch(torch.device("cpu"), 7)
    drawn = torch.rand(9)
    torch.manual_seed(7)
    assert torch.equal(drawn, torch.rand(9))
    seen = []
    monkeypatch.setattr(torch.cuda, "manual_seed", seen.append)
    seed_torch(torch.device("cuda"), 8)
    assert seen == [8] and torch.initial_seed() == 8
    seed_torch(torch.device("meta"), 9)  # a rehearsal: nothing but the processor draws
    assert seen == [8]


def test_routers_balance_is_part_of_what_is_learned():
    settings = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    with_balance = tiny_model(**settings, router_aux_loss_coef=1.0)
    without = tiny_model(**settings, router_aux_loss_coef=0.0)
    one, other = one_step(with_balance, [PatternBatches().batch(0)]), one_step(without, [PatternBatches().batch(0)])
    assert one.loss == pytest.approx(other.loss)  # what is reported is the language model's loss
    assert one.grad_norm != pytest.approx(other.grad_norm, rel=1e-4)
