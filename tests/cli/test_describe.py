"""`malmoi describe` and `malmoi generate --image`: words after a picture."""

import json
from pathlib import Path

from malmoi.tokens.picture import open_picture


def test_words_after_a_picture(malmoi, pictured_run: Path, drawings: Path):
    outcome = malmoi("describe", pictured_run, drawings / "0.png", "-m", 8)
    assert outcome.code == 0, outcome.err
    made = json.loads(malmoi("describe", pictured_run, drawings / "0.png", "English: ", "-m", 8, "--json").out)
    assert made["answer"] == outcome.out.rstrip("\n")
    assert made["prompt"] == "English: "


def test_what_is_no_picture_is_told_before_the_model_is_opened(malmoi, drawings: Path):
    labels = drawings / "labels.jsonl"
    malmoi("describe", "no/such/model", labels).is_one_clear_error("labels.jsonl", "not a PNG")
    malmoi("describe", "no/such/model", "none.png").is_one_clear_error("none.png", "no such file")


def test_generate_goes_on_after_a_picture_and_saves_what_it_draws(malmoi, pictured_run, drawings, tmp_path):
    picture, out = drawings / "1.png", tmp_path / "out.png"
    line = ("generate", pictured_run, "English: ", "--image", picture, "-m", 8, "-t", 0)
    assert malmoi(*line).out.startswith("English: ")
    nothing = malmoi(*line, "--out", out)
    assert "drew no picture" in nothing.err and not out.exists()
    long = ("generate", pictured_run, "a disc", "-m", 100, "-t", 1, "--seed", 3, "--out", out, "-n", 6)
    outcome = malmoi(*long)
    assert outcome.code == 0, outcome.err
    assert open_picture(out).size[1] == 32
    malmoi("generate", pictured_run, "x", "--image", "none.png").is_one_clear_error("none.png")


def test_data_show_says_where_pictures_stand(malmoi, pictured_run: Path):
    shown = malmoi("data", "show", pictured_run / "tokens")
    assert shown.code == 0, shown.err
    assert "[picture]" in shown.out and "image_" not in shown.out
    assert "[picture]" in malmoi("data", "show", "scenes:3").out
