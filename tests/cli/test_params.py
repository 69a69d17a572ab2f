"""`malmoi params`: all four kinds, for a folder and for every preset, without reading a weight."""

import json
from pathlib import Path

import pytest

from malmoi import GPT4LMHeadModel, presets
from malmoi.cli.params import describe


def test_a_folders_four_kinds(malmoi, finished_run: Path):
    found = json.loads(malmoi("params", finished_run, "--json").out)
    model = GPT4LMHeadModel.from_pretrained(finished_run / "model")
    assert found["learned"]["total"] == model.num_parameters()
    assert sum(row["parameters"] for row in found["learned"]["tensors"]) == model.num_parameters()
    assert sum(row["share"] for row in found["learned"]["tensors"]) == pytest.approx(1)
    shapes = {row["name"]: row["shape"] for row in found["learned"]["tensors"]}
    assert shapes["model.embed_tokens.weight"] == [320, 32]
    assert shapes["model.layers.*.self_attn.q_proj.weight"] == [32, 32]
    assert found["positional"]["kind"] == "rotary"
    assert found["hyperparameters"]["max_steps"] == 6
    assert found["hyperparameters"]["per_device_train_batch_size"] == 4
    assert found["configuration"]["model"]["hidden_size"] == 32
    assert found["configuration"]["generation"]["temperature"] == 0.7


def test_for_reading(malmoi, finished_run: Path):
    outcome = malmoi("params", finished_run)
    for heading in ("1. Positional", "2. Learned", "3. Hyperparameters", "4. Configuration"):
        assert heading in outcome.out
    assert "model.layers.*.mlp.gate_proj.weight" in outcome.out
    assert "tied" in outcome.out


@pytest.mark.parametrize("name", [*presets.SIZES, "gpt2", "gpt2-xl"])
def test_every_preset_is_counted_without_being_built(name: str):
    found = describe(name)
    assert found["learned"]["total"] == sum(row["parameters"] for row in found["learned"]["tensors"])
    if name == "gpt2-xl":
        assert found["learned"]["total"] == 1_557_611_200
        assert found["positional"]["kind"] == "learned"
        assert found["positional"]["learned_parameters"] == 1024 * 1600


def test_an_unknown_name_is_one_clear_error(malmoi):
    malmoi("params", "nanno").is_one_clear_error("nanno", "nano")
