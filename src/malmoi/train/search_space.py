"""What a sweep searches: settings, and for each of them the values that it may take.

    learning_rate                     the range that fits this recipe
    learning_rate=1e-4:1e-2           from low to high; rates are drawn on a logarithmic scale
    learning_rate=x0.3:x3             a factor of the recipe's own value
    weight_decay=0:0.3:linear         the scale said: linear, log, or powers (of two)
    optimizer=muon|adamw              one of several words or numbers

Ranges that nobody gave are centred on the recipe's own values, so that they fit a first training as well as a careful
fine-tuning: what is a small learning rate for one is a large one for the other.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from malmoi.config import Config, MalmoiError, nearest
from malmoi.config.frozen import branches

Scale = Literal["linear", "log", "powers"]
SCALES: tuple[Scale, ...] = ("linear", "log", "powers")
NEAR = 0.05  # of a range: a best value this close to an end may have its optimum beyond it

ALIASES = {
    "batch_size": "per_device_train_batch_size",
    "lr": "learning_rate",
    "dropout": "residual_dropout",
    "warmup": "warmup_steps",
}

DEFAULTS = {  # field -> what stands after its "=" when nothing is said
    "learning_rate": "x0.1:x10:log",
    "matrix_learning_rate": "x0.1:x10:log",
    "per_device_train_batch_size": "x0.25:x4:powers",
    "gradient_accumulation_steps": "1|2|4|8",
    "sequence_length": "x0.25:x1:powers",
    "weight_decay": "0:0.3:linear",
    "adam_beta1": "0.8:0.95:linear",
    "adam_beta2": "0.9:0.999:linear",
    "adam_epsilon": "1e-10:1e-6:log",
    "muon_momentum": "0.85:0.98:linear",
    "max_grad_norm": "0.1:10:log",
    "label_smoothing": "0:0.1:linear",
    "ema_decay": "0|0.9|0.98|0.99|0.995",
    "warmup_steps": "0:0.2:linear",
    "decay_steps": "0.1:0.9:linear",
    "min_learning_rate_ratio": "0:0.2:linear",
    "embedding_dropout": "0:0.3:linear",
    "attention_dropout": "0:0.3:linear",
    "residual_dropout": "0:0.3:linear",
    "initializer_range": "0.005:0.08:log",
    "lora_dropout": "0:0.2:linear",
    "lora_alpha": "x0.25:x4:powers",
    "r": "x0.25:x4:powers",
}
NOT_SETTINGS = {  # of the training record: why it is not searched
    **dict.fromkeys(
        ("max_steps", "max_minutes", "num_train_epochs"),
        "every trial learns from the same amount of text; more of it always looks better",
    ),
    **dict.fromkeys(("eval_steps", "eval_tokens"), "it decides how a run is measured, not how it learns"),
    "seed": "it is chance and not a setting; the best setting is repeated with other seeds at the end",
    **dict.fromkeys(
        ("early_stopping_patience", "early_stopping_threshold", "load_best_model_at_end", "memorization_samples"),
        "it watches a run and does not change what it learns",
    ),
    **dict.fromkeys(
        ("save_steps", "save_total_limit", "logging_steps", "track", "num_threads", "dtype", "torch_compile"),
        "it changes what is kept or how fast it goes, not what is learned",
    ),
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One searched setting: either `choices`, or a range from `low` to `high`, both included."""

    name: str  # "train.learning_rate"
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    scale: Scale = "linear"
    whole: bool = False
    ordered: bool = False  # choices that are sizes, in their order

    @property
    def short(self) -> str:
        """The name without its record."""
        return self.name.partition(".")[2]

    def holds(self, value: Any) -> bool:
        """May the setting take this value?"""
        if self.choices:
            return value in self.choices
        return isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high

    def grid(self, number: int) -> tuple[Any, ...]:
        """`number` values spread over the range, ends included; all choices."""
        if self.choices:
            return self.choices
        shares = [i / (number - 1) for i in range(number)]
        if self.scale == "log":
            values = [self.low * (self.high / self.low) ** share for share in shares]
        else:
            values = [self.low + (self.high - self.low) * share for share in shares]
        values = [self.low, *values[1:-1], self.high]  # exactly, whatever the powers rounded
        return tuple(dict.fromkeys(round(value) for value in values)) if self.whole else tuple(values)

    def extremes(self) -> tuple[Any, ...]:
        """The values at which a recipe would refuse the setting, if it refuses any."""
        return self.choices or (self.low, self.high)

    def edge(self, value: Any) -> Literal["", "low", "high"]:
        """Which end of the range a value lies at, if any."""
        if self.choices:
            if not self.ordered or len(self.choices) < 3 or value not in (self.choices[0], self.choices[-1]):
                return ""
            return "low" if value == self.choices[0] else "high"
        if self.scale == "log":
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return "low" if share <= NEAR else "high" if share >= 1 - NEAR else ""

    def words(self) -> str:
        """The range as it is written after `--over`, filled in."""
        if self.choices:
            return "|".join(map(shown, self.choices))
        return f"{shown(self.low)}:{shown(self.high)}:{self.scale}"


def shown(value: Any) -> str:
    """A value as a person reads it: four digits of a fraction."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def parse(
    text: str, values: Mapping[str, Mapping[str, Any]], records: Mapping[str, type[Config]]
) -> tuple[Setting, ...]:
    """The settings of `--over`.

    `values`: record name ("train", "model", "lora") -> field -> the recipe's own value. `records`: the record classes
    that may be searched. Raises `MalmoiError` for a name that no record has, an empty range, a setting named twice.
    Whether a recipe can take the values is for the recipe to say: see `Setting.extremes`.
    """
    found: dict[str, Setting] = {}
    for word in filter(None, (part.strip() for part in text.split(","))):
        name, sign, given = (part.strip() for part in word.partition("="))
        record, field = _field(name, records)
        own = values.get(record, {}).get(field)
        if sign and not given:
            raise MalmoiError(f"--over {word}: nothing stands after '='. Give a range such as 0.001:0.01, or a|b.")
        setting = _setting(record, field, given or _default(record, field, own, records), own, records[record])
        if setting.name in found:
            raise MalmoiError(f"--over names {setting.name} twice.")
        found[setting.name] = setting
    if not found:
        raise MalmoiError("--over names no setting. For example: --over learning_rate,batch_size,weight_decay")
    return tuple(found.values())


def _field(name: str, records: Mapping[str, type[Config]]) -> tuple[str, str]:
    """The record and field that a name means: `lr`, `train.learning_rate`, `residual_dropout`, `lora.r`."""
    record, dot, field = name.rpartition(".")
    field = ALIASES.get(field, field)
    homes = [record] if dot else [each for each in records if field in records[each].model_fields]
    if not homes or homes[0] not in records or field not in records[homes[0]].model_fields:
        known = [*ALIASES, *(field for cls in records.values() for field in cls.model_fields)]
        hint = nearest(name, known) or f" Settings with a range of their own: {', '.join(DEFAULTS)}."
        raise MalmoiError(f"--over {name}: there is no such setting here.{hint}")
    if homes[0] == "train" and field in NOT_SETTINGS:
        raise MalmoiError(f"--over {name}: {field} cannot be searched: {NOT_SETTINGS[field]}.")
    return homes[0], field


def _default(record: str, field: str, own: Any, records: Mapping[str, type[Config]]) -> str:
    if field in DEFAULTS:
        return DEFAULTS[field]
    annotation = records[record].model_fields[field].annotation
    words = [word for kind in branches(annotation) if get_origin(kind) is Literal for word in get_args(kind)]
    if words:
        return "|".join(map(str, words))
    if bool in branches(annotation):
        return "true|false"
    raise MalmoiError(
        f"--over {field}: has no range of its own; give one, such as {field}=LOW:HIGH or {field}=A|B "
        f"(the recipe has {own})."
    )


def _setting(record: str, field: str, given: str, own: Any, cls: type[Config]) -> Setting:
    name, wrong = f"{record}.{field}", f"--over {field}={given}"
    parts = given.split(":")
    scale = parts.pop() if len(parts) == 3 else ""
    if scale and scale not in SCALES:
        raise MalmoiError(f"{wrong}: '{scale}' is no scale.{nearest(scale, SCALES)} Scales: {', '.join(SCALES)}.")
    if len(parts) == 1:
        choices = tuple(dict.fromkeys(_value(word, own, wrong) for word in given.split("|")))
        if len(choices) < 2:
            raise MalmoiError(f"{wrong}: one value is no choice. Give several (A|B|C) or a range (LOW:HIGH).")
        numbers = all(isinstance(choice, int | float) and not isinstance(choice, bool) for choice in choices)
        return Setting(name, choices=tuple(sorted(choices)) if numbers else choices, ordered=numbers)
    low, high = (_value(word, own, wrong) for word in parts) if len(parts) == 2 else (None, None)
    if not isinstance(low, int | float) or not isinstance(high, int | float):
        raise MalmoiError(f"{wrong}: a range is LOW:HIGH, such as 0.001:0.01, and may end in :log or :linear.")
    if not low < high:
        raise MalmoiError(f"{wrong}: this range is empty; its first number must be the smaller one.")
    scale = scale or _scale(field, low, high)
    if scale == "log" and low <= 0:
        raise MalmoiError(f"{wrong}: a logarithmic range begins above 0. Begin it there, or write {given}:linear.")
    whole = int in branches(cls.model_fields[field].annotation)
    if scale == "powers":
        return _powers(name, low, high, whole, wrong)
    low, high = (round(low), round(high)) if whole else (float(low), float(high))
    return Setting(name, low=low, high=high, scale="log" if scale == "log" else "linear", whole=whole)


def _powers(name: str, low: float, high: float, whole: bool, wrong: str) -> Setting:
    first, last = math.ceil(math.log2(max(low, 1)) - 1e-9), math.floor(math.log2(max(high, 1)) + 1e-9)
    if last <= first:
        raise MalmoiError(f"{wrong}: there are not two powers of two between {low:g} and {high:g}.")
    powers = [2**exponent for exponent in range(first, last + 1)]
    return Setting(name, choices=tuple(powers if whole else map(float, powers)), ordered=True)


def _scale(field: str, low: float, high: float) -> str:
    """The scale of a range that names none: the setting's own, or logarithmic where it spans more than thirtyfold."""
    _, _, own = DEFAULTS.get(field, "").rpartition(":")
    if own in SCALES:
        return own
    return "log" if low > 0 and high / low > 30 else "linear"


def _value(word: str, own: Any, wrong: str) -> Any:
    """`8`, `1e-4`, `x0.5` (times the recipe's own value), `true`, `cosine`."""
    word = word.strip()
    if re.fullmatch(r"x[0-9.]+(e[+-]?\d+)?", word):
        if not isinstance(own, int | float) or isinstance(own, bool):
            raise MalmoiError(f"{wrong}: {word} is a factor of the recipe's own value, but the recipe has {own}.")
        made = float(word[1:]) * own
        return max(1, round(made)) if isinstance(own, int) else made
    if word.lower() in ("true", "false"):
        return word.lower() == "true"
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word
