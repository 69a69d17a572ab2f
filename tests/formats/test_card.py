"""The model card says true numbers and leaves a person's own card alone."""

from malmoi.formats.card import MARK, card, may_replace
from malmoi.formats.families import family_of
from malmoi.layers import count_active_parameters, count_parameters
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
