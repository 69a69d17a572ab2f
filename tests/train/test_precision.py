"""bfloat16 through a working copy: close to float32, exact in what must be exact."""

import pytest
import torch

from malmoi.config import MalmoiError, ModelConfig, TrainConfig
from malmoi.model.gpt import GPT4LMHeadModel
from malmoi.train import optimizer, precision
from malmoi.train.loss import cross_entropy
from malmoi.train.precision import Precision
from malmoi.train.step import optimizer_step

CPU = torch.device("cpu")
BF16 = Precision(torch.bfloat16, torch.float32, "cpu")
FP32 = Precision(torch.float32, torch.float32, "cpu")


class Batch:
    def __init__(self, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.input_ids = torch.randint(2, 50, (4, 24), generator=generator)
        self.labels = self.input_ids.roll(-1, dims=1)
        self.labels[:, -1] = -100
        self.position_ids = torch.arange(24).expand(4, 24)
        self.document_ids = torch.zeros(4, 24, dtype=torch.long)
        self.num_target_tokens = 4 * 23


def build(tie=True):
    config = ModelConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, tie_word_embeddings=tie
    )
    return GPT4LMHeadModel(config)


def steps(model, how, count, seed=0):
    optimizers = optimizer.build(model, TrainConfig())
    return [
        optimizer_step(
            model,
            optimizers,
            [Batch(seed + step)],
            learning_rate_factor=1.0,
            max_grad_norm=1.0,
            precision=how,
            seed=0,
            step=step,
        )
        for step in range(count)
    ]


@pytest.mark.parametrize("tie", [True, False])
def test_close_to_float32(tie):
    wide = steps(build(tie), FP32, 6)
    rounded = steps(build(tie), BF16, 6)
    for one, other in zip(wide, rounded, strict=True):
        assert abs(one.loss - other.loss) < 0.03
        assert one.loss != other.loss  # it really was computed otherwise
    assert rounded[-1].loss < rounded[0].loss + 0.2


def test_the_copy_shares_the_table_and_follows_the_weights():
    model = build()
    work = BF16.working(model)
    assert work.model.embed_tokens.weight is model.model.embed_tokens.weight
    assert work.lm_head.weight is model.lm_head.weight
    q = model.model.layers[0].self_attn.q_proj.weight
    copied = work.model.layers[0].self_attn.q_proj.weight
    assert copied.dtype == torch.bfloat16
    assert q.dtype == torch.float32
    with torch.no_grad():
        q.add_(1.0)
    assert BF16.working(model) is work
    assert torch.equal(copied, q.bfloat16())
    assert work.model.embed_tokens(torch.tensor([3])).dtype == torch.bfloat16
    assert model.model.embed_tokens(torch.tensor([3])).dtype == torch.float32


def test_gradients_are_gathered_in_float32_over_micro_batches():
    model, work = build(), None
    total = {}
    for seed in (1, 2):
        work = BF16.working(model)
        nats, _ = cross_entropy(work, Batch(seed))
        nats.backward()
        for name, parameter in work.named_parameters():
            if parameter.dtype == torch.bfloat16:
                total[name] = total.get(name, 0) + parameter.grad.float()
        BF16.gather(model, work)
        assert all(p.grad is None for p in work.parameters() if p.dtype == torch.bfloat16)
    named = dict(model.named_parameters())
    for name, gradient in total.items():
        assert torch.equal(named[name].grad, gradient), name
    assert named["model.embed_tokens.weight"].grad.dtype == torch.float32


def test_a_repeated_run_is_bitwise_the_same():
    one, other = build(), build()
    steps(one, BF16, 4)
    steps(other, BF16, 4)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_what_dtype_means(monkeypatch):
    monkeypatch.setattr(precision, "has_fast_bfloat16", lambda device: False)
    assert precision.resolve(TrainConfig(), CPU).compute == torch.float32
    with pytest.raises(MalmoiError, match="bfloat16"):
        precision.resolve(TrainConfig(dtype="bfloat16"), CPU)
    monkeypatch.setattr(precision, "has_fast_bfloat16", lambda device: True)
    assert precision.resolve(TrainConfig(), CPU).compute == torch.bfloat16
    assert precision.resolve(TrainConfig(dtype="float32"), CPU).compute == torch.float32


@pytest.fixture
def quick_compiler(monkeypatch):
    """Follows the blocks as the real one does, and lets torch compute what it found."""
    monkeypatch.setattr(precision, "COMPILER", "eager")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_blocks_learn_the_same_and_the_model_stays_as_it_was(quick_compiler, dtype):
    plain, compiled = build(), build()
    steps(plain, Precision(dtype, torch.float32, "cpu"), 3)
    how = Precision(dtype, torch.float32, "cpu", torch_compile=True)
    steps(compiled, how, 3)
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    for ours, theirs in zip(compiled.parameters(), plain.parameters(), strict=True):
        assert (ours - theirs).abs().max() <= tolerance
    work = how.copies[compiled]
    assert all(block._compiled_call_impl is not None for block in work.model.layers)
    assert all(block._compiled_call_impl is None for block in compiled.model.layers)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    if dtype == torch.float32:  # one set of weights, and nothing is copied at every step
        assert all(ours is theirs for ours, theirs in zip(compiled.parameters(), work.parameters(), strict=True))


def test_a_compiler_that_fails_is_one_clear_error(monkeypatch):
    def broken(graph, inputs):
        raise OSError("no C++ compiler")

    monkeypatch.setattr(precision, "COMPILER", broken)
    model = build()
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(MalmoiError, match=r"train.torch_compile.*no C\+\+ compiler.*false"):
        steps(model, Precision(torch.float32, torch.float32, "cpu", torch_compile=True), 1)
    assert all(torch.equal(now, then) for now, then in zip(model.parameters(), before, strict=True))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_recipe_asks_for_it():
    assert precision.resolve(TrainConfig(torch_compile=True, dtype="float32"), CPU).torch_compile
    assert not precision.resolve(TrainConfig(), CPU).torch_compile
