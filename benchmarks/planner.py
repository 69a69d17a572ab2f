"""The planner against published numbers: every row's error, failures included.

    python benchmarks/planner.py                        (../shared/anchors/planner into docs/results/planner.md)
    python benchmarks/planner.py --published FOLDER     (any folder with the same tables; fits nothing)
    python benchmarks/planner.py --fit                  (fits the constants, cross-validates, writes constants.json)

Exact things (parameters, bytes of the cache) must be equal; arithmetic (FLOPs, MFU, CO2) must agree; predictions
(memory, seconds, device-hours) have an error, which is printed for every row. Step times come in two columns: with the
constants that were fitted on all systems, and with constants fitted without the row's own system.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from malmoi.plan import physics as constants_of
from malmoi.plan.physics import Physics, constants, physics
from planner_checks import Check, arithmetic, memory_checks
from planner_fit import cross_validated, errors, fit
from planner_rows import Case, cases

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
PUBLISHED = ROOT.parent / "shared" / "anchors" / "planner"
CONSTANTS = Path(constants_of.__file__).with_name("constants.json")
LEVEL = 0.9
OPEN = """(chosen): the row leaves micro-batch, interleaving or recomputation open; of what divides and fits, the layout
with the middle time stands for it. H100's GPT OSS row contradicts itself: 512 rows over 16 replicas of 4 are
8 micro-batches, not the 2 that it prints."""


def summary(logs: np.ndarray) -> dict[str, float]:
    """What a column of errors amounts to; `low` and `high` are factors of nine in ten rows."""
    sizes = np.abs(np.expm1(logs))
    low, high = np.exp(-np.quantile(logs, [1 - (1 - LEVEL) / 2, (1 - LEVEL) / 2]))
    found = {
        "median": np.median(sizes),
        "within_5": (sizes <= 0.05).mean(),
        "within_10": (sizes <= 0.10).mean(),
        "worst": sizes.max(),
        "low": min(low, 1.0),
        "high": max(high, 1.0),
    }
    return {key: round(float(value), 4) for key, value in found.items()}


def fit_and_write(rows: Sequence[Case]) -> None:
    """The fit on all systems, what it is worth without each, into the package."""
    values = fit(rows)
    each = cross_validated(rows)
    logs = np.concatenate([found[1] for found in each.values()])
    by_case = {case.key: 0.0 for case in rows}
    for system, (_, found) in each.items():
        for case, error in zip([case for case in rows if case.system == system], found, strict=True):
            by_case[case.key] = round(float(error), 5)
    written = {
        "made_by": "benchmarks/planner.py --fit",
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "rows": len(rows),
        "systems": list(each),
        "values": {key: float(f"{value:.4g}") for key, value in asdict(values).items()},
        "fitted": summary(errors(rows, values)),
        "cross_validated": summary(logs),
        "cross_validated_logs": by_case,
        "values_without": {
            system: {key: float(f"{value:.4g}") for key, value in asdict(found[0]).items()}
            for system, found in each.items()
        },
    }
    CONSTANTS.write_text(json.dumps(written, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    constants.cache_clear()


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(headings) + " |", "| " + " | ".join("---" for _ in headings) + " |"]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


def check_lines(title: str, text: str, checks: Sequence[Check]) -> list[str]:
    """A section: every row with its error, and how many keep the target."""
    if not checks:
        return []
    kept = sum(check.kept for check in checks)
    rows = [
        (each.what, each.shown(each.published), each.shown(each.ours), each.error_words, each.verdict)
        for each in checks
    ]
    head = [f"## {title}", "", text, "", f"{kept} of {len(checks)} rows keep the target.", ""]
    return [*head, *table(("row", "published", "planner", "error", "target"), rows)]


def step_lines(rows: Sequence[Case], values: Physics, known: dict[str, float]) -> list[str]:
    """Step times: fitted, and without the row's own system where the row was part of the fit."""
    if not rows:
        return []
    fitted = errors(rows, values)
    lines = ["## Seconds of a step", ""]
    body = []
    for case, error in zip(rows, fitted, strict=True):
        other = known.get(case.key)
        step, layout = case.step(values)
        body.append(
            (
                case.system,
                case.name,
                f"{case.seconds:.3g}",
                f"{step.total:.3g}",
                f"{np.expm1(error):+.1%}",
                "not in the fit" if other is None else f"{np.expm1(other):+.1%}",
                f"{layout.micro_batch} x {layout.interleave}, {layout.recompute}"
                + (" (chosen)" if len(case.layouts) > 1 else ""),
            )
        )
    for name, logs in (
        ("constants fitted on all systems", fitted),
        ("constants fitted without the row's system", np.array([known[c.key] for c in rows if c.key in known])),
        (
            "rows that no fit has seen",
            np.array([error for case, error in zip(rows, fitted, strict=True) if case.key not in known]),
        ),
    ):
        if len(logs):
            found = summary(logs)
            lines.append(
                f"- {name} ({len(logs)} rows): median error {found['median']:.1%}, within 5 % {found['within_5']:.0%}, "
                f"within 10 % {found['within_10']:.0%}, worst {found['worst']:.0%}"
            )
    lines += ["", "Targets: median 5 %, nine in ten rows within 10 %.", "", OPEN, ""]
    headings = (
        "system",
        "run",
        "published s",
        "planner s",
        "error",
        "without its system",
        "micro-batch x interleave, recompute",
    )
    return lines + table(headings, body)


def constants_lines() -> list[str]:
    found = constants()
    values, start = found["values"], asdict(Physics())
    assert isinstance(values, dict)
    rows = [(key, f"{start[key]:.4g}", f"{value:.4g}") for key, value in values.items()]
    text = "What each means stands beside it in `malmoi/plan/physics.py` (`Physics`)."
    return ["## The constants", "", text, "", *table(("constant", "physical beginning", "fitted"), rows)]


def report(folder: Path) -> str:
    rows = cases(folder)
    known = constants()["cross_validated_logs"]
    assert isinstance(known, dict)
    lines = [
        "# The planner against published numbers",
        "",
        "Written by `benchmarks/planner.py`. Nothing is tuned for a row or a publication; rows that miss stay in.",
        "",
    ]
    for section in (*arithmetic(folder), *memory_checks(folder)):
        lines += check_lines(*section)
    lines += step_lines(rows, physics(), known)
    lines += constants_lines()
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--published", type=Path, default=PUBLISHED, help="folder of tables")
    parser.add_argument("--fit", action="store_true", help="fit the constants first")
    given = parser.parse_args()
    if not given.published.is_dir():
        raise SystemExit(f"{given.published}: there is no such folder of tables.")
    if given.fit:
        fit_and_write(cases(given.published))
    text = report(given.published)
    if given.published.resolve() == PUBLISHED.resolve():
        (RESULTS / "planner.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
