"""Why a number of a plan is what it is: its formula, its source, and the numbers that were put in.

The texts stand in `explanations.yaml` under the number's own name in the answer, such as `memory.activations`; those of
`explanations_here.yaml` (our own training on a processor) and `explanations_serving.yaml` take their place in such
plans.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Literal

from malmoi.config import MalmoiError, nearest

Kind = Literal["cluster", "here", "serving"]


@functools.cache
def texts(kind: Kind = "cluster") -> dict[str, dict[str, Any]]:
    """Every explanation of a kind of plan: {name: {formula, source, with}}."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    found: dict[str, dict[str, Any]] = {}
    for name in ("explanations", *([] if kind == "cluster" else [f"explanations_{kind}"])):
        found |= yaml.load(Path(__file__).with_name(f"{name}.yaml").read_text(encoding="utf-8"), Loader=loader)
    return found


def kind_of(answer: dict[str, Any]) -> Kind:
    """Which program a plan's numbers are of."""
    if "users" in answer:
        return "serving"
    return "here" if value(answer, "machine.cpu") else "cluster"


def value(answer: dict[str, Any], name: str) -> Any:
    """A number of the answer by its dotted name; None where this plan has none."""
    found: Any = answer
    for part in name.split("."):
        if not isinstance(found, dict) or part not in found:
            return None
        found = found[part]
    return found


def explain(answer: dict[str, Any], name: str) -> dict[str, Any]:
    """`name`'s value, formula, source and inputs. Raises `MalmoiError` with the nearest name for an unknown one.

    Where a cluster is too small, the numbers are those of the plan for enough devices.
    """
    known = texts(kind_of(answer))
    if name not in known:
        raise MalmoiError(f"There is no number '{name}' in a plan.{nearest(name, known)} All: {', '.join(known)}.")
    found = value(answer, name)
    if found is None and "enough" in answer:
        return explain(answer["enough"], name)
    if found is None:
        raise MalmoiError(f"This plan has no {name}: {answer.get('verdict') or 'it does not ask for it'}.")
    text = known[name]
    inputs = {each: value(answer, each) for each in text["with"]}
    return {
        "name": name,
        "value": found,
        "formula": text["formula"],
        "source": text["source"],
        "inputs": {each: one for each, one in inputs.items() if one is not None},
    }
