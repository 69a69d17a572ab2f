"""`vision` in a recipe: tower, projector and language model train by one command; the folder is asked."""

import json

import pytest
import yaml

from malmoi.cli.pipeline import resolve, run
from malmoi.config import MalmoiError, Recipe
from malmoi.data.village.pictures import examples
from malmoi.formats import llava

SETTINGS = {
    "data": {"sources": [{"path": "scenes:60"}], "held_out": 0.1},
    "images": {"image_size": 48, "levels": [4, 3], "hidden_channels": 8, "num_blocks": 0, "max_steps": 2},
    "vision": {"patch_size": 16, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1},
    "vocab_size": 280,
    "model": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    "train": {"max_steps": 3, "sequence_length": 384, "per_device_train_batch_size": 2},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("seeing") / "run"
    run(Recipe(**SETTINGS), place)
    return place


def test_a_run_leaves_a_folder_that_sees(folder):
    said = json.loads((folder / "model" / "config.json").read_text())
    assert said["model_type"] == "llava"
    assert said["text_config"]["vocab_size"] == said["image_token_index"] + 1
    seeing = llava.load(folder / "model")
    assert seeing.vision.config.patches == 9
    repeated = Recipe.from_yaml(folder / "recipe.yaml")
    assert resolve(repeated).recipe.vision == resolve(Recipe(**SETTINGS)).recipe.vision


def test_it_goes_on_where_it_stopped(folder):
    more = Recipe(**SETTINGS | {"train": SETTINGS["train"] | {"max_steps": 3}})
    result = run(more, folder, resume=True)
    assert not result.interrupted
    other = Recipe(**SETTINGS | {"vision": SETTINGS["vision"] | {"patch_size": 12}})
    with pytest.raises(MalmoiError, match="vision was"):
        run(other, folder, resume=True)


def test_it_is_asked_about_a_picture(folder, tmp_path, malmoi):
    picture = tmp_path / "scene.png"
    picture.write_bytes(examples("describe", "en", 1)[0].picture.data())
    shown = malmoi("describe", str(folder), str(picture), "English: ", "--max-new-tokens", "4", "--json")
    said = json.loads(shown.out)
    assert said["engine"] == "torch"
    assert isinstance(said["answer"], str)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"parallel": {"tensor_parallel": 2}}, "does not take parallel"),
        ({"data": {"sources": [{"path": "scenes:9", "weight": 2.0}]}}, "weight and epochs"),
        ({"vision": {"patch_size": 0}}, "patch_size"),
    ],
)
def test_what_does_not_go_together_is_said_and_leaves_nothing(changes, words, tmp_path):
    with pytest.raises(MalmoiError, match=words):
        run(Recipe(**SETTINGS | changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_recipe_survives_yaml():
    recipe = Recipe(**SETTINGS)
    assert Recipe(**yaml.safe_load(recipe.to_yaml())) == recipe
