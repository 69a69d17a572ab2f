"""From logits to one token: small functions, applied in one order.

A language model gives a number (a logit) to every token of its vocabulary; the settings of `GenerationConfig` reshape
that distribution, and one token is chosen from what is left. The order:

    forbidden ids -> logit_bias -> repetition, presence and frequency penalty -> no_repeat_ngram_size -> constraint
    -> temperature -> top_k -> top_p -> min_p -> choose

Each setting is a pure function from logits to logits; a token that it takes away gets minus infinity. Ties are always
broken in favour of the smaller id, so a result never depends on how a sort happened to be written, and `top_k=1` is
greedy to the letter. Sampling is inversion: a number u in [0, 1) picks the first id, in the order of ids, at which the
cumulated probability exceeds u. The number comes from `randomness.uniform(seed, "sample", position, sample)`: nobody's
draw depends on who else is in the batch. Everything is NumPy, one row at a time, for the same reason, and so that a
model that runs without torch speaks without it too.

Shapes: V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from malmoi.config import GenerationConfig, MalmoiError
from malmoi.randomness import uniform

Logits = NDArray[Any]  # (V,) float32 or float64
Watch = Callable[[str, Logits], None]

_FEW = 256  # a nucleus is rarely larger: look here before sorting the whole vocabulary
_GROUP = 32  # logits of which the largest is looked at first


def forbid(logits: Logits, ids: Sequence[int]) -> Logits:
    """Logits in which `ids` cannot be chosen: used for the end-of-text tokens below `min_new_tokens`."""
    logits = logits.copy()
    logits[list(ids)] = -math.inf
    return logits


def logit_bias(logits: Logits, biases: Mapping[int, float]) -> Logits:
    """Add a number to the logits of single tokens: the odds against all others change by its exponential."""
    logits = logits.copy()
    for token, bias in biases.items():
        logits[token] += bias
    return logits


def repetition_penalty(logits: Logits, seen: Sequence[int], penalty: float) -> Logits:
    """Make the tokens `seen`, prompt included, less likely (`penalty` > 1) or more likely (< 1).

    A positive logit is divided by the penalty and a negative one multiplied, as transformers does; Keskar et al.,
    "CTRL" (2019), section 4.1, has only the division.
    """
    ids, logits = np.asarray(seen, dtype=np.int64), logits.copy()
    values = logits[ids]
    logits[ids] = np.where(values > 0, values / penalty, values * penalty).astype(logits.dtype)
    return logits


def presence_penalty(logits: Logits, written: Sequence[int], penalty: float) -> Logits:
    """Take `penalty` from every token that the answer holds already, however often."""
    logits = logits.copy()
    logits[np.unique(np.asarray(written, dtype=np.int64))] -= penalty
    return logits


def frequency_penalty(logits: Logits, written: Sequence[int], penalty: float) -> Logits:
    """Take `penalty` from a token for each time that the answer holds it (both penalties: OpenAI's API)."""
    ids, counts = np.unique(np.asarray(written, dtype=np.int64), return_counts=True)
    logits = logits.copy()
    logits[ids] -= (penalty * counts).astype(logits.dtype)
    return logits


def no_repeat_ngrams(logits: Logits, tokens: Sequence[int], size: int) -> Logits:
    """Forbid each token that would complete an n-gram of `size` tokens which stands in `tokens` already (Paulus et
    al., "A Deep Reinforced Model for Abstractive Summarization", 2017, section 2.5)."""
    starts = len(tokens) - size + 1
    if starts < 1:
        return logits
    past = np.asarray(tokens, dtype=np.int64)
    same = np.ones(starts, dtype=bool)
    for place in range(size - 1):
        same &= past[place : place + starts] == past[len(past) - size + 1 + place]
    return forbid(logits, past[size - 1 :][same].tolist())


def allow(logits: Logits, allowed: NDArray[np.bool_]) -> Logits:
    """Keep only the tokens that a constraint allows: `allowed` (V,)."""
    return np.where(allowed, logits, np.asarray(-math.inf, dtype=logits.dtype))


def temperature(logits: Logits, value: float) -> Logits:
    """Sharpen (`value` < 1) or flatten (> 1) the distribution: p becomes p^(1/value), made to sum to one again.

    The largest logit is moved to zero first, so that a tiny temperature cannot overflow.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # to minus infinity, where it belongs
        return (logits - logits.max()) / value


def top_k(logits: Logits, k: int) -> Logits:
    """Keep exactly the `k` most likely tokens (Fan et al., "Hierarchical Neural Story Generation", 2018)."""
    if k >= logits.size:
        return logits
    return _keep_best(logits, _best(logits, k).min(), k)


def top_p(logits: Logits, p: float) -> Logits:
    """Keep the smallest set of most likely tokens whose mass reaches `p` (Holtzman et al., "The Curious Case of
    Neural Text Degeneration", 2020). At least one token always stays."""
    mass = _logsumexp(logits)
    best = _largest(logits, _FEW)
    if np.exp(best - mass).sum() < p:
        best = _largest(logits, logits.size)
    probabilities = np.exp(best - mass)
    before = probabilities.cumsum() - probabilities  # the mass of all that is likelier
    count = max(1, int((before < p).sum()))
    return _keep_best(logits, best[count - 1], count)


def min_p(logits: Logits, share: float) -> Logits:
    """Keep tokens at least `share` times as likely as the likeliest (Nguyen et al., "Turning Up the Heat", 2024)."""
    if share == 0:
        return logits
    return np.where(logits < logits.max() + math.log(share), np.asarray(-math.inf, dtype=logits.dtype), logits)


def _largest(logits: Logits, count: int) -> Logits:
    """The `count` largest logits, in falling order."""
    return np.sort(_best(logits, count) if count < logits.size else logits)[::-1]


def _best(logits: Logits, count: int) -> Logits:
    """The `count` largest logits of more, in any order.

    Of a large vocabulary the largest of each group of logits are looked at first: what is below the `count` best of
    those is not among the `count` best of all, and hardly anything is left to be put in order.
    """
    groups = logits.size // _GROUP
    if groups > 4 * count:
        heads = logits[: groups * _GROUP].reshape(_GROUP, groups).max(axis=0)
        bound = np.partition(heads, groups - count)[groups - count]
        if not np.isnan(heads.max()):
            logits = logits[logits >= bound]
    return np.partition(logits, logits.size - count)[logits.size - count :]


def _keep_best(logits: Logits, threshold: float, count: int) -> Logits:
    """Keep the `count` best, of which the last has the logit `threshold`; of tokens that tie with it those with the
    smallest ids."""
    kept = logits > threshold
    tied = np.flatnonzero(logits == threshold)
    kept[tied[: count - int(kept.sum())]] = True
    return np.where(kept, logits, np.asarray(-math.inf, dtype=logits.dtype))


def _logsumexp(logits: Logits) -> float:
    best = logits.max()
    return best + math.log(np.exp(logits - best).sum())


def log_softmax(logits: Logits) -> NDArray[np.float64]:
    """Natural-log probabilities (V,), in float64 whatever came in."""
    wide = logits.astype(np.float64)
    return wide - _logsumexp(wide)


def shape(
    logits: Logits,
    config: GenerationConfig,
    *,
    tokens: Sequence[int] = (),
    prompt_length: int = 0,
    forbidden: Sequence[int] = (),
    allowed: NDArray[np.bool_] | None = None,
    watch: Watch | None = None,
) -> Logits:
    """Logits (V,) after every setting of `config` that is not neutral, in the module's order.

    `tokens` is the text so far, of which the first `prompt_length` are the prompt. `config.do_sample` must be decided
    (see `settings.resolve`): without it temperature and the filters after it do not act. `watch(name, logits)` is told
    the result of each setting that acted; the trace listens there. The logits given are left as they are.
    """
    written = tokens[prompt_length:] if config.presence_penalty or config.frequency_penalty else ()
    acting: list[tuple[str, Callable[[Logits], Logits]]] = []
    if forbidden:
        acting.append(("min_new_tokens", lambda row: forbid(row, forbidden)))
    if config.logit_bias:
        acting.append(("logit_bias", lambda row: logit_bias(row, config.logit_bias)))
    if config.repetition_penalty != 1:
        acting.append(("repetition_penalty", lambda row: repetition_penalty(row, tokens, config.repetition_penalty)))
    if config.presence_penalty and len(written):
        acting.append(("presence_penalty", lambda row: presence_penalty(row, written, config.presence_penalty)))
    if config.frequency_penalty and len(written):
        acting.append(("frequency_penalty", lambda row: frequency_penalty(row, written, config.frequency_penalty)))
    if config.no_repeat_ngram_size:
        acting.append(("no_repeat_ngram_size", lambda row: no_repeat_ngrams(row, tokens, config.no_repeat_ngram_size)))
    if allowed is not None:
        acting.append(("constraint", lambda row: allow(row, allowed)))
    if config.do_sample:
        acting += _of_sampling(config)
        logits = logits.astype(np.float64)
    for name, function in acting:
        logits = function(logits)
        if watch is not None:
            watch(name, logits)
    return logits


def _of_sampling(config: GenerationConfig) -> list[tuple[str, Callable[[Logits], Logits]]]:
    acting: list[tuple[str, Callable[[Logits], Logits]]] = []
    if config.temperature != 1:
        acting.append(("temperature", lambda row: temperature(row, config.temperature)))
    if config.top_k:
        acting.append(("top_k", lambda row: top_k(row, config.top_k)))
    if config.top_p < 1:
        acting.append(("top_p", lambda row: top_p(row, config.top_p)))
    if config.min_p > 0:
        acting.append(("min_p", lambda row: min_p(row, config.min_p)))
    return acting


def greedy(logits: Logits) -> int:
    """The most likely id; the smallest id among equals."""
    best = int(logits.argmax())  # of a row with NaN, where the first NaN stands
    require_finite(float(logits[best]))
    return best


def sample(logits: Logits, u: float) -> int:
    """One id, by inversion of the cumulated distribution over ids at `u` in [0, 1).

    A token with probability zero is never chosen, at either edge: the first id whose cumulated mass *exceeds* u has
    mass of its own, and u times the total is kept below the total.
    """
    best = float(logits.max())
    require_finite(best)
    ids = np.flatnonzero(logits > -math.inf)  # after a filter few are left, and the others would add zeros
    cumulated = np.exp(logits[ids].astype(np.float64) - best).cumsum()
    target = min(u * cumulated[-1], np.nextafter(cumulated[-1], 0.0))
    return int(ids[cumulated.searchsorted(target, side="right")])


def draw(seed: int, position: int, number: int) -> float:
    """The number in [0, 1) that decides the token at `position` of the sequence numbered `number` (0 for the first that
    a prompt returns). A pure function: nothing is remembered between calls."""
    return uniform(seed, "sample", position, number)


def require_finite(best: float) -> None:
    """`best` is a row's largest logit: NaN if any of the row is (NumPy's max hands NaN through)."""
    if best == -math.inf:
        raise MalmoiError(
            "Every token is forbidden here: logit_bias, no_repeat_ngram_size, min_new_tokens or a constraint leave "
            "nothing to choose from. Loosen one of them."
        )
    if not math.isfinite(best):
        raise MalmoiError(
            f"The model's logits are broken: the largest is {best}. Its weights or activations hold NaN or infinity. "
            "Load an earlier checkpoint, or train with a smaller learning_rate."
        )
