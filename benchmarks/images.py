"""Pictures in and pictures out: what the three recipes with pictures reach, counted.

    malmoi train recipes/mnist.yaml --out runs/mnist        # and emoji, scenes
    python benchmarks/images.py mnist emoji scenes --runs runs --data ../shared/data/images
    python benchmarks/images.py emoji --runs runs --evaluate FOLDER      # another folder of pictures and labels

    one="--set train.num_threads=1 --set train.max_minutes=32"
    eyes="--set vision.image_size=48 --set model.num_hidden_layers=3"
    malmoi train recipes/emoji.yaml $one --out runs/emoji_codes & malmoi train recipes/emoji.yaml $one $eyes \
        --out runs/emoji_features & wait
    python benchmarks/images.py ways_in

mnist: digits that training never saw, read as captions; digits drawn on request, judged by a convolutional network
that has seen real digits alone. emoji: names in three languages of emoji that training never saw (of a kind that it
knows) and of known emoji in a style in which it never saw them; drawings from names, judged by the model's own
describer and by an independent network, each choosing among twenty names. scenes: the Village's pictures with pairs of
colour and shape that were never shown together, and new pictures of known pairs; every answer and drawing is right or
it is not. ways_in: the names again, read as codes and, through a vision tower, as features, by two models that learned
at the same time on a core each.

`--evaluate` reads another folder in the emoji's format (labels.jsonl, pictures) and names everything in it.

Writes docs/results/images.md, images.json and grids of samples as images_*.png; parts that are not asked for keep what
was measured before.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from images_judge import Judge, learn, scores
from images_report import render
from malmoi.cli.folders import model_folder, open_model, open_speaker
from malmoi.data import emoji as emoji_data
from malmoi.data import mnist as mnist_data
from malmoi.data.captions import LABELS, LANGUAGES
from malmoi.data.village import pictures as village_pictures
from malmoi.evaluate import pictures as measured
from malmoi.evaluate.village import share
from malmoi.formats import llava
from malmoi.tokens.picture import Picture, fit, png
from malmoi.tokens.tokenizer import GPT4Tokenizer
from malmoi.train.record import read_metrics

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
Say = Callable[[list[tuple[Picture, str]]], list[str]]  # pictures and prompts -> what a model says to each
CHOICES = 20  # names that a drawing is to be told among


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("parts", nargs="*", metavar="PART", help="mnist, emoji, scenes, ways_in")
    options.add_argument("--runs", type=Path, default=ROOT / "runs", help="the folder that holds the runs, by name")
    options.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "images")
    options.add_argument("--evaluate", type=Path, help="another folder of pictures and labels, in the emoji's format")
    options.add_argument("-n", type=int, default=50, help="examples of each task and language, drawings of each kind")
    options.add_argument("--judge-seconds", type=float, default=150)
    options.add_argument("--out", type=Path, default=RESULTS)
    asked = options.parse_args()
    measure = {"mnist": mnist, "emoji": emoji, "scenes": scenes, "ways_in": ways_in}
    if unknown := set(asked.parts) - set(measure):
        options.error(f"there is no part {', '.join(sorted(unknown))}; parts: {', '.join(measure)}")
    asked.out.mkdir(parents=True, exist_ok=True)
    path = asked.out / "images.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for part in asked.parts:
        begin = time.perf_counter()
        found[part] = measure[part](asked)
        found[part]["minutes_measuring"] = (time.perf_counter() - begin) / 60
        write(asked.out, found)
    if asked.evaluate is not None:
        found["evaluated"] = another(asked)
        write(asked.out, found)


def write(out: Path, found: dict[str, Any]) -> None:
    (out / "images.json").write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    (out / "images.md").write_text(render(found), encoding="utf-8")


def run_facts(run: Path) -> dict[str, Any]:
    """How long a run learned, on what, and how far it came, by its own records."""
    metrics = read_metrics(run)
    held = [entry["val_loss"] for entry in metrics if entry.get("val_loss") is not None]
    last = metrics[-1]
    weights = Path(model_folder(run)) / "model.safetensors"
    parameters = sum(math.prod(tensor.shape) for tensor in load_file(weights).values())
    return {
        "parameters": parameters,
        "vocab_size": len(GPT4Tokenizer.from_pretrained(model_folder(run))),
        "steps": last["step"],
        "tokens": last["tokens"],
        "minutes": last["seconds"] / 60,
        "held_out_loss": held[-1] if held else None,
    }


def opened(asked: argparse.Namespace, part: str) -> tuple[Any, Any]:
    """The finished model of a run, on the fastest engine there is, and its tokenizer."""
    speaker = open_speaker(str(model_folder(asked.runs / part)))
    return speaker.backend, speaker.tokenizer


def fitted(pictures: Iterable[Picture], size: int) -> np.ndarray:
    """Pictures as pixels (N, size, size, 3) uint8, for the judge."""
    return np.stack([fit(picture.open(), size).pixels for picture in pictures])


def grid(rows: list[list[np.ndarray]], path: Path, scale: int = 2) -> None:
    """Pictures of one size in rows, with a grey line between them, as a PNG."""
    side = rows[0][0].shape[0]
    lines = []
    for row in rows:
        framed = [np.pad(cell, ((0, 1), (0, 1), (0, 0)), constant_values=200) for cell in row]
        framed += [np.full((side + 1, side + 1, 3), 255, np.uint8)] * (max(map(len, rows)) - len(row))
        lines.append(np.concatenate(framed, axis=1))
    path.write_bytes(png(np.concatenate(lines).repeat(scale, 0).repeat(scale, 1)))


# ---- digits


def mnist(asked: argparse.Namespace) -> dict[str, Any]:
    model, tokenizer = opened(asked, "mnist")
    folder = asked.data / "mnist10k"
    pixels, digits = mnist_data.read(folder, "aside")
    pictures = [Picture.of(picture) for picture in pixels]
    reading = []
    for language in LANGUAGES:
        said = measured.describe(model, tokenizer, [(p, LABELS[language]) for p in pictures], max_new_tokens=16)
        right = sum(text == mnist_data.CAPTIONS[language][digit] for text, digit in zip(said, digits, strict=True))
        reading.append({"language": language, **share(len(said), right)})
    judge = learn(*mnist_data.read(folder, "train"), seconds=asked.judge_seconds)
    judged = int((scores(judge, pixels).argmax(1) == digits).sum())
    each = math.ceil(asked.n / 10) * 2
    drawing, rows = [], []
    for number, language in enumerate(LANGUAGES):
        wanted = np.repeat(np.arange(10), each)
        texts = [mnist_data.CAPTIONS[language][digit] for digit in wanted]
        made = np.stack(measured.draw(model, tokenizer, texts, seed=1000 * number))
        right = int((scores(judge, made).argmax(1) == wanted).sum())
        drawing.append({"language": language, **share(len(made), right)})
        rows += [[made[digit * each + i] for digit in range(10)] for i in range(3)]
    grid(rows, asked.out / "images_mnist.png")
    settings = []
    for guidance, temperature in ((1.0, 1.0), (1.0, 0.8), (3.0, 1.0), (3.0, 0.8)):
        wanted = np.tile(np.arange(10), 3 * each)
        texts = [mnist_data.CAPTIONS[LANGUAGES[number // 10 % 3]][digit] for number, digit in enumerate(wanted)]
        drawn = {"guidance_scale": guidance, "temperature": temperature}
        made = np.stack(measured.draw(model, tokenizer, texts, seed=7, **drawn))
        right = int((scores(judge, made).argmax(1) == wanted).sum())
        settings.append({**drawn, **share(len(made), right)})
    return {
        "run": run_facts(asked.runs / "mnist"),
        "reading": reading,
        "judge_on_real": share(len(pixels), judged),
        "drawing": drawing,
        "drawing_by_settings": settings,
    }


# ---- emoji


def emoji(asked: argparse.Namespace) -> dict[str, Any]:
    model, tokenizer = opened(asked, "emoji")
    everything = emoji_data.read(asked.data / "emoji")
    rng = np.random.default_rng(0)
    return {
        "run": run_facts(asked.runs / "emoji"),
        "naming": emoji_names(asked, reader(model, tokenizer), everything),
        "drawing": emoji_drawings(asked, model, tokenizer, everything, rng),
    }


def reader(model: Any, tokenizer: Any) -> Say:
    """Reads through the image tokenizer."""
    return functools.partial(measured.describe, model, tokenizer, max_new_tokens=32)


def ways_in(asked: argparse.Namespace) -> dict[str, Any]:
    """What two ways of reading come to in the same time; names alone, for both draw through the image tokenizer."""
    everything = emoji_data.read(asked.data / "emoji")
    model, tokenizer = opened(asked, "emoji_codes")
    folder = model_folder(asked.runs / "emoji_features")
    eyes, words = llava.load(folder).eval(), GPT4Tokenizer.from_pretrained(folder)

    def seen(shown: list[tuple[Picture, str]]) -> list[str]:
        return [eyes.describe(words, [*each], max_new_tokens=32, stop=None).strip() for each in shown]

    return {
        name: {"run": run_facts(asked.runs / f"emoji_{name}"), "naming": emoji_names(asked, say, everything)}
        for name, say in {"codes": reader(model, tokenizer), "features": seen}.items()
    }


def emoji_names(asked: argparse.Namespace, say: Say, everything: list[Any]) -> dict[str, Any]:
    kinds = {e.kind for e in everything if e.trained()}
    held_out = [(e, p) for e in everything if e.aside and e.kind in kinds for p in e.drawings.values()]
    second = [(e, p) for e in everything for style, p in e.drawings.items() if e.second_style_aside(style)]
    known = [(e, p) for e in everything for p in e.trained().values()]
    rng = np.random.default_rng(0)
    sample = [known[i] for i in rng.permutation(len(known))[: 3 * asked.n]]
    return {
        "held_out": named(say, held_out, everything),
        "second_style": named(say, second, everything),
        "trained": named(say, sample, everything),
    }


def named(say: Say, shown: list[tuple[Any, Picture]], everything: list[Any]) -> list[dict[str, Any]]:
    """Names of pictures in each language: the exact name, a keyword, and how often another emoji's name has one."""
    rows, place = [], {e.id: i for i, e in enumerate(everything)}
    steps = np.random.default_rng(1).integers(1, max(2, len(everything)), len(shown))  # to any other one
    others = [(place[e.id] + int(step)) % len(everything) for step, (e, _) in zip(steps, shown, strict=True)]
    for language in LANGUAGES:
        said = say([(p, LABELS[language]) for _, p in shown])
        exact = sum(measured.same_name(s, e.names[language]) for s, (e, _) in zip(said, shown, strict=True))
        keyword = sum(
            measured.has_keyword(s, e.names[language], e.keywords[language])
            for s, (e, _) in zip(said, shown, strict=True)
        )
        chance = sum(
            measured.has_keyword(everything[o].names[language], e.names[language], e.keywords[language])
            for o, (e, _) in zip(others, shown, strict=True)
        )
        samples = [[e.names[language], s] for s, (e, _) in zip(said, shown, strict=True)][:: max(1, len(said) // 8)]
        rows.append(
            {
                "language": language,
                "exact": share(len(said), exact),
                "keyword": share(len(said), keyword),
                "keyword_by_chance": chance / len(said),
                "samples": samples[:8],
            }
        )
    return rows


def emoji_drawings(
    asked: argparse.Namespace, model: Any, tokenizer: Any, everything: list[Any], rng: np.random.Generator
) -> dict[str, Any]:
    """Drawings of known emoji from their names, told among twenty names by the model and by an independent judge."""
    trained = [e for e in everything if e.trained()]
    side = tokenizer.image_tokenizer.config.image_size
    pixels = np.concatenate([fitted(e.trained().values(), side) for e in trained])
    labels = np.repeat(np.arange(len(trained)), [len(e.trained()) for e in trained])
    judge = learn(pixels, labels, seconds=asked.judge_seconds)
    aside = [(i, p) for i, e in enumerate(trained) for style, p in e.drawings.items() if e.second_style_aside(style)]
    real = fitted([p for _, p in aside], side)
    torch_model, _ = open_model(str(asked.runs / "emoji"))
    rows, shown = [], []
    for language in LANGUAGES:
        chosen = rng.permutation(len(trained))[: asked.n]
        made = measured.draw(model, tokenizer, [trained[i].names[language] for i in chosen], seed=int(chosen[0]))
        sets = [_choices(trained, int(i), language, rng) for i in chosen]
        own = sum(
            int(
                measured.choose(
                    torch_model, tokenizer, Picture.of(m), LABELS[language], [trained[j].names[language] for j in s]
                ).argmax()
            )
            == 0
            for m, s in zip(made, sets, strict=True)
        )
        judged = _judged(judge, np.stack(made), sets)
        rows.append({"language": language, "own": share(len(made), own), "judge": share(len(made), judged)})
        real_rows = fitted([next(iter(trained[i].trained().values())) for i in chosen[:12]], side)
        shown += [list(real_rows), made[:12]]
    grid(shown, asked.out / "images_emoji.png")
    sets = [_choices(trained, i, "en", rng) for i, _ in aside]
    return {"rows": rows, "judge_on_second_style": share(len(aside), _judged(judge, real, sets)), "choices": CHOICES}


def _choices(trained: list[Any], right: int, language: str, rng: np.random.Generator) -> list[int]:
    """The right emoji first, then others with other names."""
    others = [
        int(i) for i in rng.permutation(len(trained)) if trained[i].names[language] != trained[right].names[language]
    ]
    return [right, *others[: CHOICES - 1]]


def _judged(judge: Judge, pixels: np.ndarray, sets: list[list[int]]) -> int:
    """How many pictures the judge gives to the first of their choices."""
    return sum(int(row[choice].argmax()) == 0 for row, choice in zip(scores(judge, pixels), sets, strict=True))


# ---- the Village


def scenes(asked: argparse.Namespace) -> dict[str, Any]:
    model, tokenizer = opened(asked, "scenes")
    found = {
        split: measured.scenes(model, tokenizer, asked.n, split=split, progress=print)["rows"]
        for split in ("held_out", "train")
    }
    examples = [e for language in LANGUAGES for e in village_pictures.examples("draw", language, 4, seed=5)]
    made = measured.draw(model, tokenizer, [e.answer for e in examples], seed=5)
    real = [np.asarray(e.picture.open()) for e in examples]
    grid([real, made], asked.out / "images_scenes.png")
    many = [e for language in LANGUAGES for e in village_pictures.examples("draw", language, asked.n, seed=9)]
    pixels = np.stack([np.asarray(e.picture.open()) for e in many])
    back = tokenizer.image_tokenizer.decode_pixels(tokenizer.image_tokenizer.encode_pixels(pixels))
    kept = sum(measured.drawn_right(picture, e.scene)[0] for picture, e in zip(back, many, strict=True))
    return {"run": run_facts(asked.runs / "scenes"), **found, "through_the_image_tokenizer": share(len(many), kept)}


# ---- other pictures


def another(asked: argparse.Namespace) -> dict[str, Any]:
    """Everything in another folder of pictures and labels, named by the emoji run's model."""
    model, tokenizer = opened(asked, "emoji")
    everything = emoji_data.read(asked.evaluate)
    shown = [(e, p) for e in everything for p in e.drawings.values()]
    return {"pictures": len(shown), "naming": named(reader(model, tokenizer), shown, everything)}


if __name__ == "__main__":
    main()
