"""Settings: what is refused and how it is said, what follows from what, YAML there and back, texts for every field."""

import re

import pytest
from hypothesis import given, settings

from malmoi.config import (
    CONFIGS,
    MalmoiError,
    ModelConfig,
    TrainConfig,
    explain,
    texts,
)
from small_models import configs


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden_size": 100}, "such as 96, or set head_dim"),
        ({"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 3}, "not a multiple"),
        ({"hidden_size": 12, "num_attention_heads": 4}, "head_dim=3 is odd"),
        ({"num_hidden_layers": 2, "layer_types": ["full_attention"]}, "layer_types names 1 layers"),
        ({"num_hidden_layers": 1, "layer_types": ["sliding_attention"]}, "sliding_window is not set"),
        ({"num_experts": 2, "num_experts_per_tok": 3}, "num_experts_per_tok=3 is more than num_experts=2"),
        ({"vocab_size": 10, "eos_token_id": 10}, "eos_token_id=10 is outside vocab_size=10"),
    ],
)
def test_numbers_that_do_not_fit_together(values, message):
    with pytest.raises(MalmoiError, match=re.escape(message)):
        ModelConfig(**values)


def test_yaml_spellings_of_numbers():
    # YAML reads 3e-4 (without a dot) as text
    assert TrainConfig(learning_rate="3e-4").learning_rate == 3e-4
    config = ModelConfig(hidden_size="96")
    assert (config.hidden_size, config.head_dim) == (96, 8)


def test_sizes_that_follow():
    config = ModelConfig(hidden_size=768)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (12, 12, 64)
    assert config.intermediate_size == config.moe_intermediate_size == 2048
    assert ModelConfig(hidden_size=768, feed_forward="plain").intermediate_size == 3072
    assert config.layer_types == ("full_attention",) * 12


def test_replace_lets_what_follows_follow_and_keeps_what_was_said():
    config = ModelConfig(num_key_value_heads=4).replace(hidden_size=96, num_hidden_layers=3)
    assert (config.head_dim, config.intermediate_size, config.num_key_value_heads) == (8, 256, 4)
    assert config.layer_types == ("full_attention",) * 3
    with pytest.raises(MalmoiError, match="num_attention_heads"):
        config.replace(num_attention_head=6)


@settings(max_examples=30, deadline=None)
@given(configs)
def test_yaml_there_and_back(tmp_path_factory, config):
    path = tmp_path_factory.mktemp("yaml") / "model.yaml"
    path.write_text(config.to_yaml(), encoding="utf-8")
    assert ModelConfig.from_yaml(path) == config
    assert ModelConfig(**config.model_dump()) == config
    assert config.replace() == config


def test_every_field_is_explained_in_both_languages_and_nothing_else_is():
    written = texts()
    assert list(written) == [cls.__name__ for cls in CONFIGS]
    for cls in CONFIGS:
        assert list(written[cls.__name__]) == list(cls.model_fields)
        for field, languages in written[cls.__name__].items():
            assert set(languages) == {"en", "ko"}, field
            for language, words in languages.items():
                assert list(words) == ["what", "why", "try"], field
                for text in words.values():
                    assert isinstance(text, str)
                    assert len(text) >= 5
                    has_hangul = re.search("[가-힣]", text) is not None
                    assert has_hangul or language == "en" or text == "default", (field, text)


def test_korean_is_polite_throughout():
    for record in texts().values():
        for field, languages in record.items():
            for text in languages["ko"].values():
                ending = re.sub(r"\([^()]*\)", "", text).rstrip(". ")
                assert ending.endswith(("요", "죠")), (field, text)


def test_explain():
    (entry,) = explain("temperature", "ko")
    assert entry["record"] == "GenerationConfig"
    assert entry["allowed"] == "a number, >= 0, <= 100"
    assert entry["default"] == "1.0"
    assert "확률" in entry["what"]
    assert {entry["record"] for entry in explain("vocab_size")} == {"ModelConfig", "Recipe"}
    assert explain("head_dim")[0]["default"] == "follows from other settings"
    assert explain("data")[0]["default"] == "required"
    with pytest.raises(MalmoiError, match="Did you mean 'temperature'"):
        explain("temprature")
