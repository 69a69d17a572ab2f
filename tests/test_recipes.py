"""Every recipe in recipes/ is valid as it stands, complete when filled in, and runs on data of its kind."""

from pathlib import Path

import pytest

from malmoi.cli.pipeline import resolve
from malmoi.config import Recipe

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))


def test_there_are_recipes_for_each_kind_of_data():
    assert {path.stem for path in RECIPES} >= {"village", "text_folder", "chat", "translation"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_resolves_and_its_resolution_is_a_fixed_point(path: Path, tmp_path: Path):
    settings = resolve(Recipe.from_yaml(path))
    written = tmp_path / "recipe.yaml"
    written.write_text(settings.recipe.to_yaml(), encoding="utf-8")
    again = resolve(Recipe.from_yaml(written))
    assert again == settings
    assert set(again.recipe.train) == set(type(settings.train).model_fields)
