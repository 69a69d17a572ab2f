"""images.json as docs/results/images.md: the tables, and what they mean."""

from __future__ import annotations

from typing import Any

NAMES = {"en": "English", "ko": "Korean", "fr": "French"}
SETS = {
    "held_out": "emoji never seen, of a kind that is known",
    "second_style": "known emoji, in a style in which they were never seen",
    "trained": "drawings that were learned from (a sample)",
}
SPLITS = {"held_out": "Pairs of colour and shape never shown together", "train": "New pictures of known pairs"}
TASKS = {"draw": "drawn from a caption", "describe": "described", "question": "asked about"}


def percent(share: dict[str, Any]) -> str:
    return f"{share['exact']:.1%} ({share['low']:.1%} to {share['high']:.1%}, n = {share['n']})"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows)]


def render(found: dict[str, Any]) -> str:
    lines = [
        "# Pictures in, pictures out",
        "",
        "Written by `benchmarks/images.py`. A share is followed by its 95 % interval (Wilson) and the number of",
        "examples. What a recipe reaches depends on how long it ran and on how busy the machine was: see how many",
        "tokens it read.",
    ]
    parts = {"mnist": _mnist, "emoji": _emoji, "ways_in": _ways_in, "scenes": _scenes, "evaluated": _evaluated}
    for name, part in parts.items():
        if name in found:
            lines += ["", *part(found[name])]
    return "\n".join(lines) + "\n"


def _run(run: dict[str, Any], recipe: str) -> list[str]:
    loss = f"; held-out loss {run['held_out_loss']:.3f}" if run.get("held_out_loss") else ""
    return [
        f"Recipe `recipes/{recipe}.yaml`: {run['parameters']:,} parameters, {run['vocab_size']:,} tokens, "
        f"{run['steps']:,} steps, {run['tokens']:,} tokens read in {run['minutes']:.1f} minutes{loss}.",
        "",
    ]


def _mnist(part: dict[str, Any]) -> list[str]:
    rows = [
        [NAMES[r["language"]], percent(r), percent(d)] for r, d in zip(part["reading"], part["drawing"], strict=True)
    ]
    return [
        "## Handwritten digits",
        "",
        *_run(part["run"], "mnist"),
        *table(["language", "read (aim 98 %)", "drawn, by the judge (aim 95 %)"], rows),
        "",
        "Of MNIST's ten thousand test digits, split anew into 8,000 to learn from and 1,000 kept aside: not comparable",
        "with published figures.",
        "",
        f"The judge, a convolutional network that learned from real digits alone, is right on "
        f"{percent(part['judge_on_real'])} of real digits that it never saw.",
        "",
        "![Digits drawn from their names](images_mnist.png)",
        "",
        "0 to 9 from left to right; three rows from English names, three from Korean, three from French.",
        "",
        "The same drawings with other settings (those above: the last row's), all languages together:",
        "",
        *table(
            ["guidance", "temperature", "drawn, by the judge"],
            [[f"{r['guidance_scale']:g}", f"{r['temperature']:g}", percent(r)] for r in part["drawing_by_settings"]],
        ),
    ]


def _naming(rows: list[dict[str, Any]], what: str) -> list[list[str]]:
    return [
        [what, NAMES[r["language"]], percent(r["exact"]), percent(r["keyword"]), f"{r['keyword_by_chance']:.1%}"]
        for r in rows
    ]


_NAMING_HEAD = ["pictures", "language", "exact name", "a keyword", "a keyword by chance"]


def _samples(rows: list[dict[str, Any]]) -> list[str]:
    lines = []
    for row in rows:
        shown = "; ".join(f"{right} → {said or '(nothing)'}" for right, said in row["samples"])
        lines.append(f"- {NAMES[row['language']]}: {shown}")
    return lines


def _emoji(part: dict[str, Any]) -> list[str]:
    naming, drawing = part["naming"], part["drawing"]
    rows = [line for name, what in SETS.items() for line in _naming(naming[name], what)]
    drawn = [[NAMES[r["language"]], percent(r["own"]), percent(r["judge"])] for r in drawing["rows"]]
    return [
        "## Emoji",
        "",
        *_run(part["run"], "emoji"),
        *table(_NAMING_HEAD, rows),
        "",
        '"By chance" is how often the name of an emoji drawn by lot has a keyword of the right one. Right name → what',
        "was said, of emoji never seen:",
        "",
        *_samples(naming["held_out"]),
        "",
        f"Drawn from the names of known emoji, and told among {drawing['choices']} names (chance "
        f"{1 / drawing['choices']:.0%}):",
        "",
        *table(["language", "by the model's own description", "by the independent judge"], drawn),
        "",
        f"The judge itself, shown real drawings in the style that was kept aside, is right on "
        f"{percent(drawing['judge_on_second_style'])}.",
        "",
        "![Emoji drawn from their names](images_emoji.png)",
        "",
        "Pairs of rows in English, Korean and French: a real drawing above, the model's below.",
    ]


def _ways_in(part: dict[str, Any]) -> list[str]:
    rows = [
        [
            what,
            NAMES[codes["language"]],
            *(percent(side[key]) for key in ("exact", "keyword") for side in (codes, features)),
        ]
        for name, what in SETS.items()
        for codes, features in zip(part["codes"]["naming"][name], part["features"]["naming"][name], strict=True)
    ]
    told = [
        f"as {name}: {run['parameters']:,} parameters, {run['tokens']:,} tokens read in {run['minutes']:.1f} minutes"
        for name, run in ((name, part[name]["run"]) for name in ("codes", "features"))
    ]
    return [
        "## Two ways in",
        "",
        "The same documents, read by two models that learned at the same time, on one core each: what is only read",
        "comes in as the image tokenizer's codes, or through a vision tower (a recipe's `vision`) as features of the",
        "pixels.",
        f"Pictures {'; '.join(told)}.",
        "",
        *table(
            ["pictures", "language", "exact name, codes", "features", "a keyword, codes", "features"],
            rows,
        ),
    ]


def _scenes(part: dict[str, Any]) -> list[str]:
    lines = ["## Scenes of the Village", "", *_run(part["run"], "scenes")]
    for split, title in SPLITS.items():
        rows = [
            [
                TASKS[r["task"]],
                NAMES[r["language"]],
                percent(r),
                f"{r['things']:.1%}" if r["task"] != "question" else "",
            ]
            for r in part[split]
        ]
        lines += [f"{title}:", "", *table(["task", "language", "exactly right", "things right"], rows), ""]
    return [
        *lines,
        "A drawing is right where the reader of the renderer's own shapes finds exactly the things of the caption,",
        "each with its colour, size and place, and nothing else. Of real scenes that went through the image tokenizer",
        f"and back it still reads {percent(part['through_the_image_tokenizer'])} exactly.",
        "",
        "![Scenes and drawings](images_scenes.png)",
        "",
        "Above the pictures that the captions were made from, below what was drawn from the captions.",
    ]


def _evaluated(part: dict[str, Any]) -> list[str]:
    rows = _naming(part["naming"], f"{part['pictures']} pictures of another folder")
    return ["## Another folder", "", *table(_NAMING_HEAD, rows), "", *_samples(part["naming"])]
