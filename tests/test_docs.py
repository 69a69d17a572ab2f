"""The pages of docs/ are true: their Python runs, one block after another."""

import ast
import re
from pathlib import Path

import pytest

PAGES = sorted((Path(__file__).parents[1] / "docs").glob("*.md"))
SLOW = {"dry_run"}


def program_of(page: Path) -> str:
    blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert blocks
    return "\n".join(blocks)


def pages():
    """Every page whose program is its own: a translation that differs in comments only need not run again."""
    for page in PAGES:
        original = page.with_name(page.name.replace(".ko.md", ".md"))
        if page == original or ast.dump(ast.parse(program_of(page))) != ast.dump(ast.parse(program_of(original))):
            yield pytest.param(page, id=page.stem, marks=pytest.mark.slow if page.stem in SLOW else ())


@pytest.mark.parametrize("page", pages())
def test_the_python_of_a_page_runs(page: Path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(program_of(page), page.name, "exec"), {})
