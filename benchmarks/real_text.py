"""Train on real text: children's books, Korean reviews and prose, English-French sentence pairs.

    python benchmarks/real_text.py --data ../shared/data --minutes 6

Each run is what `malmoi train` does with a recipe: a tokenizer learned from the training files, the `nano` size, a
fixed time; then bits per byte and perplexity of the whole validation file, which is never trained on, and samples. The
figures of runs that are left out (`--only`) stay as they were.

Writes docs/results/real_text.json and docs/results/real_text.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from malmoi.cli.pipeline import run
from malmoi.cli.progress import Screen
from malmoi.config import MalmoiError, Recipe, SourceConfig
from malmoi.data.corpus import read
from malmoi.evaluate import bits_per_byte
from malmoi.generate.engine import generate
from malmoi.model.gpt import GPT4LMHeadModel
from malmoi.tokens.tokenizer import GPT4Tokenizer

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
VOCABULARY = 4096
PAIR = "Translate this text to French: {0}\n{1}"
RATES = ("learning_rate", "matrix_learning_rate", "muon_momentum")
FIGURES = (
    ("parameters", "{:,}"),
    ("vocabulary", "{:,}"),
    ("training text (MB)", "{:.1f}"),
    ("tokens seen", "{:,}"),
    ("epochs", "{:.2f}"),
    ("rates of AdamW and Muon, momentum", "{}"),
    ("minutes of training", "{:.1f}"),
    ("tokens/s", "{:,.0f}"),
    ("validation bits/byte", "{:.4f}"),
    ("validation perplexity (token)", "{:.2f}"),
    ("validation perplexity (word)", "{:.1f}"),
)


def runs(data: Path) -> dict[str, dict[str, Any]]:
    """What is trained: sources, validation files, vocabulary, and the prompts of its samples."""
    books, korean = data / "english/gutenberg_children_books", data / "korean"
    pairs = data / "translation/tatoeba_en_fr"
    return {
        "Gutenberg children's books (English)": {
            "sources": [{"path": str(books / "train.jsonl.xz")}],
            "validation": [{"path": str(books / "valid.jsonl.xz")}],
            "prompts": ["Once upon a time", '"I do not know," said the old king,'],
        },
        "NSMC reviews and Boddari prose (Korean)": {
            "sources": [
                {"path": str(korean / "nsmc_reviews/train.tsv.xz"), "template": "{text}", "name": "reviews"},
                {"path": str(korean / "boddari_prose/train.jsonl.xz"), "name": "prose"},
            ],
            "validation": [
                {"path": str(korean / "nsmc_reviews/valid.tsv.xz"), "template": "{text}", "name": "reviews"},
                {"path": str(korean / "boddari_prose/valid.jsonl.xz"), "name": "prose"},
            ],
            "prompts": ["이 영화는", "옛날 옛적에"],
        },
        "Tatoeba sentence pairs (English to French)": {
            "sources": [{"path": str(pairs / "train.tsv.xz"), "template": PAIR}],
            "validation": [{"path": str(pairs / "valid.tsv.xz"), "template": PAIR}],
            "prompts": [
                PAIR.format("I am very tired today.", ""),
                PAIR.format("Where did you buy this book?", ""),
            ],
        },
    }


def one(name: str, task: dict[str, Any], folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    recipe = Recipe(
        data={"sources": task["sources"], "validation": task["validation"]},
        size=arguments.size,
        vocab_size=VOCABULARY,
        train={"max_minutes": arguments.minutes, "eval_steps": 250, "eval_tokens": 50_000, "save_steps": 1000},
    )
    shutil.rmtree(folder, ignore_errors=True)
    begin = time.perf_counter()
    with Screen(lines_every=30) as screen:
        result = run(recipe, folder, show=screen)
    took = time.perf_counter() - begin
    last = result.last
    if last is None or result.model_folder is None:
        sys.exit(f"{name}: the run did not end.")
    model = GPT4LMHeadModel.from_pretrained(result.model_folder)
    tokenizer = GPT4Tokenizer.from_pretrained(result.model_folder)
    scores = {
        source["path"]: bits_per_byte(model, tokenizer, read(SourceConfig(**source))) for source in task["validation"]
    }
    size = sum(score["bytes"] for score in scores.values())
    bits = sum(score["bits_per_byte"] * score["bytes"] for score in scores.values()) / size
    samples = []
    for prompt in task["prompts"]:
        made = generate(
            model, tokenizer.encode(prompt), tokenizer=tokenizer, max_new_tokens=80, temperature=0.7, top_p=0.95, seed=1
        )
        samples.append({"prompt": prompt, "text": (made.texts or [""])[0]})
    train = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))["train"]
    manifest = json.loads((folder / "tokens" / "manifest.json").read_text(encoding="utf-8"))
    return {
        "name": name,
        "figures": {
            "parameters": result.parameters,
            "vocabulary": len(tokenizer),
            "training text (MB)": manifest["bytes"] / 1e6,
            "tokens seen": last.tokens,
            "epochs": last.tokens / result.train_tokens,
            "rates of AdamW and Muon, momentum": ", ".join(f"{train[name]:g}" for name in RATES),
            "minutes of training": last.seconds / 60,
            "tokens/s": last.tokens / last.seconds,
            "validation bits/byte": bits,
            "validation perplexity (token)": _mean(scores, "perplexity", "tokens"),
            "validation perplexity (word)": _mean(scores, "perplexity_per_word", "words"),
        },
        "files": [{"file": "/".join(Path(path).parts[-2:]), **score} for path, score in scores.items()],
        "samples": samples,
        "minutes in all": took / 60,
        "size": arguments.size,
    }


def _mean(scores: dict[str, dict[str, Any]], what: str, weight: str) -> float:
    """Geometric mean of perplexities, each file by its tokens or words: the perplexity of all files together."""
    import math

    total = sum(score[weight] for score in scores.values())
    return math.exp(sum(math.log(score[what]) * score[weight] for score in scores.values()) / total)


def report(results: dict[str, dict[str, Any]]) -> str:
    import torch

    lines = [
        "# Real text",
        "",
        f"Written by `benchmarks/real_text.py`: {os.cpu_count()} CPU cores, torch {torch.__version__}. The size's own "
        "recipe, a tokenizer learned from the training files, a fixed time; nothing was tuned on these files. The "
        "validation files are scored whole and were never trained on.",
        "",
        "| | " + " | ".join(results) + " |",
        "|---|" + "---|" * len(results),
        "| size | " + " | ".join(result["size"] for result in results.values()) + " |",
    ]
    for figure, form in FIGURES:
        cells = (form.format(result["figures"][figure]) for result in results.values())
        lines.append(f"| {figure} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "Each validation file by itself:",
        "",
        "| file | bits/byte | perplexity (token) | bytes |",
        "|---|---|---|---|",
    ]
    for result in results.values():
        for row in result["files"]:
            lines.append(f"| {row['file']} | {row['bits_per_byte']:.4f} | {row['perplexity']:.2f} | {row['bytes']:,} |")
    lines += ["", "## Samples", "", "Temperature 0.7, top-p 0.95, seed 1, the first and only draw. Prompts in bold."]
    for name, result in results.items():
        lines += ["", f"**{name}**"]
        for sample in result["samples"]:
            text = (f"**{sample['prompt'].strip()}**" + " " + sample["text"].strip()).replace("\n", "  \n> ")
            lines += ["", f"> {text}"]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="the folder of data sets")
    parser.add_argument("--minutes", type=float, default=6.0, help="training time of each run")
    parser.add_argument("--size", default="nano")
    parser.add_argument("--only", help="run only those whose name contains this")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "real_text")
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        sys.exit(f"--data {arguments.data}: there is no such folder.")
    RESULTS.mkdir(parents=True, exist_ok=True)
    kept = RESULTS / "real_text.json"
    results = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    for number, (name, task) in enumerate(runs(arguments.data).items()):
        if arguments.only and arguments.only.lower() not in name.lower():
            continue
        try:
            results[name] = one(name, task, arguments.runs / str(number), arguments)
        except MalmoiError as error:
            sys.exit(f"{name}: {error}")
        kept.write_text(json.dumps(results, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        (RESULTS / "real_text.md").write_text(report(results), encoding="utf-8")
    print(report(results))


if __name__ == "__main__":
    main()
