"""The native engine against torch and float64, against itself in any company, and against bad input."""

import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from malmoi.config import MalmoiError, ModelConfig
from malmoi.model.gpt import GPT4LMHeadModel
from malmoi.native.core import NativeModel
from malmoi.native.description import UnsupportedModelError
from malmoi.native.interface import Status
from malmoi.native.library import NativeError
from malmoi.native.packed import GROUP, Packed, unpack, up_to
from malmoi.native.prepare import prepare
from native.conftest import SETS, whole
from small_models import BASE, GPT2, KINDS, build, configs

COMPUTED = [kind for kind in KINDS if kind != "ngrams"]
NUMBERS = ("float32", "bfloat16", "int8", "int4")


def some_ids(count: int, seed: int = 0, vocabulary: int = BASE["vocab_size"]) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, vocabulary, count)


@pytest.mark.parametrize("kind", COMPUTED)
def test_it_computes_what_torch_computes(kind: str):
    torch_model = build(kind)
    ids = some_ids(48)
    with torch.no_grad():
        expected = torch_model(torch.from_numpy(ids)[None]).logits[0].numpy()
    with NativeModel.from_model(torch_model, "float32") as model:
        np.testing.assert_allclose(whole(model, ids), expected, atol=5e-3)  # keys and values are halves


@pytest.mark.parametrize(("numbers", "most"), [("bfloat16", 1e-3), ("int8", 6e-3), ("int4", 0.4)])
@pytest.mark.parametrize("kind", ["modern", "gpt2"])
def test_rounding_costs_little(kind: str, numbers: str, most: float):
    from malmoi.native.divergence import divergence_from

    torch_model = build(kind)
    with NativeModel.from_model(torch_model, numbers, head=numbers) as model:
        assert 0 <= divergence_from(torch_model, model) < most


@settings(deadline=None, max_examples=20)
@given(config=configs, seed=st.integers(0, 99))
def test_any_configuration_computes_what_float64_computes(config: ModelConfig, seed: int):
    config = config.replace(vocab_size=37, max_position_embeddings=40, initializer_range=0.1)
    torch_model = GPT4LMHeadModel(config).eval()
    ids = some_ids(40, seed, 37)
    with torch.no_grad():
        expected = torch_model.double()(torch.from_numpy(ids)[None]).logits[0].numpy()
    torch_model.float()
    with NativeModel.from_model(torch_model, "float32", threads=1) as model:
        found = whole(model, ids)
    router_may_tip = config.num_experts > 0
    wrong = np.abs(found - expected).max(axis=1) > 0.02 * max(1.0, expected.std())
    assert wrong.mean() <= (0.3 if router_may_tip else 0)


def only_a_head(width: int, vocabulary: int, seed: int) -> GPT4LMHeadModel:
    """A model whose one layer writes nothing, so that its logits are one matrix times a normed embedding."""
    model = GPT4LMHeadModel(
        ModelConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            num_hidden_layers=1,
            num_attention_heads=1,
            head_dim=2,
            intermediate_size=3,
            max_position_embeddings=64,
            norm_affine=False,
            tie_word_embeddings=False,
        )
    )
    model.initialize(seed)
    model.model.layers[0].self_attn.o_proj.weight.data.zero_()
    model.model.layers[0].mlp.down_proj.weight.data.zero_()
    return model


@settings(deadline=None, max_examples=40)
@given(
    width=st.integers(2, 200),
    vocabulary=st.integers(2, 70),
    rows=st.integers(1, 20),
    numbers=st.sampled_from(NUMBERS),
    instructions=st.sampled_from(SETS or ("none",)),
    seed=st.integers(0, 99),
)
def test_a_matrix_is_what_float64_says(width, vocabulary, rows, numbers, instructions, seed):
    """Whole-number products are exact, so that only the float steps around them may differ in the last places."""
    opened = prepare(only_a_head(width, vocabulary, seed), numbers, numbers)
    tables = {}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        packed = opened.tensors[name]
        assert isinstance(packed, Packed)
        tables[name] = unpack(packed, (vocabulary, width)).astype(np.float64)
    ids = some_ids(rows, seed, vocabulary)
    x = tables["model.embed_tokens.weight"][ids]
    x = x / np.sqrt((x**2).mean(axis=1, keepdims=True) + 1e-6)
    tolerance = 1e-5
    if numbers in ("int8", "int4"):
        groups = np.zeros((rows, up_to(width, GROUP)))
        groups[:, :width] = x
        groups = groups.reshape(rows, -1, GROUP)
        scale = np.maximum(np.abs(groups).max(axis=2, keepdims=True), 1e-30) / 127
        exact = groups / scale
        x = (np.rint(exact) * scale).reshape(rows, -1)[:, :width]
        # a number half way between two whole ones may be rounded either way
        halfway = (np.abs(np.abs(exact - np.floor(exact)) - 0.5) < 1e-4) * scale
        tolerance += float(np.abs(tables["lm_head.weight"]).max() * halfway.sum(axis=(1, 2)).max())
    with NativeModel(opened, instructions=instructions, threads=1) as model:
        np.testing.assert_allclose(
            whole(model, ids), x @ tables["lm_head.weight"].T, atol=tolerance * max(1, width**0.5), rtol=1e-5
        )


@pytest.mark.parametrize("kind", COMPUTED)
@pytest.mark.parametrize("numbers", NUMBERS)
def test_all_instruction_sets_give_the_same_bits(kind: str, numbers: str):
    opened, ids = prepare(build(kind), numbers, numbers), some_ids(48)
    first, *others = (whole(NativeModel(opened, instructions=name, threads=1), ids) for name in SETS)
    assert np.isfinite(first).all()
    for other in others:
        np.testing.assert_array_equal(other, first)


class Mixes:
    """Random schedules over a few sequences: what is read when, with whom, guessed or not, forgotten, shared."""

    def __init__(self, model: NativeModel, seed: int) -> None:
        self.model, self.random = model, np.random.default_rng(seed)
        self.ids = self.random.integers(0, model.vocab_size, (5, 48))
        self.ids[1, :35] = self.ids[0, :35]  # a common beginning
        self.expected = [whole(model, ids) for ids in self.ids]
        self.tables = self.random.permutation(10).reshape(5, 2)  # two blocks each
        self.done = [0] * 5

    def step(self) -> None:
        rows, wanted = [], []  # rows: token, position, sequence; wanted: row, its sequence and position
        for who in self.random.permutation(5)[: self.random.integers(1, 6)]:
            if self.done[who] >= 48 or self.random.random() < 0.1:
                self._begin_again(who)
            start = self.done[who]
            if self.random.random() < 0.2:
                start = int(self.random.integers(0, start + 1))  # read some of it once more
            end = min(48, start + int(self.random.integers(1, self.random.choice((2, 6, 48)) + 1)))
            for position in range(start, end):
                if self.random.random() < 0.5 or position == end - 1:
                    wanted.append((len(rows), who, position))
                rows.append((self.ids[who, position], position, who))
            self.done[who] = max(end, start)
            for position in range(end, min(48, end + int(self.random.integers(0, 4)))):  # guesses, soon overwritten
                rows.append((self.random.integers(0, self.model.vocab_size), position, who))
        self.model.threads = int(self.random.integers(1, 4))
        tokens, positions, sequences = np.array(rows).T
        logits = self.model.step(tokens, positions, sequences, self.tables, [row for row, _, _ in wanted])
        for found, (_, who, position) in zip(logits, wanted, strict=True):
            np.testing.assert_array_equal(found, self.expected[who][position])

    def _begin_again(self, who: int) -> None:
        self.done[who] = 0
        if who == 1 and self.done[0] >= 35:  # its first block is the other's; of the second it takes a copy
            self.model.copy_block(self.tables[0, 0], self.tables[1, 0])
            self.model.copy_block(self.tables[0, 1], self.tables[1, 1])
            self.done[who] = 35


@pytest.mark.parametrize("numbers", ["int8", "int4", "bfloat16", "float32"])
@pytest.mark.parametrize("kind", ["modern", "gpt2", "windows", "experts", "gpt-oss"])
def test_a_sequence_is_the_same_in_any_company(kind: str, numbers: str):
    """50 mixes for each of 20 models: alone, together, in pieces, read again, guessed, on 1 to 3 threads: same bits."""
    with NativeModel.from_model(build(kind, seed=7), numbers, num_blocks=12) as model:
        mixes = Mixes(model, seed=len(kind))
        for _ in range(50):
            mixes.step()


def test_a_shared_block_serves_both():
    with NativeModel.from_model(build("modern"), "int8", num_blocks=4) as model:
        ids = some_ids(48)
        other = np.concatenate((ids[:32], some_ids(16, seed=1)))
        expected = whole(model, other)[32:]
        whole(model, ids)  # blocks 0 and 1
        found = model.step(other[32:], np.arange(32, 48), np.zeros(16, int), [[0, 3]], np.arange(16))
        np.testing.assert_array_equal(found, expected)


def test_a_forked_child_can_go_on():
    if not hasattr(os, "fork"):
        pytest.skip("no fork here")
    with NativeModel.from_model(build("modern"), "int8", threads=3) as model:
        expected = whole(model, some_ids(20))
        child = os.fork()
        if child == 0:
            os._exit(0 if np.array_equal(whole(model, some_ids(20)), expected) else 1)
        assert os.waitpid(child, 0)[1] == 0


@pytest.fixture(scope="module")
def small() -> NativeModel:
    return NativeModel.from_model(build("gpt2"), "int8", num_blocks=3, threads=1)


GOOD = {"tokens": [1, 2], "positions": [0, 1], "sequences": [0, 0], "block_tables": [[0, 1]], "wanted": [1]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tokens": [1, 61]}, "token is 61"),
        ({"tokens": [1, -1]}, "token is -1"),
        ({"tokens": [1, 2**40]}, "32 bits"),
        ({"tokens": [1.5, 2.5]}, "whole numbers"),
        ({"tokens": [1]}, "equally many"),
        ({"tokens": [], "positions": [], "sequences": [], "wanted": []}, "rows"),
        ({"positions": [1, 1]}, "ascending"),
        ({"positions": [0, 48]}, "position is 48"),
        ({"sequences": [0, 1]}, "sequence is 1"),
        ({"block_tables": [[3, 1]]}, "3 blocks"),
        ({"block_tables": [[-1, 1]]}, "3 blocks"),
        ({"block_tables": [0, 1]}, "2 dimension"),
        ({"positions": [0, 40], "block_tables": [[0]]}, "block table"),
        ({"positions": [0, 0], "sequences": [0, 1], "block_tables": [[0], [0]]}, "same place"),
        ({"wanted": [2]}, "row 2 is wanted"),
        ({"wanted": [0, 1, 1]}, "wanted"),
    ],
)
def test_an_impossible_batch_is_refused(small: NativeModel, change: dict, words: str):
    with pytest.raises(MalmoiError, match=words):
        small.step(**GOOD | change)
    assert np.isfinite(small.step(**GOOD)).all()


def test_nothing_wanted_gives_nothing(small: NativeModel):
    assert small.step(**GOOD | {"wanted": []}).shape == (0, 61)


@pytest.mark.parametrize(("source", "target"), [(0, 3), (-1, 0), (2**63, 0)])
def test_a_block_that_does_not_exist_is_not_copied(small: NativeModel, source: int, target: int):
    with pytest.raises(MalmoiError):
        small.copy_block(source, target)


def test_numbers_that_explode_are_an_error():
    torch_model = build("gpt2")
    torch_model.model.layers[1].mlp.up_proj.weight.data.fill_(3e37)
    for numbers in ("float32", "int8"):
        with NativeModel.from_model(torch_model, numbers) as model, pytest.raises(NativeError, match="layer 1") as told:
            whole(model, some_ids(4))
        assert told.value.status == Status.NOT_FINITE


@pytest.mark.parametrize("numbers", ["float32", "int8"])
def test_weights_that_are_no_numbers_are_refused(numbers: str):
    torch_model = build("modern")
    torch_model.model.layers[0].self_attn.q_proj.weight.data[3, 4] = float("nan")
    with pytest.raises(MalmoiError, match=r"q_proj.*NaN"):
        NativeModel.from_model(torch_model, numbers)


def test_what_is_not_computed_is_named():
    with pytest.raises(UnsupportedModelError, match="ngram_sizes"):
        NativeModel.from_model(build("ngrams"))


def test_instructions_that_are_not_there_are_named():
    with pytest.raises(NativeError, match=r"'mmx'.*scalar") as told:
        NativeModel.from_model(build("modern"), instructions="mmx")
    assert told.value.status == Status.UNSUPPORTED


@pytest.mark.parametrize("blocks", [0, -5, 10**12, 2**62])
def test_a_cache_that_cannot_be_made_is_refused(blocks: int):
    with pytest.raises(MalmoiError, match="cache"):
        NativeModel.from_model(build("modern"), num_blocks=blocks)


def test_a_closed_model_says_so():
    model = NativeModel.from_model(build("modern"))
    assert model.cache_bytes > 0
    model.close()
    model.close()
    with pytest.raises(MalmoiError, match="closed"):
        model.step(**GOOD)
    with pytest.raises(MalmoiError, match="closed"):
        model.copy_block(0, 1)


def test_gpt2_of_any_head_size_reads_its_own_positions():
    changes = GPT2 | {"hidden_size": 30, "num_attention_heads": 3, "num_key_value_heads": 3}
    torch_model = build("gpt2", **changes)
    ids = some_ids(48)
    with torch.no_grad():
        expected = torch_model(torch.from_numpy(ids)[None]).logits[0].numpy()
    with NativeModel.from_model(torch_model, "float32") as model:
        np.testing.assert_allclose(whole(model, ids), expected, atol=5e-3)
