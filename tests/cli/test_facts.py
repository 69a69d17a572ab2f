"""What a run tells about itself is what its files say; the card in its model folder says it to people."""

import hashlib
import json
import shutil

import pytest
import yaml

from cli.conftest import SENTENCES, tiny_recipe
from malmoi.cli.facts import gather
from malmoi.config import Recipe


def test_the_facts_are_those_of_the_files(finished_run, corpus):
    facts = json.loads((finished_run / "model" / "training.json").read_text(encoding="utf-8"))
    assert facts == json.loads(json.dumps(gather(Recipe.from_yaml(finished_run / "recipe.yaml"), finished_run)))
    summary = json.loads((finished_run / "summary.json").read_text(encoding="utf-8"))
    (source,) = facts["data"]["sources"]
    assert (source["license"], source["documents"]) == ("CC0", len(SENTENCES))
    assert source["bytes"] == sum(len(sentence.encode()) for sentence in SENTENCES)
    assert len(source["fingerprint"]) == 16 and facts["data"]["held_out"] == 0.2
    manifest = json.loads((finished_run / "tokens" / "manifest.json").read_text(encoding="utf-8"))
    written = json.dumps(manifest["shards"], sort_keys=True).encode()
    assert facts["data"]["sha256"] == hashlib.sha256(written).hexdigest()
    training, results = facts["training"], facts["results"]
    assert (training["steps"], training["tokens"], training["batch_tokens"]) == (6, summary["tokens"], 4 * 48)
    lines = [json.loads(line) for line in (finished_run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    measured = {line["step"]: line for line in lines if line["bpb"] is not None}
    assert results["bits_per_byte"] == measured[results["best_step"]]["bpb"]
    assert results["held_out_loss"] == summary["best_held_out_loss"]
    assert facts["energy"] == summary["energy"] and facts["energy"]["joules"] > 0
    assert facts["name"] == "tiny" and facts["versions"]["torch"] and facts["machine"]["threads"] >= 1
    assert facts["languages"] == []  # nobody said so


def test_the_card_says_them(finished_run):
    facts = json.loads((finished_run / "model" / "training.json").read_text(encoding="utf-8"))
    page = (finished_run / "model" / "README.md").read_text(encoding="utf-8")
    assert "# tiny" in page and "CC0" in page and facts["data"]["sources"][0]["fingerprint"] in page
    assert f"{facts['results']['bits_per_byte']:.4f}" in page and facts["energy"]["method"] in page
    for heading in ("What it learned from", "What it cost", "무엇으로 배웠나", "든 에너지"):
        assert f"## {heading}" in page


def test_a_fingerprint_knows_the_texts_and_not_their_order(corpus, tmp_path):
    from malmoi.cli.pipeline import run

    found = []
    lines = corpus.read_text(encoding="utf-8").splitlines()
    for name, chosen in (("straight", lines), ("reversed", lines[::-1]), ("fewer", lines[:-1])):
        place = tmp_path / name / "animals.jsonl"
        place.parent.mkdir()
        place.write_text("\n".join(chosen), encoding="utf-8")
        recipe = tiny_recipe(place, train={**tiny_recipe(corpus).train, "max_steps": 1})
        run(recipe, tmp_path / f"run {name}")
        facts = gather(recipe, tmp_path / f"run {name}")
        assert facts is not None
        found.append(facts["data"]["sources"][0]["fingerprint"])
    assert found[0] == found[1] != found[2]


def test_the_village_has_three_languages_and_a_continued_model_may_have_more(finished_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)
    recipe = Recipe(data={"sources": [{"path": "village:10"}, {"path": ["village"]}]})
    facts = gather(recipe, folder)
    assert facts is not None and facts["languages"] == ["ko", "en", "fr"]
    continued = gather(recipe.replace(start_from="somebody/model"), folder)
    assert continued is not None and continued["languages"] == []
    assert continued["training"]["start_from"] == "somebody/model"


@pytest.mark.parametrize("name", ["summary.json", "versions.json", "config.yaml"])
def test_records_that_are_not_whole_give_no_facts(finished_run, tmp_path, name):
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)
    recipe = Recipe.from_yaml(folder / "recipe.yaml")
    (folder / name).write_text("{", encoding="utf-8")
    assert gather(recipe, folder) is None
    (folder / name).unlink()
    assert gather(recipe, folder) is None


def test_without_loading_the_best_the_last_evaluation_counts(finished_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    config["train"]["load_best_model_at_end"] = False
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as log:
        log.write('{"step": 7, "bpb": 99.0}\n')
    facts = gather(Recipe.from_yaml(folder / "recipe.yaml"), folder)
    assert facts is not None and facts["results"]["bits_per_byte"] == 99.0
