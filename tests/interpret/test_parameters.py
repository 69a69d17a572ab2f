"""All four kinds of parameters of a folder, and the curve that its run left."""

import json

import pytest

from malmoi.config import MalmoiError
from malmoi.interpret.parameters import described, loss_curve, read_folder
from small_models import build


def test_a_folder_tells_its_four_kinds(tmp_path):
    model = build("modern")
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "recipe.yaml").write_text(
        "data: {sources: [{path: village}]}\ntrain: {learning_rate: 0.001}\n", encoding="utf-8"
    )
    found = described(read_folder(tmp_path / "model"))
    assert found["total"] == model.num_parameters() == sum(row["parameters"] for row in found["tensors"])
    assert sum(kind["share"] for kind in found["by_kind"].values()) == pytest.approx(1)
    assert found["positional"]["pairs_per_head"] == 4
    assert found["hyperparameters"]["learning_rate"] == 0.001
    assert found["hyperparameters"]["from"].endswith("recipe.yaml")
    assert found["configuration"]["model"]["hidden_size"] == 32
    json.dumps(found)


def test_a_model_without_a_run_says_so(tmp_path):
    build("gpt2").save_pretrained(tmp_path)
    found = described(read_folder(tmp_path))
    assert found["hyperparameters"] == {"from": "unknown: no recipe.yaml beside the model"}
    assert found["positional"]["learned_parameters"] == 48 * 32
    assert loss_curve(tmp_path) == {"train": [], "validation": []}


def test_no_model_folder_is_one_clear_error(tmp_path):
    with pytest.raises(MalmoiError, match="not a model folder"):
        read_folder(tmp_path)


def test_the_loss_curve_is_thinned_and_keeps_its_end(tmp_path):
    lines = [
        json.dumps({"step": n, "loss": 5.0 - n / 1000, "val_loss": 4.0 if n % 100 == 0 else None})
        for n in range(1, 1001)
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 1001, "lo', "7"]), encoding="utf-8")
    (tmp_path / "model").mkdir()
    curves = loss_curve(tmp_path / "model", points=50)
    assert len(curves["train"]) == 50
    assert curves["train"][-1] == [1000, 4.0]
    assert [step for step, _ in curves["validation"]] == list(range(100, 1001, 100))
