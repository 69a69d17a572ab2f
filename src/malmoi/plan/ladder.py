"""Which small runs tell the most about large ones: a ladder of sizes, each trained for several lengths.

A scaling law separates what size buys from what text buys, so both must vary on their own: every size is trained for
every length. The sizes keep the shape of the model that is asked about (width, depth, heads and feed-forward shrink
together), and every run is as long as its own learning-rate schedule. Reading several lengths off one long run would
save three quarters of the time and spoil the law: in the middle of its schedule a run is worse than one that was meant
to end there (Hoffmann et al. 2022, section 3.1, on why earlier laws asked for too little text).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from malmoi.config import MalmoiError, ModelConfig
from malmoi.plan.counts import totals

SIZES, LENGTHS = 5, 4
BETWEEN_SIZES = 2**-0.5  # of width and depth: about a third of the parameters
NARROWEST = 16  # of a hidden size: below it a model has hardly a shape
LEAST_STEPS = 64  # of the shortest run
CLOSEST, WIDEST = 2.0, 3.0  # factor between neighbouring lengths
MARGIN = 0.95  # of a budget is planned
EPOCHS = 4.0  # as often as a text is worth reading: repeated tokens count almost like new ones up to four epochs
# (Muennighoff et al. 2023, "Scaling data-constrained language models")


@dataclass(frozen=True, slots=True)
class Rung:
    """One run of the ladder: settings of the recipe that differ, the model's parameters, tokens it learns from."""

    model: dict[str, Any]
    parameters: int
    tokens: int

    @property
    def name(self) -> str:
        """The run's folder."""
        return f"{self.parameters}-parameters-{self.tokens}-tokens"


def parameters(config: ModelConfig) -> int:
    """The N of a scaling law: parameters that a token is multiplied with.

    A table that is only read from (the input embedding, where the output has one of its own) costs no computation and
    is left out, so that 6 N D is the cost of training.
    """
    return totals(config).active_without_input_embedding


def scaled(config: ModelConfig, factor: float) -> ModelConfig:
    """The same shape at `factor` of the width and of the depth; heads keep their width as far as whole heads allow."""
    heads = max(1, round(config.num_attention_heads * factor))
    head_dim = _whole(config.head_dim * config.num_attention_heads * factor / heads)
    share = heads * head_dim / (config.num_attention_heads * config.head_dim)  # of the width, after rounding
    wanted = max(1, round(config.num_key_value_heads * heads / config.num_attention_heads))
    layers = max(1, round(config.num_hidden_layers * factor))
    changes: dict[str, Any] = {
        "hidden_size": max(2, round(config.hidden_size * share)),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": max(divisor for divisor in range(1, wanted + 1) if heads % divisor == 0),
        "head_dim": head_dim,
        "intermediate_size": _whole(config.intermediate_size * share),
        "moe_intermediate_size": _whole(config.moe_intermediate_size * share),
        "layer_types": config.layer_types[:layers],
    }
    return config.replace(**changes)


def _whole(size: float) -> int:
    """A multiple of 8, which processors like; of 2 where 8 would bend the shape."""
    unit = 8 if size >= 24 else 2
    return max(2, round(size / unit) * unit)


def sizes(config: ModelConfig) -> list[ModelConfig]:
    """The model itself and smaller ones of its shape, down to the narrowest; the smallest first, no two equal."""
    found: dict[int, ModelConfig] = {parameters(config): config}
    factor = BETWEEN_SIZES
    while config.hidden_size * factor >= NARROWEST:
        smaller = scaled(config, factor)
        found.setdefault(parameters(smaller), smaller)
        factor *= BETWEEN_SIZES
    return [found[count] for count in sorted(found)]


def lengths(
    seconds_per_token: Sequence[float], seconds: float, step_tokens: int, unique_tokens: int
) -> tuple[int, ...] | None:
    """The lengths, in tokens, at which these sizes can all be trained in `seconds`; the shortest first.

    They lie two- to threefold apart: the wider, the better the law is pinned down. The longest reads a text of
    `unique_tokens` four times at the most. None where the shortest would have fewer than 64 steps of `step_tokens`.
    """
    least, most = LEAST_STEPS * step_tokens, EPOCHS * unique_tokens
    for apart in (WIDEST, CLOSEST):
        shares = sum(apart**-i for i in range(LENGTHS))
        longest = min(MARGIN * seconds / (sum(seconds_per_token) * shares), most)
        if longest >= least * apart ** (LENGTHS - 1):
            break
        if apart == CLOSEST:
            return None
    apart = min(WIDEST, (longest / least) ** (1 / (LENGTHS - 1)))
    made = (longest * apart ** -(LENGTHS - 1 - i) for i in range(LENGTHS))
    return tuple(max(round(tokens / step_tokens), 1) * step_tokens for tokens in made)


def refusal(seconds_per_token: Sequence[float], seconds: float, step_tokens: int, unique_tokens: int) -> MalmoiError:
    """Why no ladder of these sizes stands: too little text, or too little time."""
    least = LEAST_STEPS * step_tokens
    longest = least * CLOSEST ** (LENGTHS - 1)
    if longest > EPOCHS * unique_tokens:
        return MalmoiError(
            f"There is too little text for a scaling law: the longest run needs {longest:,.0f} tokens ({LEAST_STEPS} "
            f"steps of {step_tokens:,}, doubled three times), and reading {unique_tokens:,} tokens more than "
            f"{EPOCHS:g} times tells nothing new. Add text, or make the batches smaller."
        )
    needed = longest * sum(seconds_per_token) * sum(CLOSEST**-i for i in range(LENGTHS)) / MARGIN / 60
    return MalmoiError(
        f"A budget of {seconds / 60:.3g} minutes is too short: the smallest ladder ({len(seconds_per_token)} sizes, "
        f"{LENGTHS} lengths of {least:,} to {longest:,.0f} tokens) takes about {needed:.2g} minutes here. Give "
        f"--budget {math.ceil(needed)}min, or make the batches smaller."
    )
