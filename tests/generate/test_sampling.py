"""The sampling functions against a plain reference: float64, one row, sorted in Python, no cleverness."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, currently_in_test_context, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from malmoi.config import GenerationConfig, MalmoiError
from malmoi.generate import sampling


def softmax(row):
    weights = [math.exp(value - max(row)) for value in row]
    return [weight / math.fsum(weights) for weight in weights]


def by_likelihood(row):
    return sorted(range(len(row)), key=lambda token: (-row[token], token))


def off_the_border(true):
    """Where rounding alone decides, reference and function may both be right."""
    if currently_in_test_context():
        assume(true)


def reference_top_k(row, k):
    kept = set(by_likelihood(row)[:k])
    return [value if token in kept else -math.inf for token, value in enumerate(row)]


def reference_top_p(row, p):
    probabilities, kept, mass = softmax(row), set(), 0.0
    for token in by_likelihood(row):
        if kept and mass >= p:
            break
        off_the_border(abs(mass - p) > 1e-9)
        kept.add(token)
        mass += probabilities[token]
    return [value if token in kept else -math.inf for token, value in enumerate(row)]


def reference_min_p(row, share):
    probabilities = softmax(row)
    for probability in probabilities:
        off_the_border(abs(probability - share * max(probabilities)) > 1e-9)
    kept = {token for token, value in enumerate(probabilities) if value >= share * max(probabilities)}
    return [value if token in kept else -math.inf for token, value in enumerate(row)]


# whole halves make ties common, which is where implementations differ
halves = st.integers(-24, 24).map(lambda number: number / 2)
rows = st.one_of(
    hnp.arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 40)), elements=halves),
    hnp.arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 40)), elements=st.floats(-30, 30)),
)


def tensor(array):
    return torch.from_numpy(np.ascontiguousarray(array))


@given(rows, st.integers(1, 50))
def test_top_k_keeps_the_k_likeliest_and_of_equals_the_first(logits, k):
    expected = [reference_top_k(row, k) for row in logits.tolist()]
    assert sampling.top_k(tensor(logits), k).tolist() == expected


@given(rows, st.floats(0.01, 0.999))
def test_top_p_keeps_the_smallest_nucleus(logits, p):
    expected = [reference_top_p(row, p) for row in logits.tolist()]
    assert sampling.top_p(tensor(logits), p).tolist() == expected


@settings(max_examples=8)
@given(st.integers(0, 10_000), st.sampled_from([0.3, 0.9, 0.999]), st.sampled_from([0.01, 1.0, 5.0]))
def test_top_p_is_the_same_beyond_the_first_look(seed, p, sharpness):
    """A vocabulary larger than the few tokens that are looked at first: flat rows need the full sort."""
    logits = torch.from_numpy(np.random.default_rng(seed).normal(size=(2, 3 * sampling._FEW)) * sharpness)
    expected = [reference_top_p(row, p) for row in logits.tolist()]
    assert sampling.top_p(logits, p).tolist() == expected


@given(rows, st.floats(0.0, 1.0))
def test_min_p_keeps_what_is_likely_beside_the_best(logits, share):
    expected = [reference_min_p(row, share) for row in logits.tolist()]
    assert sampling.min_p(tensor(logits), share).tolist() == expected


@given(rows, st.floats(0.01, 100))
def test_temperature_is_a_power_of_the_probabilities(logits, value):
    found = sampling.temperature(tensor(logits), value).softmax(-1)
    for row, result in zip(logits.tolist(), found.tolist(), strict=True):
        powers = [math.exp((number - max(row)) / value) for number in row]
        assert result == pytest.approx([power / math.fsum(powers) for power in powers], rel=1e-9, abs=1e-300)


@given(rows, st.data(), st.floats(0.1, 10))
def test_repetition_penalty_touches_only_what_was_seen(logits, data, penalty):
    seen = data.draw(hnp.arrays(np.bool_, logits.shape))
    found = sampling.repetition_penalty(tensor(logits), torch.from_numpy(seen), penalty).numpy()
    expected = np.where(seen, np.where(logits > 0, logits / penalty, logits * penalty), logits)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    changed = seen & (logits != 0)
    assert (found[changed] <= logits[changed]).all() if penalty >= 1 else (found[changed] >= logits[changed]).all()


def reference_sample(row, u):
    """The first id at which the running sum of probabilities exceeds u."""
    probabilities = softmax(row)
    for token in range(len(row)):
        border = math.fsum(probabilities[: token + 1])
        off_the_border(abs(border - u) > 1e-12)
        if border > u:
            return token
    raise AssertionError("u lies in [0, 1)")


@given(rows, st.floats(0, 1, exclude_max=True))
def test_sample_inverts_the_cumulated_distribution(logits, u):
    expected = [reference_sample(row, u) for row in logits.tolist()]
    assert sampling.sample(tensor(logits), [u] * len(expected)).tolist() == expected


@given(rows, st.data(), st.sampled_from([0.0, 0.5, 1 - 2.0**-53]), st.sampled_from([torch.float32, torch.float64]))
def test_a_removed_token_is_never_chosen_not_even_at_the_edges(logits, data, u, dtype):
    removed = data.draw(hnp.arrays(np.bool_, logits.shape))
    removed[:, data.draw(st.integers(0, logits.shape[1] - 1))] = False  # one always stays
    shaped = torch.from_numpy(np.where(removed, -math.inf, logits)).to(dtype)
    chosen = sampling.sample(shaped, [u] * len(logits))
    assert not removed[np.arange(len(logits)), chosen.numpy()].any()


@given(rows, st.integers(0, 2**40), st.floats(0.1, 3), st.integers(0, 5), st.floats(0.1, 1), st.floats(0, 0.5))
def test_a_row_is_shaped_as_if_it_were_alone(logits, seed, temperature, k, p, share):
    config = GenerationConfig(do_sample=True, temperature=temperature, top_k=k, top_p=p, min_p=share, seed=seed)
    together = sampling.shape(tensor(logits), config)
    numbers = sampling.draws(seed, range(len(logits)), [0] * len(logits))
    chosen = sampling.sample(together, numbers).tolist()
    for row in range(len(logits)):
        alone = sampling.shape(tensor(logits[row : row + 1]), config)
        assert torch.equal(alone[0], together[row])
        assert sampling.sample(alone, [numbers[row]]).tolist() == [chosen[row]]


@given(rows)
def test_top_k_of_one_is_greedy(logits):
    config = GenerationConfig(do_sample=True, top_k=1, seed=0)
    shaped = sampling.shape(tensor(logits), config)
    assert torch.equal(sampling.sample(shaped, [0.7] * len(logits)), sampling.greedy(tensor(logits)))


CHI_SQUARED_999 = {1: 10.83, 2: 13.82, 3: 16.27, 4: 18.47, 5: 20.52, 6: 22.46, 7: 24.32, 8: 26.12, 9: 27.88}


@pytest.mark.parametrize(
    "settings_",
    [{}, {"temperature": 0.5}, {"temperature": 2.0}, {"top_k": 4}, {"top_p": 0.8}, {"min_p": 0.2}],
    ids=str,
)
def test_frequencies_follow_the_distribution(settings_):
    """Chi-squared against the reference's probabilities at the 99.9 % level, over consecutive positions of one seed."""
    row = [1.5, -0.3, 0.0, 2.0, 0.7, -1.0, 1.1, 0.2]
    expected = list(row)
    if "temperature" in settings_:
        expected = [value / settings_["temperature"] for value in expected]
    if "top_k" in settings_:
        expected = reference_top_k(expected, settings_["top_k"])
    if "top_p" in settings_:
        expected = reference_top_p(expected, settings_["top_p"])
    if "min_p" in settings_:
        expected = reference_min_p(expected, settings_["min_p"])
    n = 20_000
    shaped = sampling.shape(torch.tensor([row]), GenerationConfig(do_sample=True, **settings_))
    chosen = sampling.sample(shaped.expand(n, -1), sampling.draws(11, range(n), [0] * n))
    counts = torch.bincount(chosen, minlength=len(row)).tolist()
    statistic, cells = 0.0, 0
    for count, probability in zip(counts, softmax(expected), strict=True):
        if probability == 0:
            assert count == 0
        else:
            statistic += (count - n * probability) ** 2 / (n * probability)
            cells += 1
    assert statistic < CHI_SQUARED_999[cells - 1]


def test_draws_differ_by_seed_position_and_sample_and_by_nothing_else():
    numbers = {
        sampling.draws(seed, [position], [number])[0]
        for seed in range(10)
        for position in range(10)
        for number in range(10)
    }
    assert len(numbers) == 1000
    assert sampling.draws(3, [7, 8], [0, 2]) == [sampling.draws(3, [p], [s])[0] for p, s in ((7, 0), (8, 2))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_largest_draw_takes_the_last_token_and_not_the_one_after(dtype):
    logits = torch.tensor([[0.0, 0.0, 0.0, -math.inf]], dtype=dtype)
    assert sampling.sample(logits, [1 - 2.0**-53]).tolist() == [2]
    assert sampling.sample(logits, [0.0]).tolist() == [0]


def test_a_tiny_temperature_does_not_overflow():
    config = GenerationConfig(do_sample=True, temperature=1e-300)
    shaped = sampling.shape(torch.tensor([[3.0, 5.0, 4.0]]), config)
    assert sampling.sample(shaped, [0.999]).tolist() == [1]


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_broken_logits_are_named(broken):
    logits = torch.zeros(3, 5)
    logits[1, 2] = broken
    with pytest.raises(MalmoiError, match="row 1"):
        sampling.greedy(logits)
    with pytest.raises(MalmoiError, match="row 1"):
        sampling.sample(sampling.shape(logits, GenerationConfig(do_sample=True, temperature=0.5)), [0.5] * 3)


def test_forbidding_every_token_is_an_error_not_a_choice():
    with pytest.raises(MalmoiError, match="forbidden"):
        sampling.greedy(sampling.forbid(torch.zeros(1, 2), [0, 1]))


def test_the_settings_leave_the_logits_that_they_were_given():
    logits = torch.randn(2, 9, generator=torch.Generator().manual_seed(0))
    before = logits.clone()
    config = GenerationConfig(do_sample=True, temperature=0.5, top_k=5, top_p=0.9, min_p=0.01, repetition_penalty=1.3)
    sampling.shape(logits, config, seen=torch.ones(2, 9, dtype=torch.bool), forbidden=[0])
    assert torch.equal(logits, before)


@pytest.mark.parametrize(
    ("settings_", "wrapper", "argument"),
    [
        ({"temperature": 0.7}, "TemperatureLogitsWarper", 0.7),
        ({"top_k": 5}, "TopKLogitsWarper", 5),
        ({"top_p": 0.8}, "TopPLogitsWarper", 0.8),
        ({"min_p": 0.1}, "MinPLogitsWarper", 0.1),
        ({"repetition_penalty": 1.4}, "RepetitionPenaltyLogitsProcessor", 1.4),
    ],
    ids=str,
)
def test_the_settings_mean_what_they_mean_in_transformers(settings_, wrapper, argument):
    processors = pytest.importorskip("transformers.generation.logits_process")
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20, 50, generator=generator, dtype=torch.float64) * 3  # no ties: there transformers differs
    ids = torch.randint(50, (20, 12), generator=generator)
    seen = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, ids, True)
    found = sampling.shape(logits, GenerationConfig(do_sample=True, **settings_), seen=seen).softmax(-1)
    expected = getattr(processors, wrapper)(argument)(ids, logits.clone()).softmax(-1)
    torch.testing.assert_close(found, expected)
