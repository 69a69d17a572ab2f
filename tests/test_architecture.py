"""The house rules as tests: who may import whom, what stays free of torch, how long a file or function may grow.

The imports are read from the source (every one, also those inside functions), not from what happens to be loaded.
"""

import ast
import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import malmoi

TESTS = Path(__file__).parent
SRC = Path(malmoi.__file__).parent
MODULES = sorted(SRC.rglob("*.py"))

LEAVES = {"", "config", "energy", "randomness"}  # everyone may import these; "" is `from malmoi import __version__`
MAY_IMPORT: dict[str, set[str]] = {
    "config": set(),
    "randomness": set(),
    "energy": set(),
    "layers": set(),
    "presets": {"layers"},
    "model": {"layers"},
    "tokens": set(),
    "data": {"tokens"},
    "vision": {"model", "tokens", "data"},  # the language model never imports it
    "formats": {"model", "layers", "tokens", "vision"},
    "train": {"data", "model", "tokens", "formats"},
    "native": {"model", "tokens", "formats"},
    "generate": {"model", "tokens", "formats"},
    "plan": {"presets", "layers"},
    "interpret": {"model", "tokens", "formats", "data", "generate", "plan"},
    "trust": {"model", "tokens", "formats", "data", "generate"},
    "evaluate": {"model", "tokens", "formats", "data", "generate"},
    "serve": {"generate", "interpret", "trust", "model", "tokens", "formats", "evaluate"},  # the model: to look inside
}
MAY_IMPORT["cli"] = {*MAY_IMPORT, "cli"}
MAY_IMPORT["__main__"] = {"cli"}  # `python -m malmoi`

# The model's own three doors to other rooms, the dry run's one, and nothing else in the house.
EXCEPTIONS = {
    ("model.gpt", "GPT4LMHeadModel.from_pretrained", "formats"),
    ("model.gpt", "GPT4LMHeadModel.save_pretrained", "formats"),
    ("model.gpt", "GPT4LMHeadModel.generate", "generate"),
    ("plan.dry_run", "dry_run", "train"),  # the planned training, run: the one place where a plan meets the program
}

WITHOUT_TORCH = ("config", "energy", "randomness", "layers", "presets", "plan", "cli")
ONLY_AT_HOME = {"typer": "cli", "rich": "cli", "click": "cli"}  # libraries that belong to one room
BANNED_NAMES = {"utils", "util", "common", "helpers", "helper", "misc"}
MAX_FILE_LINES, MAX_FUNCTION_LINES = 450, 70


class Import(NamedTuple):
    module: str  # dotted, without "malmoi."
    scope: str  # "" at the top of the file, else the qualified name of the enclosing class and function
    target: str  # dotted name of what is imported
    line: int


def dotted(path: Path) -> str:
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(dotted_name: str) -> str:
    return dotted_name.split(".")[0]


def imports_of(path: Path) -> Iterator[Import]:
    module = dotted(path)

    def visit(node: ast.AST, scope: tuple[str, ...]) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(module, ".".join(scope), alias.name, child.lineno)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}:{child.lineno}: imports are written in full, not relative"
                for alias in child.names:
                    yield Import(module, ".".join(scope), f"{child.module}.{alias.name}", child.lineno)
            elif isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield from visit(child, (*scope, child.name))
            else:
                yield from visit(child, scope)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")), ())


def room_imported(target: str) -> str | None:
    """The room of ours that an import reaches, or None for somebody else's library."""
    if target != "malmoi" and not target.startswith("malmoi."):
        return None
    name = target.removeprefix("malmoi").removeprefix(".")
    if name in malmoi.__all__:  # the public names live in rooms
        name = malmoi._HOMES[name].removeprefix("malmoi.")
    return "" if name in ("", "__version__", "*") else room(name)


ALL_IMPORTS = [found for path in MODULES if path != SRC / "__init__.py" for found in imports_of(path)]


def test_every_room_is_in_the_table():
    assert {room(dotted(path)) for path in MODULES} - {""} <= set(MAY_IMPORT)


def test_rooms_import_only_what_they_may():
    offences = []
    for found in ALL_IMPORTS:
        mine, theirs = room(found.module), room_imported(found.target)
        if theirs is None or theirs == mine or theirs in LEAVES or theirs in MAY_IMPORT[mine]:
            continue
        if (found.module, found.scope, theirs) not in EXCEPTIONS:
            offences.append(f"{found.module}:{found.line} ({found.scope or 'top'}) imports {found.target}")
    assert not offences, "\n".join(offences)


def test_nothing_imports_the_command_line():
    others = [i for i in ALL_IMPORTS if room(i.module) not in ("cli", "__main__")]
    assert not [i for i in others if room_imported(i.target) == "cli"]


@pytest.mark.parametrize(("library", "home"), ONLY_AT_HOME.items())
def test_a_library_stays_in_its_room(library: str, home: str):
    assert not [i for i in ALL_IMPORTS if i.target.split(".")[0] == library and room(i.module) != home]


def test_torch_free_rooms_do_not_import_torch_at_the_top():
    offences = [
        f"{i.module}:{i.line}"
        for i in ALL_IMPORTS
        if i.target.split(".")[0] == "torch" and not i.scope and room(i.module) in WITHOUT_TORCH
    ]
    assert not offences, offences


def test_no_pickle_anywhere():
    banned = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
    assert not [i for i in ALL_IMPORTS if i.target.split(".")[0] in banned]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: dotted(path) or "malmoi")
def test_a_module_stays_readable_in_one_sitting(path: Path):
    text = path.read_text(encoding="utf-8")
    assert path.stem not in BANNED_NAMES
    assert len(text.splitlines()) <= MAX_FILE_LINES
    if not text.strip():
        return
    tree = ast.parse(text)
    assert ast.get_docstring(tree), f"{path}: a module begins with a sentence that teaches its idea"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{path}:{node.lineno} {node.name} has {length} lines"


@pytest.mark.parametrize("path", [p for p in MODULES if p.name != "__init__.py"], ids=dotted)
def test_a_module_has_its_mirrored_test(path: Path):
    """tests/room/test_module.py; a package inside a room (data/village/) has a folder whose tests name its modules."""
    inside = path.relative_to(SRC)
    if (TESTS / inside.with_name(f"test_{path.name}")).is_file():
        return
    assert len(inside.parts) > 2, f"tests/{inside.with_name(f'test_{path.name}').as_posix()} is missing"
    tests = sorted((TESTS / inside.parent).glob("test_*.py"))
    named = [test for test in tests if path.stem in re.findall(r"[a-z]+", f"{test.stem} {test.read_text('utf-8')}")]
    assert named, f"no test in tests/{inside.parent.as_posix()} names {dotted(path)}"


def in_a_fresh_python(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8")
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_import_malmoi_loads_almost_nothing():
    heavy = "('torch', 'pydantic', 'numpy', 'tokenizers', 'transformers', 'yaml')"
    loaded = in_a_fresh_python(f"import sys, malmoi; print([name for name in {heavy} if name in sys.modules])")
    assert loaded.strip() == "[]"


def test_torch_free_modules_load_no_torch():
    names = [f"malmoi.{dotted(p)}" for p in MODULES if room(dotted(p)) in WITHOUT_TORCH]
    code = f"import importlib, sys\nfor name in {names}:\n    importlib.import_module(name)\n"
    assert in_a_fresh_python(code + "print([n for n in ('torch', 'transformers') if n in sys.modules])").strip() == "[]"


def test_every_module_imports_with_the_core_dependencies_alone():
    """Extras are imported where they are used: without them everything else still works."""
    names = [f"malmoi.{dotted(p)}".rstrip(".") for p in MODULES]
    code = f"""
import importlib, sys
EXTRAS = {{"matplotlib", "pyarrow", "zstandard", "huggingface_hub", "transformers", "fastapi", "uvicorn", "PIL", "gguf",
           "pytest", "hypothesis", "llguidance", "pandas", "lm_eval", "datasets", "accelerate", "peft", "ray"}}
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in EXTRAS:
            raise ImportError(f"{{name}} is an extra")
sys.meta_path.insert(0, Blocked())
for name in {names}:
    importlib.import_module(name)
print("all", len({names}))
"""
    assert in_a_fresh_python(code).startswith("all")


def test_every_requirement_is_pinned():
    """SECURITY.md: what the tests run with is known to the last version."""
    pinned = {
        canonical(line)
        for line in (TESTS.parent / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line and not line.startswith("#")
    }
    wanted = {canonical(line) for line in importlib.metadata.requires("malmoi") or ()} - {"malmoi"}
    assert len(wanted) > 20
    assert wanted <= pinned, wanted - pinned


def canonical(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement)[0]).lower()
