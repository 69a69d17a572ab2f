"""Whose layer is whose."""

from malmoi.train.adapter_names import base_state, by_pattern, layers_of, promised, shortest
from small_models import build


def test_gpt2_has_one_layer_where_we_have_three():
    layers = {layer.theirs: layer for layer in layers_of(build("gpt2"))}
    fused = layers["transformer.h.1.attn.c_attn"]
    assert fused.ours == tuple(f"model.layers.1.self_attn.{name}_proj" for name in "qkv") and fused.transposed
    assert layers["transformer.h.0.mlp.c_fc"].ours == ("model.layers.0.mlp.up_proj",)


def test_elsewhere_the_names_are_the_same_and_experts_are_no_layers():
    for kind in ("modern", "untied", "experts"):
        model = build(kind)
        names = [layer.theirs for layer in layers_of(model)]
        assert all(layer.ours == (layer.theirs,) for layer in layers_of(model))
        assert ("lm_head" in names) == ("lm_head.weight" in base_state(model)) == (kind == "untied")
        assert ("model.layers.0.mlp.up_proj" in names) == (kind != "experts")


def test_target_modules_are_written_short_only_where_that_means_the_same():
    known = ["a.0.attn.c_proj", "a.0.mlp.c_proj", "a.0.c_fc", "a.1.c_fc"]
    assert shortest(["a.0.mlp.c_proj", "a.0.c_fc", "a.1.c_fc"], known) == ["a.0.mlp.c_proj", "c_fc"]
    assert shortest(known[:2], known) == ["c_proj"]


def test_what_target_modules_promise():
    names = ["h.0.attn.c_attn", "h.0.attn.c_proj", "h.1.attn.c_attn"]
    assert promised({"target_modules": ["c_attn"]}, names) == [names[0], names[2]]
    assert promised({"target_modules": r"h\.0\..*"}, names) == names[:2]
    assert promised({"target_modules": ["c_attn"], "layers_to_transform": [1]}, names) == []
    assert promised({"target_modules": ["attn"]}, names) == []  # a part of a name from a dot on, and to its end


def test_patterns_follow_pefts_rule():
    patterns = {"c_attn": 4, r"h\.1\.mlp\.c_fc": 9}
    assert by_pattern(patterns, "h.0.c_attn", 2) == 4
    assert by_pattern(patterns, "h.0.not_c_attn", 2) == 2
    assert by_pattern(patterns, "t.h.1.mlp.c_fc", 2) == 9
    assert by_pattern(None, "x", 2) == 2
