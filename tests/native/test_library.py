"""Finding, loading and refusing the compiled engine."""

import subprocess
import sys

import pytest

from malmoi.config import MalmoiError
from malmoi.native import library
from malmoi.native.interface import Status


@pytest.fixture(autouse=True)
def afresh():
    library.load.cache_clear()
    yield
    library.load.cache_clear()


def test_without_the_engine_one_line_says_so(monkeypatch):
    monkeypatch.setattr(library, "path", lambda: None)
    said = library.unavailable()
    assert said is not None
    assert "torch" in said
    assert "\n" not in said
    with pytest.raises(MalmoiError, match="compiler"):
        library.load()


def test_a_file_that_is_no_library_is_refused_without_the_engine(monkeypatch, tmp_path):
    (tmp_path / "engine.so").write_bytes(b"not a library")
    monkeypatch.setenv(library.VARIABLE, str(tmp_path / "engine.so"))
    with pytest.raises(MalmoiError, match="cannot be loaded"):
        library.load()


def test_another_version_is_refused(monkeypatch):
    monkeypatch.setattr(library, "VERSION", 99)
    with pytest.raises(MalmoiError, match="needs 99"):
        library.load()


def test_the_last_set_is_the_one_that_every_cpu_has():
    assert library.instruction_sets()[-1] == "scalar"
    assert library.unavailable() is None


def test_a_status_becomes_an_error_with_its_kind():
    library.check(0, "Nothing")
    with pytest.raises(library.NativeError, match="The thing") as told:
        library.check(Status.BAD_BATCH, "The thing")
    assert told.value.status == Status.BAD_BATCH


def test_it_loads_without_torch():
    code = "import malmoi.native.core as c, malmoi.native.library as l, sys; l.load(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
