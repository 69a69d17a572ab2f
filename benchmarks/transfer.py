"""Does knowing English help to learn French? Pretrain on books, adapt to translation with few pairs.

    python benchmarks/transfer.py --data ../shared/data

A `nano` model is pretrained on Gutenberg books (English), then adapted to English-French sentence pairs (Tatoeba) of
which it sees 5 %: once by moving all weights, once by LoRA. Beside them a model of the same size that never saw a book
learns from these pairs alone, for as many steps, and for as many as serve it best (early stopping). All share one
tokenizer, learned on the books and the pairs.

Tatoeba's validation file is halved: one half chooses (learning rates, when to stop), the other half is measured on.
What was forgotten is measured on books that were held out. Every length is a number of steps, so a busy machine gives
the same models as an idle one. Finished runs are kept and not repeated; `--again` begins anew.

Writes docs/results/transfer.json and docs/results/transfer.md.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import lzma
import shutil
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from malmoi.cli.pipeline import run
from malmoi.cli.progress import Screen
from malmoi.cli.tokenizer import document_texts
from malmoi.config import Recipe, SourceConfig
from malmoi.data.corpus import Document, read
from malmoi.evaluate import bits_per_byte
from malmoi.generate.engine import generate
from malmoi.model.gpt import GPT4LMHeadModel
from malmoi.tokens.tokenizer import GPT4Tokenizer
from malmoi.tokens.vocabulary import learn
from malmoi.train.adapters import add_lora, learning
from malmoi.train.record import read_metrics

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
VOCABULARY = 4096
PAIR = "Translate this text to French: {0}\n{1}"
PRETRAINING, ADAPTATION, LONGEST = 1500, 250, 750  # steps of 8 rows x 256 tokens
USUAL = {"learning_rate": 3e-3, "matrix_learning_rate": 0.02}  # the size's own when this was measured
RATES = {**USUAL, "muon_momentum": 0.95}
LORA = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.05}
GENTLE = {name: rate * 0.3 for name, rate in USUAL.items()}
WITH_EMBEDDINGS = {**LORA, "modules_to_save": ["embed_tokens"]}  # books hold hardly a French word
ARMS: dict[str, dict[str, Any]] = {  # the learning rates to choose from, on the choosing half, with the first seed
    "full fine-tuning": {"rates": [USUAL, GENTLE]},
    "full fine-tuning, early stopping": {"rates": [USUAL, GENTLE], "steps": LONGEST},
    "LoRA": {"rates": [{"learning_rate": rate} for rate in (3e-3, 1e-2, 3e-2)], "lora": LORA},
    "LoRA and embeddings": {"rates": [{"learning_rate": rate} for rate in (3e-3, 1e-2)], "lora": WITH_EMBEDDINGS},
    "LoRA and embeddings, early stopping": {
        "rates": [{"learning_rate": rate} for rate in (3e-3, 1e-2)],
        "lora": WITH_EMBEDDINGS,
        "steps": LONGEST,
    },
    "from scratch, as many steps": {"rates": [USUAL], "scratch": True},
    "from scratch, early stopping": {"rates": [USUAL], "scratch": True, "steps": LONGEST},
}
SENTENCES, BOOKS = 400, 10  # test sentences translated; every how manieth held-out piece of a book is measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="the folder of data sets")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "transfer")
    parser.add_argument("--again", action="store_true", help="delete earlier runs first")
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        sys.exit(f"--data {arguments.data}: there is no such folder.")
    kept = RESULTS / "transfer.json"
    if arguments.again:
        shutil.rmtree(arguments.runs, ignore_errors=True)
        kept.unlink(missing_ok=True)
    arguments.runs.mkdir(parents=True, exist_ok=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    bench = Bench(arguments.data, arguments.runs, arguments.threads)
    for found in bench.all(arguments.seeds, results):
        results |= found
        kept.write_text(json.dumps(results, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        (RESULTS / "transfer.md").write_text(report(results), encoding="utf-8")
    print(report(results))


class Bench:
    """The data, cut once, and the runs on them."""

    def __init__(self, data: Path, runs: Path, threads: int) -> None:
        self.runs, self.threads = runs, threads
        english = data / "english"
        self.books = [english / name for name in ("gutenberg_children_books", "gutenberg_novels")]
        self.few, self.chosen_on, self.test = cut(data / "translation" / "tatoeba_en_fr", runs / "pairs")
        self.held_out_books = list(itertools.islice(self._pieces("valid"), 0, None, BOOKS))
        self.pairs = [line.split("\t")[:2] for line in self.test.read_text(encoding="utf-8").splitlines()]
        self.tokenizer = self._tokenizer()

    def all(self, seeds: int, results: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Every run that is not in `results` yet, its findings by name."""
        base = self.runs / "books"
        if "books" not in results:
            self._train(base, self._books_recipe())
            yield {"books": {**self._measure(base), "pairs": len(self._few_pairs())}}
        for seed, (arm, plan) in itertools.product(range(seeds), ARMS.items()):
            rates = plan["rates"] if seed == 0 else [self._chosen(arm, results)]
            for rate in rates:
                name = f"{arm} | seed {seed} | {rate['learning_rate']:g}"
                if name in results:
                    continue
                folder = self.runs / hashlib.sha256(name.encode()).hexdigest()[:12]
                self._train(folder, self._recipe(base, plan, rate, seed))
                found = {"arm": arm, "seed": seed, "rate": rate, **self._measure(folder), **chosen_by(folder)}
                found["learns"] = learns(base, plan.get("lora"))
                results[name] = found
                yield {name: found}

    def _chosen(self, arm: str, results: dict[str, Any]) -> dict[str, float]:
        return min(of(results, arm, 0), key=lambda found: found["choosing loss"])["rate"]

    def _books_recipe(self) -> Recipe:
        return Recipe(
            data={
                "sources": [{"path": str(place / "train.jsonl.xz")} for place in self.books],
                "validation": [{"path": str(place / "valid.jsonl.xz")} for place in self.books],
            },
            size="nano",
            tokenizer=str(self.tokenizer),
            train={**self._steps(PRETRAINING, 0), **RATES},
        )

    def _recipe(self, base: Path, plan: dict[str, Any], rate: dict[str, float], seed: int) -> Recipe:
        start = {"size": "nano", "tokenizer": str(self.tokenizer)} if plan.get("scratch") else {"start_from": str(base)}
        steps = plan.get("steps", ADAPTATION)
        stopping = {"early_stopping_patience": 4} if steps != ADAPTATION else {}
        return Recipe(
            data={
                "sources": [{"path": str(self.few), "template": PAIR}],
                "validation": [{"path": str(self.chosen_on), "template": PAIR}],
            },
            lora=plan.get("lora"),
            train={**self._steps(steps, seed), **RATES, **rate, **stopping, "warmup_steps": 0.1},
            **start,
        )

    def _steps(self, steps: int, seed: int) -> dict[str, Any]:
        how_often = {"eval_steps": 100, "eval_tokens": 30_000, "save_steps": 1000, "memorization_samples": 0}
        return {"max_steps": steps, "seed": seed, "num_threads": self.threads, **how_often}

    def _train(self, folder: Path, recipe: Recipe) -> None:
        print(f"\n{folder}: {recipe.train['max_steps']} steps, seed {recipe.train['seed']}", flush=True)
        with Screen(lines_every=30) as screen:
            run(recipe, folder, resume=(folder / "recipe.yaml").is_file(), show=screen)

    def _measure(self, folder: Path) -> dict[str, Any]:
        model = GPT4LMHeadModel.from_pretrained(folder / "model")
        tokenizer = GPT4Tokenizer.from_pretrained(folder / "model")

        def bits(texts: list[Any], **how: bool) -> tuple[float, int]:
            found = bits_per_byte(model, tokenizer, texts, **how)
            return found["bits_per_byte"] * found["bytes"], int(found["bytes"])

        whole, size = bits([PAIR.format(*pair) for pair in self.pairs])
        asked, _ = bits([PAIR.format(english, "") for english, _ in self.pairs], count_eos=False)
        french = sum(len(french.encode()) for _, french in self.pairs)
        books, letters = bits(self.held_out_books)
        translated = self._translate(model, tokenizer)
        return {
            "pairs bits/byte": whole / size,
            "French bits/byte": (whole - asked) / french,
            "BLEU": translated["bleu"],
            "books bits/byte": books / letters,
        }

    def _translate(self, model: GPT4LMHeadModel, tokenizer: GPT4Tokenizer) -> dict[str, Any]:
        """Greedy translations of the first test sentences, and sacrebleu's corpus score of them."""
        import sacrebleu

        said: list[str] = []
        some = self.pairs[:SENTENCES]
        for begin in range(0, len(some), 32):
            prompts = [tokenizer.encode(PAIR.format(english, "")) for english, _ in some[begin : begin + 32]]
            made = generate(model, prompts, tokenizer=tokenizer, max_new_tokens=40, temperature=0.0)
            said += [text.strip().split("\n")[0] for text in made.texts or []]
        metric = sacrebleu.BLEU()
        score = metric.corpus_score(said, [[french for _, french in some]])
        return {"bleu": score.score, "signature": str(metric.get_signature())}

    def _tokenizer(self) -> Path:
        place = self.runs / "tokenizer"
        if not (place / "tokenizer.json").is_file():
            few = read(SourceConfig(path=str(self.few), template=PAIR))
            texts = document_texts(itertools.chain(self._pieces("train", max_bytes=2_000_000), few))
            learn(texts, VOCABULARY, seed=0).save_pretrained(place)
        return place

    def _pieces(self, part: str, max_bytes: int | None = None) -> Iterator[Document]:
        for place in self.books:
            yield from read(SourceConfig(path=str(place / f"{part}.jsonl.xz")), max_bytes=max_bytes)

    def _few_pairs(self) -> list[str]:
        return self.few.read_text(encoding="utf-8").splitlines()


def cut(source: Path, folder: Path) -> tuple[Path, Path, Path]:
    """5 % of the training pairs, and the two halves of the validation pairs, each chosen by a hash of its English."""
    folder.mkdir(parents=True, exist_ok=True)

    def number(line: str) -> int:
        return int(hashlib.md5(("transfer " + line.split("\t")[0]).encode()).hexdigest(), 16)

    def lines(name: str) -> list[str]:
        with lzma.open(source / name, "rt", encoding="utf-8") as file:
            found = [line.rstrip("\n") for line in file if line.count("\t") >= 1]
        return sorted(found, key=number)  # the files are sorted by length

    valid = lines("valid.tsv.xz")
    parts = {
        "few.tsv": [line for line in lines("train.tsv.xz") if number(line) % 20 == 0],
        "choosing.tsv": [line for line in valid if number(line) % 2 == 0],
        "test.tsv": [line for line in valid if number(line) % 2 == 1],
    }
    for name, kept in parts.items():
        (folder / name).write_text("\n".join(kept) + "\n", encoding="utf-8")
    few, choosing, test = (folder / name for name in parts)
    return few, choosing, test


def learns(base: Path, lora: dict[str, Any] | None) -> int:
    from malmoi.config import LoraConfig

    model = GPT4LMHeadModel.from_pretrained(base / "model")
    if lora is not None:
        add_lora(model, LoraConfig(**lora))
    return learning(model)


def chosen_by(folder: Path) -> dict[str, Any]:
    """The best held-out loss on the choosing half, and the step it was reached at."""
    evaluated = [line for line in read_metrics(folder) if line["val_loss"] is not None]
    best = min(evaluated, key=lambda line: line["val_loss"])
    return {"choosing loss": best["val_loss"], "best step": best["step"], "last step": evaluated[-1]["step"]}


def of(results: dict[str, Any], arm: str, seed: int | None = None) -> list[dict[str, Any]]:
    found = [entry for entry in results.values() if entry.get("arm") == arm]
    return [entry for entry in found if seed is None or entry["seed"] == seed]


# ---- the report -----------------------------------------------------------------------------------------------------


def report(results: dict[str, Any]) -> str:
    import torch

    books = results["books"]
    rows = []
    for arm in ARMS:
        if not of(results, arm, 0):
            continue
        rate = min(of(results, arm, 0), key=lambda entry: entry["choosing loss"])["rate"]
        rows.append(row(arm, [entry for entry in of(results, arm) if entry["rate"] == rate], rate))
    lines = [
        "# Transfer: from English books to translation",
        "",
        f"Written by `benchmarks/transfer.py`; torch {torch.__version__}. A `nano` model ({VOCABULARY:,} tokens of "
        f"vocabulary, learned on both texts) is pretrained for {PRETRAINING:,} steps of 2,048 tokens on English books "
        f"of Gutenberg, then adapted for {ADAPTATION} steps to {books['pairs']:,} English-French pairs, 5 % of "
        "Tatoeba's. The models from scratch see these pairs only. With early stopping a model may take up to "
        f"{LONGEST} steps, and its best moment is kept. Learning rates (the size's own from scratch; for the adapted "
        "ones the best of those listed below) and moments were chosen on one half of the validation pairs, and "
        f"everything here is measured on the other half. LoRA has rank {LORA['r']} on all projections. Each figure is "
        "the mean of the seeds, which differ in the order of the pairs and in what is drawn at the start (all adapt "
        "one pretrained model); the single values follow in brackets. LoRA's largest learning rate, its rows with "
        "embeddings, and early stopping of adapted models were added after the other rows had been seen: LoRA alone "
        "had learned little, and the longer run from scratch had got ahead.",
        "",
        "| | learned numbers | best step | pairs, bits/byte | French given English, bits/byte | BLEU | "
        "books, bits/byte |",
        "|---|---|---|---|---|---|---|",
        f"| pretrained on books, not adapted | | | {books['pairs bits/byte']:.3f} | {books['French bits/byte']:.3f} | "
        f"{books['BLEU']:.1f} | {books['books bits/byte']:.3f} |",
        *rows,
        "",
        f"BLEU by sacrebleu on {SENTENCES} test sentences, greedy. Bits per byte: lower is better. The last column is "
        "what was forgotten: held-out books, after adaptation.",
        "",
        "Every run:",
        "",
        "| run | learning rate (AdamW, Muon) | seed | choosing half, nats/token | French, bits/byte | BLEU |",
        "|---|---|---|---|---|---|",
    ]
    for arm in ARMS:
        for entry in of(results, arm):
            rates = ", ".join(f"{rate:g}" for rate in entry["rate"].values())
            lines.append(
                f"| {entry['arm']} | {rates} | {entry['seed']} | {entry['choosing loss']:.4f} | "
                f"{entry['French bits/byte']:.3f} | {entry['BLEU']:.2f} |"
            )
    return "\n".join(lines).rstrip() + "\n"


def row(arm: str, entries: list[dict[str, Any]], rate: dict[str, float]) -> str:
    def cell(name: str, digits: int) -> str:
        values = [entry[name] for entry in entries]
        each = f" ({', '.join(f'{value:.{digits}f}' for value in values)})" if len(values) > 1 else ""
        return f"{statistics.mean(values):.{digits}f}{each}"

    steps = ", ".join(f"{entry['best step']:,}" for entry in entries)
    return (
        f"| {arm}, learning rate {rate['learning_rate']:g} | {entries[0]['learns']:,} | {steps} | "
        f"{cell('pairs bits/byte', 3)} | {cell('French bits/byte', 3)} | {cell('BLEU', 1)} | "
        f"{cell('books bits/byte', 3)} |"
    )


if __name__ == "__main__":
    main()
