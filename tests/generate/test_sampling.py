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


def each(function, logits, *arguments):
    """The function on every row, as lists."""
    return [np.asarray(function(row, *arguments)).tolist() for row in logits]


@given(rows, st.integers(1, 50))
def test_top_k_keeps_the_k_likeliest_and_of_equals_the_first(logits, k):
    expected = [reference_top_k(row, k) for row in logits.tolist()]
    assert each(sampling.top_k, logits, k) == expected


@pytest.mark.parametrize("size", [33, 5_000, 50_257])
@pytest.mark.parametrize("kind", ["spread", "ties", "few", "equal", "broken"])
def test_the_best_of_a_large_vocabulary_are_the_best_of_all(size, kind):
    draw = np.random.default_rng(size)
    logits = draw.normal(size=size)
    if kind == "ties":
        logits = logits.round(1)
    elif kind == "few":
        logits[draw.random(size) < 0.95] = -math.inf
    elif kind == "equal":
        logits[:] = 0.0
    elif kind == "broken":
        logits[[3, -1]] = math.nan
    for count in (1, 20, size // 200 + 1, size // 3):
        found = np.sort(sampling._best(logits, count))
        assert np.array_equal(found, np.sort(logits)[size - count :], equal_nan=True)


@given(rows, st.floats(0.01, 0.999))
def test_top_p_keeps_the_smallest_nucleus(logits, p):
    expected = [reference_top_p(row, p) for row in logits.tolist()]
    assert each(sampling.top_p, logits, p) == expected


@settings(max_examples=8)
@given(st.integers(0, 10_000), st.sampled_from([0.3, 0.9, 0.999]), st.sampled_from([0.01, 1.0, 5.0]))
def test_top_p_is_the_same_beyond_the_first_look(seed, p, sharpness):
    """A vocabulary larger than the few tokens that are looked at first: flat rows need the full sort."""
    logits = np.random.default_rng(seed).normal(size=(2, 3 * sampling._FEW)) * sharpness
    expected = [reference_top_p(row, p) for row in logits.tolist()]
    assert each(sampling.top_p, logits, p) == expected


@given(rows, st.floats(0.0, 1.0))
def test_min_p_keeps_what_is_likely_beside_the_best(logits, share):
    expected = [reference_min_p(row, share) for row in logits.tolist()]
    assert each(sampling.min_p, logits, share) == expected


@given(rows, st.floats(0.01, 100))
def test_temperature_is_a_power_of_the_probabilities(logits, value):
    found = [softmax(row) for row in each(sampling.temperature, logits, value)]
    for row, result in zip(logits.tolist(), found, strict=True):
        powers = [math.exp((number - max(row)) / value) for number in row]
        assert result == pytest.approx([power / math.fsum(powers) for power in powers], rel=1e-9, abs=1e-300)


@given(rows, st.data(), st.floats(0.1, 10))
def test_repetition_penalty_touches_only_what_was_seen(logits, data, penalty):
    seen = data.draw(hnp.arrays(np.bool_, logits.shape))
    pairs = zip(logits, seen, strict=True)
    found = np.array([sampling.repetition_penalty(row, np.flatnonzero(mask), penalty) for row, mask in pairs])
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
    assert each(sampling.sample, logits, u) == expected


@given(rows, st.data(), st.sampled_from([0.0, 0.5, 1 - 2.0**-53]), st.sampled_from([np.float32, np.float64]))
def test_a_removed_token_is_never_chosen_not_even_at_the_edges(logits, data, u, dtype):
    removed = data.draw(hnp.arrays(np.bool_, logits.shape))
    removed[:, data.draw(st.integers(0, logits.shape[1] - 1))] = False  # one always stays
    chosen = each(sampling.sample, np.where(removed, -math.inf, logits).astype(dtype), u)
    assert not removed[np.arange(len(logits)), chosen].any()


@given(rows)
def test_top_k_of_one_is_greedy(logits):
    config = GenerationConfig(do_sample=True, top_k=1, seed=0)
    for row in logits:
        assert sampling.sample(sampling.shape(row, config), 0.7) == sampling.greedy(row)


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
    shaped = sampling.shape(np.array(row), GenerationConfig(do_sample=True, **settings_))
    chosen = [sampling.sample(shaped, sampling.draw(11, position, 0)) for position in range(n)]
    counts = np.bincount(chosen, minlength=len(row)).tolist()
    statistic, cells = 0.0, 0
    for count, probability in zip(counts, softmax(expected), strict=True):
        if probability == 0:
            assert count == 0
        else:
            statistic += (count - n * probability) ** 2 / (n * probability)
            cells += 1
    assert statistic < CHI_SQUARED_999[cells - 1]


def test_draws_differ_by_seed_position_and_sample_and_by_nothing_else():
    asked = [(seed, position, number) for seed in range(10) for position in range(10) for number in range(10)]
    numbers = [sampling.draw(*each) for each in asked]
    assert len(set(numbers)) == 1000
    assert [sampling.draw(*each) for each in reversed(asked)] == numbers[::-1]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_largest_draw_takes_the_last_token_and_not_the_one_after(dtype):
    logits = np.array([0.0, 0.0, 0.0, -math.inf], dtype=dtype)
    assert sampling.sample(logits, 1 - 2.0**-53) == 2
    assert sampling.sample(logits, 0.0) == 0


def test_a_tiny_temperature_does_not_overflow():
    config = GenerationConfig(do_sample=True, temperature=1e-300)
    assert sampling.sample(sampling.shape(np.array([3.0, 5.0, 4.0]), config), 0.999) == 1


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_broken_logits_are_named(broken):
    logits = np.zeros(5)
    logits[2] = broken
    with pytest.raises(MalmoiError, match="broken"):
        sampling.greedy(logits)
    with pytest.raises(MalmoiError, match="broken"):
        sampling.sample(sampling.shape(logits, GenerationConfig(do_sample=True, temperature=0.5)), 0.5)


def test_forbidding_every_token_is_an_error_not_a_choice():
    with pytest.raises(MalmoiError, match="forbidden"):
        sampling.greedy(sampling.forbid(np.zeros(2), [0, 1]))


def test_the_settings_leave_the_logits_that_they_were_given():
    logits = np.random.default_rng(0).normal(size=9)
    before = logits.copy()
    config = GenerationConfig(
        do_sample=True, temperature=0.5, top_k=5, top_p=0.9, min_p=0.01, repetition_penalty=1.3,
        presence_penalty=0.5, frequency_penalty=0.5, no_repeat_ngram_size=2, logit_bias={3: 1.0},
    )  # fmt: skip
    seen: list[str] = []
    sampling.shape(
        logits,
        config,
        tokens=[1, 2, 1, 2, 1],
        prompt_length=2,
        forbidden=[0],
        allowed=np.arange(9) != 4,
        watch=lambda name, _: seen.append(name),
    )
    assert np.array_equal(logits, before)
    order = "min_new_tokens logit_bias repetition_penalty presence_penalty frequency_penalty no_repeat_ngram_size"
    assert seen == [*order.split(), "constraint", "temperature", "top_k", "top_p", "min_p"]


def test_penalties_count_the_answer_and_not_the_prompt():
    logits, tokens = np.zeros(6, dtype=np.float32), [0, 0, 1, 2, 2, 2]
    presence = sampling.shape(logits, GenerationConfig(presence_penalty=0.5), tokens=tokens, prompt_length=2)
    frequency = sampling.shape(logits, GenerationConfig(frequency_penalty=0.5), tokens=tokens, prompt_length=2)
    assert presence.tolist() == [0, -0.5, -0.5, 0, 0, 0]
    assert frequency.tolist() == [0, -0.5, -1.5, 0, 0, 0]
    biased = sampling.shape(logits, GenerationConfig(logit_bias={4: 2, 5: -100}), tokens=tokens)
    assert biased.tolist() == [0, 0, 0, 0, 2, -100]


@given(st.lists(st.integers(0, 3), max_size=12), st.integers(1, 4))
def test_no_ngram_comes_twice(tokens, size):
    found = sampling.no_repeat_ngrams(np.zeros(5), tokens, size)
    ngrams = {tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1)}
    for token in range(5):
        again = len(tokens) >= size and (*tokens[len(tokens) - size + 1 :], token) in ngrams
        assert (found[token] == -math.inf) == again


@pytest.mark.parametrize(
    ("settings_", "wrapper", "argument"),
    [
        ({"temperature": 0.7}, "TemperatureLogitsWarper", 0.7),
        ({"top_k": 5}, "TopKLogitsWarper", 5),
        ({"top_p": 0.8}, "TopPLogitsWarper", 0.8),
        ({"min_p": 0.1}, "MinPLogitsWarper", 0.1),
        ({"repetition_penalty": 1.4}, "RepetitionPenaltyLogitsProcessor", 1.4),
        ({"no_repeat_ngram_size": 2}, "NoRepeatNGramLogitsProcessor", 2),
    ],
    ids=str,
)
def test_the_settings_mean_what_they_mean_in_transformers(settings_, wrapper, argument):
    processors = pytest.importorskip("transformers.generation.logits_process")
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20, 50, generator=generator, dtype=torch.float64) * 3  # no ties: there transformers differs
    ids = torch.randint(10, (20, 12), generator=generator)
    config = GenerationConfig(do_sample=True, **settings_)
    expected = getattr(processors, wrapper)(argument)(ids, logits.clone()).softmax(-1)
    for row, tokens, wanted in zip(logits.numpy(), ids.tolist(), expected.numpy(), strict=True):
        found = np.exp(sampling.log_softmax(sampling.shape(row, config, tokens=tokens)))
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-15)
