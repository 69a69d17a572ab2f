"""What a process holds after `parallelize`, and recomputation, which changes no gradient."""

import pytest
import torch
from crew import a_job_of_one
from tiny_run import PatternBatches, tiny_model

from malmoi.config import ParallelConfig, TrainConfig
from malmoi.train.layout import layout
from malmoi.train.loss import cross_entropy
from malmoi.train.parallel import build_mesh, local, parallelize, recompute


@pytest.mark.parametrize("how", ["selective", "full"])
def test_recomputed_activations_give_the_same_gradients(how):
    batch = PatternBatches().batch(0)
    plain, frugal = tiny_model(residual_dropout=0.1).train(), tiny_model(residual_dropout=0.1).train()
    for block in frugal.model.layers:
        recompute(block, how)
    losses = []
    for model in (plain, frugal):
        torch.manual_seed(1)
        losses.append(cross_entropy(model, batch)[0])
        losses[-1].backward()
    assert torch.equal(*losses)
    for one, other in zip(plain.parameters(), frugal.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_full_recomputation_keeps_less():
    def kept(how):
        model, sizes = tiny_model().train(), []
        for block in model.model.layers:
            recompute(block, how)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            cross_entropy(model, PatternBatches().batch(0))
        return sum(sizes)

    assert kept("full") < kept("none") / 2


def test_a_job_of_one_holds_everything_under_the_same_names(tmp_path):
    model = tiny_model()
    names, values = zip(*((name, value.detach().clone()) for name, value in model.named_parameters()), strict=True)
    with a_job_of_one(tmp_path):
        train = TrainConfig(sequence_length=16, per_device_train_batch_size=4)
        grid = layout(ParallelConfig(), 1, model.config, train)
        parts = parallelize(model, grid, ParallelConfig(), build_mesh(grid, "cpu"))
        held = dict(model.named_parameters())
        assert tuple(held) == names
        assert all(torch.equal(local(held[name]), value) for name, value in zip(names, values, strict=True))
        assert all(parts.share(name, value) == 1 for name, value in held.items())
