"""docs/family.md and its Korean twin: the table is the presets'. Run this file to see the rows as they must be."""

import re
from pathlib import Path

import pytest

from malmoi import presets
from malmoi.plan.counts import totals

PAGES = [Path(__file__).parents[2] / "docs" / name for name in ("family.md", "family.ko.md")]
FAMILY = (
    ("gpt1", 2018),
    ("gpt2", 2019),
    ("gpt2-medium", 2019),
    ("gpt2-large", 2019),
    ("gpt2-xl", 2019),
    ("gpt3-small", 2020),
    ("gpt3-medium", 2020),
    ("gpt3-large", 2020),
    ("gpt3-xl", 2020),
    ("gpt3-2.7b", 2020),
    ("gpt3-6.7b", 2020),
    ("gpt3-13b", 2020),
    ("gpt3-175b", 2020),
    ("gpt4-rumoured", 2023),
    ("gpt4", 2023),
    ("gpt-oss-20b", 2025),
    ("gpt-oss-120b", 2025),
)


def row(name: str, year: int) -> str:
    config, found = presets.preset(name), totals(presets.preset(name))
    experts = f"{config.num_experts_per_tok} / {config.num_experts:,}" if config.num_experts else "–"
    shape = (config.num_hidden_layers, config.hidden_size, config.num_attention_heads)
    sizes = (f"{found.total:,}", f"{found.active:,}", *(f"{number:,}" for number in shape), experts)
    cells = (f"`{name}`", str(year), *sizes, f"{config.max_position_embeddings:,}", f"{config.vocab_size:,}")
    return f"| {' | '.join(cells)} |"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_table_is_what_the_presets_are(page: Path):
    written = re.findall(r"^\| `gpt.*$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert written == [row(name, year) for name, year in FAMILY]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_long_numbers_in_the_text_are_counts(page: Path):
    text = re.sub(r"^(\||```).*$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    known = {number for name in presets.NAMES for number in totals(presets.preset(name))}
    said = {int(number.replace(",", "")) for number in re.findall(r"\d+(?:,\d{3}){3,}", text)}
    assert said
    assert said <= known


def test_both_pages_have_the_same_code():
    english, korean = (
        re.findall(r"^```(?:python|sh)\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S) for page in PAGES
    )
    assert english == korean


if __name__ == "__main__":
    print("\n".join(row(name, year) for name, year in FAMILY))
