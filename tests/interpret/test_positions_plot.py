"""The picture of positions: drawn for every sort of model, whole or not at all."""

import sys

import pytest
import torch

from malmoi import presets
from malmoi.config import MalmoiError
from malmoi.interpret.positions import positions
from malmoi.interpret.positions_plot import draw

TABLE = torch.randn(1024, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("nano", None),
        ("gpt-oss-20b", None),
        ("mistral-7b", None),
        ("gpt2", TABLE),
        ("gpt1", None),
        ("gpt3-small", None),
    ],
)
def test_every_sort_of_model_is_drawn(name, table, tmp_path, recwarn):
    matplotlib = pytest.importorskip("matplotlib.image")
    path = draw(positions(presets.preset(name), table), f"{name} 말", tmp_path / "positions.png")
    picture = matplotlib.imread(path)
    assert picture.shape[0] > 400
    assert picture.std() > 0.05  # not an empty page
    assert [found.name for found in tmp_path.iterdir()] == ["positions.png"]
    assert not [warning for warning in recwarn if "glyph" in str(warning.message).lower()]


def test_without_matplotlib_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MalmoiError, match=r"malmoi\[plots\]"):
        draw(positions(presets.size("nano")), "nano", tmp_path / "positions.png")
    assert not list(tmp_path.iterdir())
