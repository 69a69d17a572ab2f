"""Muon against its definition, the division of parameters, and a state that survives the disk bit for bit."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_run import PatternBatches, tiny_model

from malmoi.config import MalmoiError, TrainConfig
from malmoi.train.optimizer import Muon, build, is_hidden_matrix, orthogonalize


def gradients(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def reference_muon(weight, momentum_buffer, gradient, lr, momentum, weight_decay):
    """One matrix, as Jordan's text has it, in float64."""
    buffer = momentum * momentum_buffer + (1 - momentum) * gradient
    x = (1 - momentum) * gradient + momentum * buffer
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    x = x.T if tall else x
    return weight * (1 - lr * weight_decay) - lr * max(1, weight.shape[0] / weight.shape[1]) ** 0.5 * x, buffer


@pytest.mark.parametrize("shape", [(8, 8), (6, 20), (20, 6)])
def test_singular_values_come_close_to_one(shape):
    matrix = torch.randn(1, min(shape), max(shape), generator=torch.Generator().manual_seed(3))
    values = torch.linalg.svdvals(orthogonalize(matrix)[0])
    assert values.min() > 0.5 and values.max() < 1.3
    assert torch.equal(orthogonalize(torch.zeros(2, 3, 5)), torch.zeros(2, 3, 5))


@pytest.mark.parametrize("shape", [(2, 128, 256), (1, 400, 400), (2, 400, 1100)])  # squares alone, stripes, both
@pytest.mark.parametrize("depth", [0.0, -6.0], ids=["even", "steep"])
def test_short_cuts_of_large_matrices_are_the_rounds_as_written(shape, depth):
    """Also where one singular value is a million times another, and what little float32 loses is far below Muon's own
    tolerance of [0.7, 1.2]."""
    matrices = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    matrices *= torch.logspace(0, depth, shape[2], dtype=torch.float64)
    x = matrices / torch.linalg.vector_norm(matrices, dim=(1, 2), keepdim=True)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    torch.testing.assert_close(orthogonalize(matrices), x, rtol=0, atol=1e-5 * x.abs().max().item())
    single = orthogonalize(matrices.float()).double()
    assert (single - x).norm() < 5e-4 * x.norm()
    assert torch.equal(orthogonalize(torch.zeros(shape)), torch.zeros(shape))


def test_muon_is_its_definition_for_every_shape_at_once():
    shapes = [(8, 8), (8, 12), (12, 8), (8, 8), (4, 8)]
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    parameters = [torch.nn.Parameter(weight.clone()) for weight in weights]
    muon = Muon(parameters, lr=0.03, momentum=0.9, weight_decay=0.2, compute_dtype=torch.float64)
    buffers = [torch.zeros_like(weight) for weight in weights]
    for _ in range(3):
        for index, parameter in enumerate(parameters):
            gradient = torch.randn(shapes[index], generator=generator, dtype=torch.float64)
            parameter.grad = gradient.clone()
            weights[index], buffers[index] = reference_muon(weights[index], buffers[index], gradient, 0.03, 0.9, 0.2)
        muon.step()
    for parameter, weight in zip(parameters, weights, strict=True):
        torch.testing.assert_close(parameter.data, weight, rtol=1e-9, atol=1e-9)


def test_a_stack_of_experts_is_each_of_its_matrices():
    stack = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(1))
    gradient = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(2))
    together, alone = torch.nn.Parameter(stack.clone()), [torch.nn.Parameter(one.clone()) for one in stack]
    together.grad = gradient.clone()
    for one, part in zip(alone, gradient, strict=True):
        one.grad = part.clone()
    Muon([together]).step()
    Muon(alone).step()
    torch.testing.assert_close(together.data, torch.stack([one.data for one in alone]))


def test_muon_refuses_what_is_no_matrix():
    with pytest.raises(MalmoiError, match=r"shape \(5,\)"):
        Muon([torch.nn.Parameter(torch.zeros(5))])


@pytest.mark.parametrize("tied", [True, False])
def test_hidden_matrices_go_to_muon_and_only_they_decay(tied):
    model = tiny_model(tie_word_embeddings=tied)
    hidden = is_hidden_matrix(model)
    assert hidden["model.layers.0.self_attn.q_proj.weight"] and hidden["model.layers.1.mlp.down_proj.weight"]
    others = [name for name, is_hidden in hidden.items() if not is_hidden]
    assert all("norm" in name or "embed" in name or name.startswith("lm_head") for name in others)
    for kind in ("muon", "adamw"):
        optimizer = build(model, TrainConfig(optimizer=kind, weight_decay=0.5))
        owned = list(optimizer.parameters())
        assert {id(p) for p in owned} == {id(p) for p in model.parameters()} and len(owned) == len(set(map(id, owned)))
        decaying = {
            optimizer.names[parameter]
            for member in optimizer.members
            for group in member.param_groups
            for parameter in group["params"]
            if group["weight_decay"]
        }
        assert decaying == {name for name, is_hidden in hidden.items() if is_hidden}
        in_muon = {
            optimizer.names[p] for m in optimizer.members if isinstance(m, Muon) for p in m.param_groups[0]["params"]
        }
        assert in_muon == (decaying if kind == "muon" else set())


def test_nothing_to_train_is_said():
    model = tiny_model().requires_grad_(False)
    with pytest.raises(MalmoiError, match="no trainable parameter"):
        build(model, TrainConfig())


def test_the_factor_moves_every_learning_rate():
    optimizer = build(tiny_model(), TrainConfig(learning_rate=0.004, matrix_learning_rate=0.08))
    optimizer.set_learning_rate_factor(0.25)
    assert [member.param_groups[0]["lr"] for member in optimizer.members] == [0.02, 0.001]


def test_norm_and_scaling_of_all_gradients():
    model = tiny_model()
    optimizer = build(model, TrainConfig())
    gradients(model, 0)
    expected = torch.sqrt(sum((p.grad.double() ** 2).sum() for p in model.parameters()))
    assert float(optimizer.grad_norm()) == pytest.approx(float(expected), rel=1e-6)
    before = [p.grad.clone() for p in model.parameters()]
    optimizer.scale_gradients(0.5)
    assert all(torch.equal(p.grad, 0.5 * b) for p, b in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("kind", ["muon", "adamw"])
@pytest.mark.parametrize("muon_dtype", [torch.float32, torch.bfloat16])
def test_the_state_survives_the_disk_bit_for_bit(kind, muon_dtype, tmp_path):
    config = TrainConfig(optimizer=kind)
    straight = tiny_model()
    optimizer = build(straight, config, muon_dtype)
    for seed in range(3):
        gradients(straight, seed)
        optimizer.step()
    save_file(
        {name: tensor.contiguous() for name, tensor in optimizer.state_tensors().items()}, tmp_path / "o.safetensors"
    )
    resumed = tiny_model()
    resumed.load_state_dict(straight.state_dict())
    other = build(resumed, config, muon_dtype)
    other.load_state_tensors(load_file(tmp_path / "o.safetensors"))
    assert other.state_tensors().keys() == optimizer.state_tensors().keys() != set()
    for seed in (7, 8):
        for model, one in ((straight, optimizer), (resumed, other)):
            gradients(model, seed)
            one.step()
    for a, b in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    for name, tensor in optimizer.state_tensors().items():
        assert torch.equal(tensor, other.state_tensors()[name]), name


def test_a_state_of_another_model_is_refused():
    optimizer = build(tiny_model(), TrainConfig())
    with pytest.raises(MalmoiError, match=r"no parameter 'model\.layers\.9\.weight'"):
        optimizer.load_state_tensors({"model.layers.9.weight:momentum_buffer": torch.zeros(2, 2)})
    with pytest.raises(MalmoiError, match=r"shape \(2, 2\)"):
        optimizer.load_state_tensors({"model.embed_tokens.weight:exp_avg": torch.zeros(2, 2)})


def test_muon_learns_a_pattern_faster_than_it_began():
    from malmoi.train.loss import cross_entropy

    model, batches = tiny_model(), PatternBatches()
    optimizer = build(model, TrainConfig())
    losses = []
    for step in range(40):
        nats, count = cross_entropy(model, batches.batch(step))
        (nats / count).backward()
        losses.append(float(nats.detach()) / count)
        optimizer.set_learning_rate_factor(1.0)
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.7 * losses[0]
