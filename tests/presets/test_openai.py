"""GPT-1 to GPT-4 and gpt-oss: the counts that were published, and what each family is made of."""

import re

import pytest

from malmoi.config import MalmoiError
from malmoi.layers import count_active_parameters, count_parameters
from malmoi.presets import openai

# GPT-1, GPT-2: the released weights. GPT-3: closed form of arXiv 2005.14165 table 2.1. gpt-oss: arXiv 2508.10925
# table 1 and the parameter count in the released GGUF files.
COUNTS = {
    "gpt1": 116_534_784,
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "gpt3-small": 125_226_240,
    "gpt3-medium": 355_871_744,
    "gpt3-large": 760_300_032,
    "gpt3-xl": 1_315_723_264,
    "gpt3-2.7b": 2_651_553_280,
    "gpt3-6.7b": 6_658_404_352,
    "gpt3-13b": 12_853_386_240,
    "gpt3-175b": 174_604_259_328,
    "gpt4": 170_175_431_802_880,
    "gpt-oss-20b": 20_914_757_184,
    "gpt-oss-120b": 116_829_156_672,
}

# arXiv 2005.14165, table D.1: millions of parameters, rounded there
TABLE_D1 = {"small": 125, "medium": 356, "large": 760, "xl": 1320, "2.7b": 2650, "6.7b": 6660, "13b": 12850}
TABLE_D1["175b"] = 174_600


@pytest.mark.parametrize(("name", "published"), COUNTS.items())
def test_the_published_number_of_parameters(name, published):
    assert count_parameters(openai.PRESETS[name].build()) == published


@pytest.mark.parametrize("build", [openai.gpt1, openai.gpt2, openai.gpt3, openai.gpt_oss, openai.gpt4])
def test_counts_in_the_docstrings_are_those(build):
    said = {int(number.replace(",", "")) for number in re.findall(r"\d+(?:,\d{3}){2,}", build.__doc__)}
    assert said
    assert said <= set(COUNTS.values())


@pytest.mark.parametrize(("size", "millions"), TABLE_D1.items())
def test_gpt3_agrees_with_table_d1(size, millions):
    digits = 4 if millions > 1000 else 3
    assert float(f"{count_parameters(openai.gpt3(size)) / 1e6:.{digits}g}") == pytest.approx(millions, rel=4e-3)


def test_gpt3s_misprints_do_not_agree_with_table_d1():
    """Why 16 heads and 5120 stand in the table: what is printed misses D.1 by far, or cannot be built."""
    printed = openai.gpt3("xl").replace(num_attention_heads=24, num_key_value_heads=24, head_dim=128)
    assert count_parameters(printed) == 1_517_123_584
    with pytest.raises(MalmoiError, match="such as 5120"):
        openai.gpt3("13b").replace(hidden_size=5140)
    wider = openai.gpt3("13b").replace(hidden_size=5140, head_dim=128)
    assert count_parameters(wider) > 12_900e6


def test_gpt1_has_norms_after_each_sum_and_none_at_the_end():
    assert openai.gpt1().norm_placement == "post"
    assert openai.gpt2().norm_placement == "pre"


def test_gpt3_alternates_dense_and_banded_layers():
    config = openai.gpt3("small")
    assert config.layer_types == ("full_attention", "sliding_attention") * 6
    assert config.sliding_window == 256
    assert count_parameters(config) == count_parameters(config.replace(layer_types=None))


def test_gpt_oss_is_the_released_configuration():
    config = openai.gpt_oss("120b")
    assert config.layer_types[:2] == ("sliding_attention", "full_attention")
    assert (config.num_experts, config.num_experts_per_tok, config.head_dim) == (128, 4, 64)
    assert config.attention_sinks
    assert config.router_bias
    assert config.rope_parameters.truncate is False


def test_170_trillion_as_the_sum_that_the_docstring_gives():
    width, layers, experts, vocabulary = 10_240, 120, 1690, 100_256
    total = layers * experts * 8 * width**2 + layers * 4 * width**2 + 2 * vocabulary * width + layers * experts * width
    assert total == 170_175_431_802_880 == count_parameters(openai.gpt4())
    assert count_active_parameters(openai.gpt4()) / total == pytest.approx(0.0015, rel=0.01)


def test_the_rumours_figures_come_out():
    config = openai.gpt4_rumoured()
    width, layers = config.hidden_size, config.num_hidden_layers
    assert layers * 8 * width**2 == pytest.approx(111e9, rel=0.001)
    assert layers * 4 * width**2 == pytest.approx(55.5e9, rel=0.001)
    assert count_parameters(config) == pytest.approx(1.8e12, rel=0.03)
    assert count_active_parameters(config) == pytest.approx(280e9, rel=0.01)


@pytest.mark.parametrize(
    ("build", "wrong", "near"),
    [(openai.gpt2, "meduim", "medium"), (openai.gpt3, "176b", "175b"), (openai.gpt_oss, "20", "20b")],
)
def test_an_unknown_size_of_a_family_names_the_nearest(build, wrong, near):
    with pytest.raises(MalmoiError, match=f"Did you mean '{near}'"):
        build(wrong)
