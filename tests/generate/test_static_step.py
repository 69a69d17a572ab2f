"""Steps of fixed shapes: the same text as the plain ones, recorded once they pay, computed anew when memory moves."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from speakers import CONTEXT, LAYOUTS, PROMPTS, SETTINGS, build

from malmoi.config import GenerationConfig
from malmoi.generate import static_step
from malmoi.generate.engine import Engine, Request, generate
from malmoi.generate.static_step import STEPS_BEFORE_RECORDING, StaticStep, shape_for
from malmoi.generate.torch_backend import TorchBackend
from malmoi.model.taps import record


class Recorder:
    """What a GPU does with a graph, as far as the rest can tell: results lie in one tensor, and no Python is called."""

    def __init__(self, fails=False):
        self.recorded, self.replayed, self.fails = 0, 0, fails

    def __call__(self, compute):
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.recorded += 1
        logits = compute().clone()

        def replay():
            self.replayed += 1
            return logits.copy_(compute())

        return replay


def recording(model, recorder, **settings):
    backend = TorchBackend(model, static=True, **settings)
    backend._recorder = recorder
    return backend


@pytest.mark.parametrize("asked", SETTINGS, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_text_as_by_plain_steps(layout, asked, monkeypatch):
    monkeypatch.setattr(static_step, "FEWEST_COLUMNS", 4)  # so that texts grow out of their shapes
    model = build(300, **LAYOUTS[layout]).double()
    config = GenerationConfig(max_length=CONTEXT, num_return_sequences=2 if asked else 1, eos_token_id=(), **asked)
    plain = generate(TorchBackend(model, static=False), PROMPTS, config)
    backend = TorchBackend(model, static=True, block_size=4)
    assert generate(backend, PROMPTS, config).new_tokens == plain.new_tokens
    assert len(backend._static_steps) > 2


@pytest.mark.parametrize("layout", LAYOUTS)
def test_logits_are_those_of_the_plain_step(layout):
    model = build(300, **LAYOUTS[layout])
    plain, static = TorchBackend(model, static=False), TorchBackend(model, static=True)
    tables = np.array([[3, 0], [1, 2], [4, 0]], np.int32)
    prompts = [list(range(20, 29)), list(range(100, 138)), [7]]
    positions = np.concatenate([np.arange(len(prompt)) for prompt in prompts]).astype(np.int32)
    sequences = np.repeat(np.arange(3), [len(prompt) for prompt in prompts]).astype(np.int32)
    given = (np.concatenate(prompts).astype(np.int32), positions, sequences, tables, np.zeros(0, np.int64))
    new = np.array([5, 6, 8], np.int32)
    at = np.array([len(prompt) for prompt in prompts], np.int32)
    found = []
    for backend in (plain, static):
        backend.step(*given)
        first = backend.step(new, at, np.arange(3, dtype=np.int32), tables, np.arange(3))
        found.append((first, backend.step(new + 1, at + 1, np.arange(3, dtype=np.int32), tables, np.arange(3))))
    assert static._static_steps and not plain._static_steps
    for wanted, got in zip(*found, strict=True):
        assert got.dtype == np.float32 and got.shape == (3, 300)
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


@settings(max_examples=8)
@given(st.lists(st.lists(st.integers(2, 299), min_size=1, max_size=12), min_size=1, max_size=5), st.integers(0, 2**62))
def test_who_comes_and_goes_changes_nothing(batch, seed):
    model = build(300).double()
    asked = {"max_new_tokens": 10, "temperature": 0.8, "seed": seed}
    engine = Engine(TorchBackend(model, static=True, num_blocks=9, block_size=4), budget=5)
    config = engine.base.replace(eos_token_id=(), **asked)
    found = {}
    for token in engine.stream(Request(prompt, config) for prompt in batch):
        found.setdefault(token.request, []).append(token.id)
    for number, prompt in enumerate(batch):
        assert generate(model, prompt, eos_token_id=(), **asked).new_tokens == [found[number]]


def test_a_shape_is_recorded_when_it_has_shown_that_it_is_used():
    model, recorder = build(300).double(), Recorder()
    backend = recording(model, recorder)
    config = GenerationConfig(eos_token_id=(), max_new_tokens=STEPS_BEFORE_RECORDING)
    plain = generate(model, PROMPTS[:2], config)
    assert generate(backend, PROMPTS[:2], config).new_tokens == plain.new_tokens  # the first token is the prompt's
    assert recorder.recorded == 0
    long = config.replace(max_new_tokens=20)
    assert generate(backend, PROMPTS[:2], long).new_tokens == generate(model, PROMPTS[:2], long).new_tokens
    assert (recorder.recorded, recorder.replayed) == (1, 19)


def test_when_memory_moves_everything_is_recorded_anew():
    model, recorder = build(300).double(), Recorder()
    backend = recording(model, recorder, num_blocks=30, block_size=4)
    config = GenerationConfig(eos_token_id=(), max_new_tokens=40)
    assert generate(backend, [5, 6, 7], config).new_tokens == generate(model, [5, 6, 7], config).new_tokens
    assert recorder.recorded > 1


def test_where_recording_fails_plain_steps_go_on_and_one_line_says_so():
    model = build(300).double()
    backend = recording(model, Recorder(fails=True))
    config = GenerationConfig(eos_token_id=(), max_new_tokens=15)
    with pytest.warns(UserWarning, match="CUDA graphs cannot be recorded.*capturing") as told:
        found = generate(backend, PROMPTS, config).new_tokens
    assert len(told) == 1 and not backend.static
    assert found == generate(model, PROMPTS, config).new_tokens


def test_whoever_watches_sees_every_token():
    model, recorder = build(300), Recorder()
    backend = recording(model, recorder)
    seen = []
    with record(model, ["logits"]) as recorded:
        for _ in Engine(backend).stream(Request([5, 6], GenerationConfig(eos_token_id=(), max_new_tokens=20))):
            seen.append(recorded["logits"][0, -1, 0].item())
    assert len(set(seen)) == 20
    assert recorder.recorded == 0 and not backend._static_steps


def test_a_cpu_takes_plain_steps_unless_asked():
    assert not TorchBackend(build(300)).static


@pytest.mark.parametrize(
    ("rows", "blocks", "shape"), [(1, 1, (1, 4)), (3, 5, (4, 8)), (16, 9, (16, 10)), (17, 10, (32, 10))]
)
def test_few_shapes(rows, blocks, shape):
    assert shape_for(rows, blocks, 32, 10) == shape


def test_a_short_context_needs_no_more_columns_than_it_has():
    assert shape_for(1, 1, 32, 2) == (1, 2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "experts"])
def test_on_a_gpu_graphs_write_what_plain_steps_write(layout):
    model = build(300, **LAYOUTS[layout]).double().cuda()
    config = GenerationConfig(eos_token_id=(), max_length=CONTEXT, temperature=0.9, seed=3)
    plain = generate(TorchBackend(model, static=False), PROMPTS, config)
    backend = TorchBackend(model)
    assert generate(backend, PROMPTS, config).new_tokens == plain.new_tokens
    assert any(step.calls > STEPS_BEFORE_RECORDING for step in backend._static_steps.values())
    assert isinstance(next(iter(backend._static_steps.values())), StaticStep)
    assert backend._recorder is not None
