"""Records of settings: what is refused and how it is said, files that cannot be used, nothing can be changed."""

import re

import pytest

from malmoi.config import GenerationConfig, MalmoiError, ModelConfig, Recipe, TrainConfig, nearest


def source(**fields):
    return {"data": {"sources": [fields]}}


@pytest.mark.parametrize(
    ("cls", "values", "sentence"),
    [
        (ModelConfig, {"hidden_size": "x"}, "hidden_size must be a whole number, >= 2, <= 1,000,000, not 'x'."),
        (ModelConfig, {"hidden_size": True}, "hidden_size must be a whole number, >= 2, <= 1,000,000, not True."),
        (ModelConfig, {"hidden_size": -4}, "hidden_size must be a whole number, >= 2, <= 1,000,000, not -4."),
        (
            ModelConfig,
            {"num_hidden_layers": 2.5},
            "num_hidden_layers must be a whole number, >= 1, <= 10,000, not 2.5.",
        ),
        (ModelConfig, {"norm": "rms"}, "norm must be 'rms_norm' or 'layer_norm', not 'rms'."),
        (
            ModelConfig,
            {"rope_parameters": {"rope_theta": -3}},
            "rope_parameters.rope_theta must be a number, > 0, not -3.",
        ),
        (TrainConfig, {"learning_rate": float("nan")}, "learning_rate must be a number, > 0, <= 10, not nan."),
        (GenerationConfig, {"eos_token_id": [1, "x"]}, "eos_token_id[1] must be a whole number, not 'x'."),
        (Recipe, {}, "data is missing; it must be a record of sources, held_out, validation."),
        (Recipe, source(path=["a", 5]), "data.sources[0].path[1] must be text, not 5."),
        (Recipe, source(path=5), "data.sources[0].path must be text or a list of (text), not 5."),
    ],
)
def test_a_mistake_is_one_sentence(cls, values, sentence):
    with pytest.raises(MalmoiError) as error:
        cls(**values)
    assert str(error.value) == f"{cls.__name__}: {sentence}"


@pytest.mark.parametrize(
    ("cls", "values", "where", "meant"),
    [
        (ModelConfig, {"hidden_siz": 3}, "ModelConfig has no field 'hidden_siz'", "hidden_size"),
        (GenerationConfig, {"temprature": 1}, "GenerationConfig has no field 'temprature'", "temperature"),
        (ModelConfig, {"rope_parameters": {"theta": 3}}, "rope_parameters has no field 'theta'", "rope_theta"),
        (Recipe, source(path="x", wieght=1), "data.sources[0] has no field 'wieght'", "weight"),
        (Recipe, {"data": {"sources": [{"path": "x"}], "heldout": 0.1}}, "data has no field 'heldout'", "held_out"),
    ],
)
def test_an_unknown_field_names_the_nearest_at_any_depth(cls, values, where, meant):
    with pytest.raises(MalmoiError, match=re.escape(f"{where}. Did you mean '{meant}'?")) as error:
        cls(**values)
    assert str(error.value).count("Known fields") == 1


def test_two_mistakes_are_two_sentences():
    with pytest.raises(MalmoiError) as error:
        ModelConfig(norm="rms", num_hidden_layers=0)
    assert "num_hidden_layers must be" in str(error.value)
    assert "norm must be" in str(error.value)
    assert "head_dim" not in str(error.value)  # what only waits for another field is not a mistake


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file"),
        (b"\xff\xfe", "cannot be read"),
        (b"a: [", "not valid YAML"),
        (b"- 1", "must hold 'name: value' lines, but holds list"),
        (b"", "but holds NoneType"),
        (b"size: nano", "data is missing"),
        (b"!!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)
def test_a_yaml_file_that_cannot_be_used_is_named(tmp_path, content, message):
    path = tmp_path / "recipe.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MalmoiError, match=message) as error:
        Recipe.from_yaml(path)
    assert str(error.value).startswith(str(path))


def test_records_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        ModelConfig().hidden_size = 5


def test_nearest():
    assert nearest("temprature", ["top_p", "temperature"]) == " Did you mean 'temperature'?"
    assert nearest("xyz", ["top_p", "temperature"]) == ""
