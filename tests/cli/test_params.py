"""`malmoi params`: all four kinds, for a folder and for every preset, without reading a weight."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from malmoi import GPT4LMHeadModel, presets
from malmoi.cli.params import Part, describe
from malmoi.plan.counts import KINDS


def test_a_folders_four_kinds(malmoi, finished_run: Path):
    found = json.loads(malmoi("params", finished_run, "--json").out)
    model = GPT4LMHeadModel.from_pretrained(finished_run / "model")
    assert found["total"] == found["active"] == model.num_parameters()
    assert sum(kind["total"] for kind in found["by_kind"].values()) == model.num_parameters()
    assert sum(row["parameters"] for row in found["tensors"]) == model.num_parameters()
    assert sum(row["share"] for row in found["tensors"]) == pytest.approx(1)
    shapes = {row["name"]: row["shape"] for row in found["tensors"]}
    assert shapes["model.embed_tokens.weight"] == [320, 32]
    assert shapes["model.layers.*.self_attn.q_proj.weight"] == [32, 32]
    assert found["positional"]["kind"] == "rotary"
    assert found["hyperparameters"]["max_steps"] == 6
    assert found["hyperparameters"]["per_device_train_batch_size"] == 4
    assert found["configuration"]["model"]["hidden_size"] == 32
    assert found["configuration"]["generation"]["temperature"] == 0.7
    assert "about" not in found


@pytest.mark.parametrize("name", presets.NAMES)
def test_every_preset_is_described(name: str):
    found = describe(name)
    assert found["total"] == sum(row["parameters"] for row in found["tensors"])
    assert found["total"] == sum(kind["total"] for kind in found["by_kind"].values())
    assert found["active"] == sum(kind["active"] for kind in found["by_kind"].values())
    assert tuple(found["by_kind"]) == KINDS
    assert set(found["about"]) == {"published", "conjecture"}
    training = found["hyperparameters"]
    assert ("learning_rate" in training) is (name in presets.SIZES)


def test_170_trillion_without_torch():
    code = (
        "import sys; from malmoi.cli import main; main(['params', 'gpt4', '--json']);"
        "print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", check=True)
    found = json.loads(done.stdout)
    assert done.stderr.strip() == "False"
    assert (found["total"], found["active"]) == (170_175_431_802_880, 255_788_154_880)
    assert found["active_without_input_embedding"] == 254_761_533_440
    assert found["by_kind"]["expert"]["share"] > 0.999
    assert "input embedding" in found["active_convention"]


def test_a_model_that_is_only_counted(malmoi):
    found = json.loads(malmoi("params", "deepseek-v3", "--json").out)
    assert found["total"] == 671_026_419_200
    assert found["multi_token_prediction"] == 11_610_068_224
    assert "cannot build" in found["about"]["conjecture"]
    assert "671,026,419,200" in malmoi("params", "deepseek-v3").out
    malmoi("params", "deepseek-v3", "--kind", "positional").is_one_clear_error("closed form")
    malmoi("params", "deepseek-v3", "--kind", "configuration").is_one_clear_error("deepseek-v3", "configuration")


@pytest.mark.parametrize("kind", [part.value for part in Part if part is not Part.positional])
def test_one_kind_alone(malmoi, kind: str):
    found = json.loads(malmoi("params", "gpt-oss-20b", "--kind", kind, "--json").out)
    if kind in KINDS:
        assert set(found["by_kind"]) == {kind}
        assert {row["kind"] for row in found["tensors"]} <= {kind}
        assert sum(row["parameters"] for row in found["tensors"]) == found["by_kind"][kind]["total"]
        assert found["total"] == 20_914_757_184
    else:
        assert "by_kind" not in found
        assert {"hyper": "hyperparameters"}.get(kind, kind) in found
    assert malmoi("params", "gpt-oss-20b", "--kind", kind).code == 0


def test_the_list_names_every_preset(malmoi):
    rows = json.loads(malmoi("params", "--list", "--json").out)
    assert [row["model"] for row in rows] == [*presets.NAMES, "deepseek-v3"]
    assert all(row["published"] and row["conjecture"] for row in rows)
    shown = malmoi("params", "--list").out
    for row in rows:
        assert row["model"] in shown
        assert f"{row['total']:,}" in shown


def test_mistakes(malmoi):
    malmoi("params").is_one_clear_error("Which model", "--list")
    malmoi("params", "gtp2").is_one_clear_error("Did you mean 'gpt2'")
    malmoi("params", "nano", "--png", "x.png").is_one_clear_error("--kind positional")
    malmoi("params", "nowhere/at/all").is_one_clear_error("nowhere")
    assert malmoi("params", "nano", "--kind", "experts").code == 2
