"""Why a number of a plan is what it is: its formula, its source, and the numbers that were put in.

The texts stand in `explanations.yaml` under the number's own name in the answer, such as `memory.activations`; those of
`explanations_here.yaml` take their place where the plan is of our own training on a processor.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from malmoi.config import MalmoiError, nearest


@functools.cache
def texts(here: bool = False) -> dict[str, dict[str, Any]]:
    """Every explanation: {name: {formula, source, with}}. `here`: of our own training on a processor."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    found: dict[str, dict[str, Any]] = {}
    for name in ("explanations.yaml", "explanations_here.yaml") if here else ("explanations.yaml",):
        found |= yaml.load(Path(__file__).with_name(name).read_text(encoding="utf-8"), Loader=loader)
    return found


def value(answer: dict[str, Any], name: str) -> Any:
    """A number of the answer by its dotted name; None where this plan has none."""
    found: Any = answer
    for part in name.split("."):
        if not isinstance(found, dict) or part not in found:
            return None
        found = found[part]
    return found


def explain(answer: dict[str, Any], name: str) -> dict[str, Any]:
    """`name`'s value, formula, source and inputs. Raises `MalmoiError` with the nearest name for an unknown one."""
    if name not in texts():
        raise MalmoiError(f"There is no number '{name}' in a plan.{nearest(name, texts())} All: {', '.join(texts())}.")
    found = value(answer, name)
    if found is None:
        raise MalmoiError(f"This plan has no {name}: {answer.get('verdict') or 'it does not ask for it'}.")
    text = texts(bool(value(answer, "machine.cpu")))[name]
    inputs = {each: value(answer, each) for each in text["with"]}
    return {
        "name": name,
        "value": found,
        "formula": text["formula"],
        "source": text["source"],
        "inputs": {each: one for each, one in inputs.items() if one is not None},
    }
