"""Counts: published integers met exactly, the built model's sums by kind, bytes that agree with released files."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings

from malmoi import presets
from malmoi.config import ModelConfig
from malmoi.layers import count_active_parameters, count_parameters
from malmoi.model.gpt import GPT4LMHeadModel
from malmoi.plan.counts import FORMATS, KINDS, count_by_kind, kind_of, storage, tensors, totals
from malmoi.plan.deepseek import deepseek_v3_totals, multi_token_prediction
from small_models import configs

# Total; active with the input embedding; active without it. Sources: GPT-1, GPT-2: the released weights; GPT-3: closed
# form of arXiv 2005.14165, table 2.1; Llama, Mixtral: the counts beside the weights on the Hugging Face hub; gpt-oss:
# arXiv 2508.10925, table 1, and parameter counts in the released GGUF files.
EXACT = {
    "gpt1": (116_534_784, 116_534_784, None),
    "gpt2": (124_439_808, 124_439_808, None),
    "gpt2-medium": (354_823_168, 354_823_168, None),
    "gpt2-large": (774_030_080, 774_030_080, None),
    "gpt2-xl": (1_557_611_200, 1_557_611_200, None),
    "gpt3-175b": (174_604_259_328, 174_604_259_328, None),
    "llama2-7b": (6_738_415_616, 6_738_415_616, None),
    "llama2-13b": (13_015_864_320, 13_015_864_320, None),
    "llama2-70b": (68_976_648_192, 68_976_648_192, None),
    "llama3.1-8b": (8_030_261_248, 8_030_261_248, None),
    "llama3.1-70b": (70_553_706_496, 70_553_706_496, None),
    "llama3.1-405b": (405_853_388_800, 405_853_388_800, None),
    "mixtral-8x7b": (46_702_792_704, 12_879_925_248, None),
    "gpt-oss-20b": (20_914_757_184, 4_187_440_704, 3_608_307_264),
    "gpt-oss-120b": (116_829_156_672, 5_711_982_912, 5_132_849_472),
    "gpt4": (170_175_431_802_880, 255_788_154_880, 254_761_533_440),
}


@pytest.mark.parametrize(("name", "expected"), EXACT.items())
def test_published_integers_are_met(name, expected):
    found = totals(presets.preset(name))
    assert found[:2] == expected[:2]
    if expected[2] is not None:
        assert found.active_without_input_embedding == expected[2]


def test_every_row_of_the_table_of_published_counts(shared_data: Path):
    table = shared_data.parent / "anchors" / "planner" / "param_counts_exact.csv"
    if not table.is_file():
        pytest.skip("the table of published counts is not here")
    rows = {row["model"]: row for row in csv.DictReader(table.read_text(encoding="utf-8").splitlines())}
    names = {"openai-gpt (GPT-1)": "gpt1", "Mixtral-8x7B": "mixtral-8x7b"}
    for model, row in rows.items():
        total, active, without = (
            int(row[key]) if row[key] else None
            for key in ("total_params_exact", "active_incl_in_out_emb", "active_excl_input_emb")
        )
        if model == "DeepSeek-V3 MTP module":
            assert multi_token_prediction() == total
            continue
        is_deepseek = model.startswith("DeepSeek")
        found = (
            deepseek_v3_totals()
            if is_deepseek
            else totals(presets.preset(names.get(model) or model.lower().replace("llama-", "llama")))
        )
        assert (found.total, found.active) == (total, active), model
        assert without in (None, found.active_without_input_embedding), model
    assert len(rows) >= 16


@settings(max_examples=30, deadline=None)
@given(configs)
def test_the_built_models_sums_by_kind(config):
    assert {kind: count.total for kind, count in count_by_kind(config).items()} == built_by_kind(config)
    assert totals(config).total == count_parameters(config)
    assert totals(config).active == count_active_parameters(config)
    assert storage(config)["fp32"] == 4 * count_parameters(config)


def built_by_kind(config: ModelConfig) -> dict[str, int]:
    """What each kind holds in a model that is really laid out, by where its modules stand."""
    with torch.device("meta"):
        model = GPT4LMHeadModel(config)
    decoder = model.model

    def size(*parts) -> int:
        return sum(parameter.numel() for part in parts if part is not None for parameter in part.parameters())

    qk_norms = size(
        *(getattr(layer.self_attn, name, None) for layer in decoder.layers for name in ("q_norm", "k_norm"))
    )
    norms = [norm for layer in decoder.layers for norm in (layer.input_layernorm, layer.post_attention_layernorm)]
    feed_forwards = size(*(layer.mlp for layer in decoder.layers))
    return {
        "positional": size(decoder.embed_positions),
        "attention": size(*(layer.self_attn for layer in decoder.layers)) - qk_norms,
        "feed_forward": 0 if config.num_experts else feed_forwards,
        "expert": feed_forwards if config.num_experts else 0,
        "norm": size(*norms, decoder.norm) + qk_norms,
        "embedding": size(decoder.embed_tokens, decoder.embed_ngrams),
        "head": 0 if config.tie_word_embeddings else size(model.lm_head),
    }


def test_tables_that_are_only_read():
    config = ModelConfig(vocab_size=50, hidden_size=24, num_hidden_layers=1, ngram_sizes=(2, 3), ngram_vocab_size=70)
    for tied, tables in ((True, 2 * 70), (False, 2 * 70 + 50)):
        found = totals(config.replace(tie_word_embeddings=tied))
        assert found.active == found.total
        assert found.active - found.active_without_input_embedding == tables * 24
    assert {kind: count.total for kind, count in count_by_kind(config).items()} == built_by_kind(config)


@pytest.mark.slow
@pytest.mark.parametrize("name", presets.NAMES)
def test_every_preset_can_be_laid_out_and_is_what_was_counted(name):
    config = presets.preset(name)
    assert {kind: count.total for kind, count in count_by_kind(config).items()} == built_by_kind(config)


@pytest.mark.slow
def test_170_trillion_parameters_are_laid_out_in_little_memory():
    code = """
import json, resource, sys, torch
from malmoi.model.gpt import GPT4LMHeadModel
from malmoi.presets import gpt4
with torch.device("meta"):
    model = GPT4LMHeadModel(gpt4())
unit = 1 if sys.platform == "darwin" else 1024
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
print(json.dumps({"parameters": sum(p.numel() for p in model.parameters()), "peak": peak}))
"""
    pytest.importorskip("resource", reason="Windows cannot say what a process used")
    found = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert found["parameters"] == 170_175_431_802_880
    assert found["peak"] < 2e9


def test_equal_tensors_stand_on_one_line():
    listed = {tensor.name: tensor for tensor in tensors(presets.preset("mixtral-8x7b"))}
    experts = listed["model.layers.*.mlp.experts.down_proj"]
    assert (experts.shape, experts.copies, experts.kind, experts.matrix) == ((8, 4096, 14336), 32, "expert", True)
    assert experts.active * 4 == experts.parameters
    router = listed["model.layers.*.mlp.gate.weight"]
    assert (router.kind, router.active) == ("expert", router.parameters)
    assert not listed["model.norm.weight"].matrix


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("model.layers.3.self_attn.q_norm.weight", "norm"),
        ("model.layers.3.self_attn.sinks", "attention"),
        ("model.layers.3.mlp.gate_proj.weight", "feed_forward"),
        ("model.layers.3.mlp.gate.bias", "expert"),
        ("model.embed_positions.weight", "positional"),
        ("lm_head.weight", "head"),
    ],
)
def test_a_tensors_kind_by_its_name(name, kind):
    assert kind_of(name) == kind
    assert kind in KINDS


@pytest.mark.parametrize(("name", "gibibytes"), [("gpt-oss-20b", 12.8), ("gpt-oss-120b", 60.8)])
def test_mxfp4_is_as_large_as_the_released_files(name, gibibytes):
    """arXiv 2508.10925, table 1, "Checkpoint size"."""
    assert round(storage(presets.preset(name))["mxfp4"] / 2**30, 1) == gibibytes


def test_groups_of_scales_are_counted_by_the_row():
    config = ModelConfig(
        vocab_size=10, hidden_size=40, num_hidden_layers=1, num_attention_heads=1, intermediate_size=64, qk_norm=False
    )
    sizes = storage(config)
    rows_of_40 = 10 + 4 * 40 + 2 * 64  # embedding; q, k, v, o; gate, up
    norms = 3 * 40
    assert sizes["int8"] == rows_of_40 * (40 + 2 * 2) + 40 * (64 + 2 * 2) + 2 * norms
    assert sizes["int4"] == rows_of_40 * (20 + 2 * 2) + 40 * (32 + 2 * 2) + 2 * norms
    assert set(sizes) == set(FORMATS) - {"mxfp4"}
