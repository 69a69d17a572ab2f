"""`malmoi draw`: a PNG of a text, the same by seed; what cannot be drawn is told."""

from pathlib import Path

from malmoi.tokens.picture import open_picture


def test_the_same_seed_is_the_same_picture(malmoi, pictured_run: Path, tmp_path: Path):
    first, second, third = (tmp_path / f"{name}.png" for name in "abc")
    for path, seed in ((first, 1), (second, 1), (third, 2)):
        outcome = malmoi("draw", pictured_run, "a red disc", "--out", path, "--seed", seed)
        assert outcome.code == 0, outcome.err
        assert f"seed {seed}" in outcome.out
    assert open_picture(first).size == (32, 32)
    assert first.read_bytes() == second.read_bytes() != third.read_bytes()


def test_several_stand_side_by_side(malmoi, pictured_run: Path, tmp_path: Path):
    out = tmp_path / "three.png"
    outcome = malmoi("draw", pictured_run, "a [red] disc", "-n", 3, "-o", out, "--guidance-scale", 1, "--seed", 3)
    assert outcome.code == 0, outcome.err
    assert "a [red] disc" in outcome.out
    assert open_picture(out).size == (96, 32)


def test_a_text_model_says_so_and_writes_nothing(malmoi, finished_run: Path, tmp_path: Path):
    malmoi("draw", finished_run, "a disc", "-o", tmp_path / "x.png").is_one_clear_error("knows only text")
    assert not (tmp_path / "x.png").exists()


def test_a_place_that_cannot_be_written_is_named(malmoi, pictured_run: Path, tmp_path: Path):
    place = tmp_path / "missing" / "x.png"
    malmoi("draw", pictured_run, "a disc", "-o", place).is_one_clear_error("x.png", "cannot be written")
