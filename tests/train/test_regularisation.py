"""Every setting that shall keep a model from learning by heart does what it says, where it says."""

import math

import pytest
import torch
from tiny_run import PatternBatches, tiny_model

from malmoi.config import TrainConfig
from malmoi.train.optimizer import build
from malmoi.train.precision import Precision
from malmoi.train.step import optimizer_step

FP32 = Precision(torch.float32, torch.float32, "cpu")
DROPOUTS = ("attention_dropout", "residual_dropout", "embedding_dropout")


def hidden(model, seed):
    batch = PatternBatches().batch(0)
    torch.manual_seed(seed)
    with torch.no_grad():
        return model.hidden_states(batch.input_ids, position_ids=batch.position_ids, document_ids=batch.document_ids)


@pytest.mark.parametrize("name", DROPOUTS)
@pytest.mark.parametrize("changes", [{}, {"num_experts": 4, "num_experts_per_tok": 2}], ids=["dense", "experts"])
def test_each_dropout_alone_changes_training_and_nothing_else(name, changes):
    plain, dropping = tiny_model(**changes), tiny_model(**changes, **{name: 0.3})
    assert torch.equal(hidden(plain.eval(), 1), hidden(dropping.eval(), 1))
    assert torch.equal(hidden(plain.train(), 1), hidden(plain.train(), 2))
    one, again, other = (hidden(dropping.train(), seed) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.allclose(one, other) and not torch.allclose(one, hidden(dropping.eval(), 1))


def test_embedding_dropout_drops_its_share_and_keeps_the_mean():
    """What enters the first block: a share of it is nothing, the rest larger, so that the sum stays what it was."""
    dropping = tiny_model(embedding_dropout=0.3, hidden_size=64)
    entered = []
    dropping.model.layers[0].register_forward_pre_hook(lambda _, given: entered.append(given[0]))
    hidden(dropping.eval(), 0)
    hidden(dropping.train(), 0)
    whole, dropped = entered
    gone = dropped == 0
    assert float(gone.float().mean()) == pytest.approx(0.3, abs=0.02)
    torch.testing.assert_close(dropped[~gone], whole[~gone] / 0.7)


def test_attention_dropout_keeps_the_mean():
    """Averaged over many draws, attention with dropout is attention without."""
    dropping = tiny_model(attention_dropout=0.2)
    seen = []
    dropping.model.layers[0].self_attn.register_forward_hook(
        lambda _m, _i, out: seen.append(out[0] if isinstance(out, tuple) else out)
    )
    hidden(dropping.eval(), 0)
    for seed in range(150):
        hidden(dropping.train(), seed)
    whole, mean = seen[0], torch.stack(seen[1:]).mean(0)
    noise = torch.stack(seen[1:]).std(0).max() / math.sqrt(150)
    assert float((mean - whole).abs().max()) < 6 * float(noise) and float(noise) > 0


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_weight_decay_shrinks_matrices_by_its_rate_and_no_norm(optimizer):
    """With gradients of zero nothing else moves them."""
    config = TrainConfig(optimizer=optimizer, weight_decay=0.5, learning_rate=0.1, matrix_learning_rate=0.2)
    model = tiny_model()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    made = build(model, config)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    made.set_learning_rate_factor(0.5)  # the decay follows the learning rate down
    made.step()
    shares = {}
    for name, parameter in model.named_parameters():
        moved = before[name].abs() > 1e-3
        share = (parameter.detach() / before[name])[moved]
        shares[name] = float(share.mean())
        assert float(share.max() - share.min()) < 1e-5, name
    matrix = 1 - 0.5 * 0.5 * (0.2 if optimizer == "muon" else 0.1)
    assert shares["model.layers.0.mlp.down_proj.weight"] == pytest.approx(matrix, abs=1e-5)
    assert shares["model.norm.weight"] == shares["model.layers.1.input_layernorm.weight"] == 1.0


def test_a_gradient_that_is_no_number_is_seen_though_the_loss_is_one():
    model = tiny_model()
    optimizer = build(model, TrainConfig())
    batches = [PatternBatches().batch(number) for number in range(2)]
    how = {"learning_rate_factor": 1.0, "max_grad_norm": 1.0, "precision": FP32, "seed": 0, "step": 0}
    assert optimizer_step(model, optimizer, batches, **how).applied
    before = [parameter.detach().clone() for parameter in model.parameters()]
    state = {name: tensor.clone() for name, tensor in optimizer.state_tensors().items()}
    for poison in (math.inf, math.nan):
        hook = model.model.layers[0].mlp.down_proj.weight.register_hook(lambda gradient, by=poison: gradient * by)
        result = optimizer_step(model, optimizer, batches, **how)
        hook.remove()
        assert math.isfinite(result.loss) and not math.isfinite(result.grad_norm) and not result.applied
        assert all(torch.equal(a, b) and a.grad is None for a, b in zip(model.parameters(), before, strict=True))
        assert all(torch.equal(tensor, state[name]) for name, tensor in optimizer.state_tensors().items())
    assert optimizer_step(model, optimizer, batches, **how).applied
