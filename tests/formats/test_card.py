"""The model card says true numbers and leaves a person's own card alone."""

import re

import pytest
import yaml

from malmoi.formats import huggingface
from malmoi.formats.card import FACTS, MARK, card, may_replace, read_facts, words
from malmoi.formats.families import family_of
from malmoi.layers import count_active_parameters, count_parameters
from malmoi.model.gpt import GPT4LMHeadModel
from malmoi.presets import size


def test_size_and_shape():
    config = size("nano").replace(num_experts=4)
    text = card(config, family_of(config), "parrot")
    assert f"{count_parameters(config):,} parameters" in text
    assert f"{count_active_parameters(config):,}" in text
    assert text.startswith("---\nlicense: other\nlibrary_name: transformers\n")
    assert "# parrot" in text
    assert "Qwen3MoeForCausalLM" in text
    assert "\\n" not in text


def test_a_layout_of_our_own_does_not_promise_transformers():
    config = size("nano").replace(norm="layer_norm")
    assert "AutoModel" not in card(config, family_of(config), "parrot")


def test_a_card_that_a_person_took_over_stays(tmp_path):
    path = tmp_path / "README.md"
    assert may_replace(path)
    path.write_text(f"---\n---\n{MARK}\n# x", encoding="utf-8")
    assert may_replace(path)
    path.write_text("# My own words", encoding="utf-8")
    assert not may_replace(path)
    path.write_bytes(b"\xff\xfe")
    assert not may_replace(path)


# ---- filled from a run


def facts(**changes):
    source = {"name": "books", "license": "CC0 | or so", "documents": 12, "tokens": 3456, "bytes": 9999}
    return {
        "name": "숲 parrot",
        "languages": ["ko", "en"],
        "data": {
            "sources": [{**source, "fingerprint": "0123456789abcdef"}],
            "held_out": 0.02,
            "validation": False,
            "sha256": "f" * 64,
        },
        "training": {
            "steps": 1000,
            "tokens": 512_000,
            "seconds": 75.4,
            "batch_tokens": 512,
            "sequence_length": 128,
            "optimizer": "muon",
            "learning_rate": 0.003,
            "schedule": "cosine",
            "weight_decay": 0.1,
            "dtype": "float32",
            "seed": 7,
            "start_from": None,
            "lora_rank": None,
            "freeze": [],
        },
        "results": {
            "training_loss": 1.5,
            "held_out_loss": 1.75,
            "best_held_out_loss": 1.75,
            "best_step": 900,
            "gap": 0.25,
            "bits_per_byte": 0.9876,
            "skipped": 2,
            "recites": True,
            "memorization": {"samples": 32, "length": 16, "training": 0.5, "held_out": 0.125, "longest": 16},
        },
        "energy": {
            "joules": 1234.5,
            "kilowatt_hours": 1234.5 / 3.6e6,
            "joules_per_token": 0.0024,
            "method": "measured (RAPL)",
        },
        "machine": {"name": "Some CPU", "threads": 2, "gpu": None},
        "versions": {"python": "3.11", "torch": "2.13", "numpy": None},
        **changes,
    }


def written(found, config=None):
    config = config or size("nano")
    return card(config, family_of(config), "model", found)


def head_of(text):
    return yaml.safe_load(text.split("---\n")[1])


def test_every_fact_is_told_in_both_languages():
    text = written(facts())
    english, korean = text.split("*한국어*")
    for half in (english, korean):
        for fact in (
            "| books | CC0 \\| or so | 12 | 3,456 | 9,999 | `0123456789abcdef` |",
            "`" + "f" * 64 + "`",
            "2%",
            "1,000",
            "512,000",
            "muon",
            "0.003",
            "cosine",
            "float32",
            "75 s",
            "Some CPU",
            "python 3.11, torch 2.13",
            "1.5000",
            "1.7500",
            "900",
            "0.9876",
            "+0.2500",
            "50%",
            "12%",
            "1,234.5 J (0.000343 kWh)",
            "0.0024 J",
            "measured (RAPL)",
            "path/to/model/recipe.yaml",
            "AutoModelForCausalLM",
        ):
            assert fact in half, fact
        assert not re.search(r"{\w*}|None|nan", half)
    assert "# 숲 parrot" in english
    assert "word for word. What is private" in english and "사적이거나" in korean
    assert "word for word. What is private" not in written(facts(results={**facts()["results"], "recites": False}))


def test_both_languages_have_the_same_texts_and_blanks():
    english, korean = (words()[language] for language in ("en", "ko"))
    assert english.keys() == korean.keys()
    for name in english:
        assert set(re.findall(r"{(\w+)", english[name])) == set(re.findall(r"{(\w+)", korean[name])), name


def test_the_metadata_are_what_the_hub_reads():
    text = written(facts())
    head = head_of(text)
    assert (head["license"], head["library_name"], head["language"]) == ("other", "transformers", ["ko", "en"])
    (result,) = head["model-index"][0]["results"]
    assert [(metric["type"], metric["value"]) for metric in result["metrics"]] == [
        ("bits_per_byte", 0.9876),
        ("loss", 1.75),
    ]
    hub = pytest.importorskip("huggingface_hub")
    read = hub.ModelCard(text)
    assert read.data.model_name == "숲 parrot" and read.data.language == ["ko", "en"]
    assert [(one.metric_type, one.metric_value) for one in read.data.eval_results] == [
        ("bits_per_byte", 0.9876),
        ("loss", 1.75),
    ]


def test_what_was_not_measured_is_said_and_nothing_is_made_up():
    empty = dict.fromkeys(facts()["results"])
    text = written(facts(results=empty, energy=None, languages=[]))
    assert text.count("not measured") == 4 and text.count("재지 않음") == 4
    assert "What it cost" not in text
    head = head_of(text)
    assert not {"model-index", "metrics", "language"} & head.keys()


def test_what_is_special_about_a_run_is_told():
    data = facts()["data"]
    training = {**facts()["training"], "start_from": "runs/first", "lora_rank": 8, "freeze": ["embed*"]}
    text = written(facts(training=training, data={**data, "validation": True}))
    for said in ("`runs/first`", "LoRA of rank 8", "embed*", "measured on other files"):
        assert said in text
    assert "Nothing is kept aside" in written(facts(data={**data, "held_out": 0}))
    assert "not stated" in written(facts(data={**data, "sources": [{**data["sources"][0], "license": None}]}))


def test_a_name_cannot_leave_its_cell():
    data = facts()["data"]
    text = written(facts(data={**data, "sources": [{**data["sources"][0], "name": "a\n\n# b <script> | c"}]}))
    assert "| a # b &lt;script> \\| c |" in text


def test_the_facts_stay_with_the_folder_and_damaged_ones_do_no_harm(tmp_path):
    model = GPT4LMHeadModel(size("nano").replace(num_hidden_layers=1))
    folder = tmp_path / "model"
    huggingface.save(model, folder, facts=facts())
    assert read_facts(folder) == facts() and "Some CPU" in (folder / "README.md").read_text(encoding="utf-8")
    huggingface.save(model, folder)
    assert "Some CPU" in (folder / "README.md").read_text(encoding="utf-8")
    for damaged in ("{", "[1]", '{"data": 3}', '{"name": 1, "data": {"sources": []}}'):
        (folder / FACTS).write_text(damaged, encoding="utf-8")
        huggingface.save(model, folder)
        page = (folder / "README.md").read_text(encoding="utf-8")
        assert "Some CPU" not in page and "## Loading" in page
