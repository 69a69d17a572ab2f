"""The picture: a file of the kind that its name says, or an error and no file."""

import pytest

pytest.importorskip("matplotlib")


@pytest.mark.parametrize(("name", "begins"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml")])
def test_a_picture(malmoi, tmp_path, name: str, begins: bytes):
    assert malmoi("plan", "gpt2", "--on", "8xH100", "--plot", str(tmp_path / name)).code == 0
    assert (tmp_path / name).read_bytes().startswith(begins)


@pytest.mark.parametrize("name", ["a.jpg", "a", "none/a.png"])
def test_no_picture(malmoi, tmp_path, name: str):
    result = malmoi("plan", "gpt2", "--on", "8xH100", "--plot", str(tmp_path / name))
    assert result.code != 0 and name in result.err.replace("\n", "") and not list(tmp_path.iterdir())


def test_serving_has_no_picture(malmoi, tmp_path):
    result = malmoi("plan", "gpt2", "--serve", "--on", "H100", "--plot", str(tmp_path / "a.png"))
    assert result.code != 0 and "has none" in result.err
