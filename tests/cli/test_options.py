"""The options of `generate` and `chat` are the fields of `GenerationConfig`, explained by its texts."""

import typing

import pytest

from malmoi.cli import chat, generate
from malmoi.cli.console import with_settings
from malmoi.config import GenerationConfig, texts

SHARED = ("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")


@pytest.mark.parametrize("verb", [generate.generate, chat.chat])
@pytest.mark.parametrize("field", SHARED)
def test_an_option_carries_its_settings_explanation(verb, field: str):
    assert field in GenerationConfig.model_fields
    hints = typing.get_type_hints(verb, include_extras=True)
    (info,) = hints[field].__metadata__
    assert with_settings(info.help) == texts()["GenerationConfig"][field]["en"]["what"].strip().replace("[", "\\[")


@pytest.mark.parametrize(("option", "field"), [("stop", "stop_strings"), ("n", "num_return_sequences")])
def test_short_names_keep_their_fields_explanation(option: str, field: str):
    hints = typing.get_type_hints(generate.generate, include_extras=True)
    (info,) = hints[option].__metadata__
    assert texts()["GenerationConfig"][field]["en"]["what"].strip()[:20] in with_settings(info.help)
