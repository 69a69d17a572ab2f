"""Every recipe in recipes/ is valid as it stands, complete when filled in, and runs on data of its kind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

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


CLUSTER = Path(__file__).parents[1] / "recipes" / "cluster"


@pytest.mark.skipif(sys.platform == "win32", reason="no bash")
def test_the_launchers_are_valid_and_start_a_valid_command(tmp_path: Path):
    job = yaml.safe_load((CLUSTER / "skypilot.yaml").read_text(encoding="utf-8"))
    scripts = {"slurm": (CLUSTER / "slurm.sbatch").read_text(encoding="utf-8"), "skypilot": job["run"]}
    said = tmp_path / "said"
    for name, text in scripts.items():
        for program in ("torchrun", "srun", "scontrol"):  # stand-ins that write down what they were asked
            stand_in = tmp_path / program
            stand_in.write_text(f'#!/bin/bash\n[ {program} = scontrol ] && echo one || echo "$0 $@" > {said}\n')
            stand_in.chmod(0o755)
        given = {**job["envs"], "SKYPILOT_NODE_IPS": "one\ntwo", "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "0"}
        given |= {
            "SKYPILOT_NUM_GPUS_PER_NODE": "8",
            "SLURM_JOB_NODELIST": "one",
            "SLURM_NNODES": "2",
            "SLURM_JOB_ID": "7",
            "SLURM_GPUS_ON_NODE": "8",
        }
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", **given}
        script = tmp_path / name
        script.write_text(text, encoding="utf-8")
        subprocess.run(["bash", script, "recipes/village.yaml", "runs/x"], env=environment, check=True)
        command = said.read_text(encoding="utf-8").split()
        assert "--max-restarts=3" in command and "--nproc-per-node=8" in command
        rest = command[command.index("-m") + 1 :]
        assert rest[:3] == ["malmoi", "train", "recipes/village.yaml"] and "--out" in rest and "--resume" not in rest
