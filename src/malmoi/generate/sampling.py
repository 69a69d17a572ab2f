"""From logits to one token: small functions, applied in one order.

A language model gives a number (a logit) to every token of its vocabulary; the settings of `GenerationConfig` reshape
that distribution, and one token is chosen from what is left. The order is the one that Hugging Face transformers uses:

    forbidden ids -> repetition_penalty -> temperature -> top_k -> top_p -> min_p -> choose

Each setting is a pure function from logits to logits; a token that it takes away gets minus infinity. Ties are always
broken in favour of the smaller id, so a result never depends on how a sort happened to be written, and `top_k=1` is
greedy to the letter. Sampling is inversion: a number u in [0, 1) picks the first id, in the order of ids, at which the
cumulated probability exceeds u. The number comes from `randomness.uniform(seed, "sample", position, sample)`: nobody's
draw depends on who else is in the batch.

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from malmoi.config import GenerationConfig, MalmoiError
from malmoi.randomness import uniform

Watch = Callable[[str, Tensor], None]

_FEW = 256  # a nucleus is rarely larger: look here before sorting the whole vocabulary


def forbid(logits: Tensor, ids: Sequence[int]) -> Tensor:
    """Logits (B, V) in which `ids` cannot be chosen: used for the end-of-text tokens below `min_new_tokens`."""
    logits = logits.clone()
    logits[:, list(ids)] = -math.inf
    return logits


def repetition_penalty(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make tokens that occurred already less likely (`penalty` > 1) or more likely (< 1).

    A positive logit is divided by the penalty and a negative one multiplied, as transformers does; Keskar et al.,
    "CTRL" (2019), section 4.1, has only the division. `seen` (B, V) is true where a token stands in the row so far.
    """
    penalised = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(seen, penalised, logits)


def temperature(logits: Tensor, value: float) -> Tensor:
    """Sharpen (`value` < 1) or flatten (> 1) the distribution: p becomes p^(1/value), made to sum to one again.

    The largest logit is moved to zero first, so that a tiny temperature cannot overflow.
    """
    return (logits - logits.amax(-1, keepdim=True)) / value


def top_k(logits: Tensor, k: int) -> Tensor:
    """Keep exactly the `k` most likely tokens (Fan et al., "Hierarchical Neural Story Generation", 2018)."""
    if k >= logits.shape[-1]:
        return logits
    threshold = logits.topk(k).values[:, -1:]
    return _keep_best(logits, threshold, torch.full_like(threshold, k, dtype=torch.long))


def top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the smallest set of most likely tokens whose mass reaches `p` (Holtzman et al., "The Curious Case of
    Neural Text Degeneration", 2020). At least one token always stays."""
    mass = logits.logsumexp(-1, keepdim=True)
    best = logits.topk(min(_FEW, logits.shape[-1])).values
    if bool(((best - mass).exp().sum(-1) < p).any()):
        best = logits.sort(-1, descending=True).values
    probabilities = (best - mass).exp()
    before = probabilities.cumsum(-1) - probabilities  # the mass of all that is likelier
    count = (before < p).sum(-1, keepdim=True).clamp_(min=1)
    return _keep_best(logits, best.gather(-1, count - 1), count)


def min_p(logits: Tensor, share: float) -> Tensor:
    """Keep tokens at least `share` times as likely as the likeliest (Nguyen et al., "Turning Up the Heat", 2024)."""
    if share == 0:
        return logits
    return logits.masked_fill(logits < logits.amax(-1, keepdim=True) + math.log(share), -math.inf)


def _keep_best(logits: Tensor, threshold: Tensor, count: Tensor) -> Tensor:
    """Keep the `count` (B, 1) best of each row, of which the last has the logit `threshold` (B, 1); of tokens that
    tie with it those with the smallest ids."""
    above, tied = logits > threshold, logits == threshold
    kept = above | (tied & (tied.cumsum(-1) <= count - above.sum(-1, keepdim=True)))
    return logits.masked_fill(~kept, -math.inf)


def shape(
    logits: Tensor,
    config: GenerationConfig,
    *,
    seen: Tensor | None = None,
    forbidden: Sequence[int] = (),
    watch: Watch | None = None,
) -> Tensor:
    """Logits (B, V) after every setting of `config` that is not neutral, in the module's order.

    `config.do_sample` must be decided (see `settings.resolve`): without it only the forbidden ids and the repetition
    penalty act. `watch(name, logits)` is told the result of each setting that acted; the trace listens there.
    """

    def after(name: str, changed: Tensor) -> Tensor:
        if watch is not None:
            watch(name, changed)
        return changed

    if forbidden:
        logits = after("min_new_tokens", forbid(logits, forbidden))
    if config.repetition_penalty != 1 and seen is not None:
        logits = after("repetition_penalty", repetition_penalty(logits, seen, config.repetition_penalty))
    if not config.do_sample:
        return logits
    if logits.device.type != "mps":  # Apple's GPUs have no float64
        logits = logits.double()
    if config.temperature != 1:
        logits = after("temperature", temperature(logits, config.temperature))
    if config.top_k:
        logits = after("top_k", top_k(logits, config.top_k))
    if config.top_p < 1:
        logits = after("top_p", top_p(logits, config.top_p))
    if config.min_p > 0:
        logits = after("min_p", min_p(logits, config.min_p))
    return logits


def greedy(logits: Tensor) -> Tensor:
    """The most likely id of each row (B,); the smallest id among equals."""
    best, ids = logits.max(-1)
    _require_finite(best)
    return ids


def sample(logits: Tensor, uniforms: Sequence[float]) -> Tensor:
    """One id a row (B,), by inversion of the cumulated distribution over ids at `uniforms` (B numbers in [0, 1)).

    A token with probability zero is never chosen, at either edge: the first id whose cumulated mass *exceeds* u has
    mass of its own, and u times the total is kept below the total.
    """
    _require_finite(logits.amax(-1))
    cumulated = logits.softmax(-1).cumsum(-1)
    total = cumulated[:, -1:]
    u = torch.tensor(uniforms, dtype=cumulated.dtype, device=logits.device).unsqueeze(-1)
    target = torch.minimum(u * total, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(cumulated, target, right=True).squeeze(-1)


def draws(seed: int, positions: Sequence[int], samples: Sequence[int]) -> list[float]:
    """The numbers that decide the tokens at `positions` of the sequences numbered `samples` (0 for the first sequence
    that a prompt returns). A pure function: nothing is remembered between calls."""
    return [uniform(seed, "sample", position, number) for position, number in zip(positions, samples, strict=True)]


def _require_finite(best: Tensor) -> None:
    """`best` (B,) is each row's largest logit: NaN if any of the row is (torch's max hands NaN through)."""
    if not bool(best.isfinite().all()):
        row = int((~best.isfinite()).nonzero()[0])
        value = float(best[row])
        raise MalmoiError(
            f"The model's logits are broken: the largest of row {row} is {value}. "
            "Its weights or activations hold NaN or infinity, or every token was forbidden. "
            "Load an earlier checkpoint, or train with a smaller learning_rate."
        )
