"""The first page of a model folder: what the model is, how large, under which licence, how to open it."""

from __future__ import annotations

from pathlib import Path

from malmoi.config import ModelConfig
from malmoi.formats.families import Family
from malmoi.layers import count_active_parameters, count_parameters

MARK = "<!-- Written by Malmoi at every save. Delete this line to keep what you write here. -->"


def may_replace(path: Path) -> bool:
    """Whether a card is missing or still as Malmoi wrote it; one that a person has taken over is left alone."""
    try:
        return not path.exists() or MARK in path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False


def card(config: ModelConfig, family: Family, name: str) -> str:
    """`README.md` with the metadata that the Hugging Face hub reads."""
    total, active = count_parameters(config), count_active_parameters(config)
    size = f"{total:,} parameters" + (f", of which each token passes {active:,}" if active != total else "")
    shape = (
        f"{config.num_hidden_layers} layers, width {config.hidden_size}, {config.num_attention_heads} heads "
        f"({config.num_key_value_heads} for keys and values), context {config.max_position_embeddings} tokens, "
        f"vocabulary {config.vocab_size:,}"
    )
    elsewhere = (
        "This layout has no counterpart in Hugging Face transformers; the folder opens in Malmoi only."
        if family.model_type == "malmoi"
        else f"The folder has the `{family.architecture}` layout and also opens in Hugging Face transformers:\n\n"
        f"```python\nfrom transformers import AutoModelForCausalLM\n"
        f'model = AutoModelForCausalLM.from_pretrained("path/to/{name}")\n```'
    )
    return f"""---
license: other
library_name: {"transformers" if family.model_type != "malmoi" else "malmoi"}
pipeline_tag: text-generation
---
{MARK}

# {name}

A decoder-only language model made with Malmoi (말모이), a whole GPT that one person can own.

| | |
|---|---|
| Size | {size} |
| Shape | {shape} |
| Licence | not chosen yet: name one here and above before you pass the model on; mind the licences of its data |

## Loading

```python
from malmoi import GPT4LMHeadModel, GPT4Tokenizer
tokenizer = GPT4Tokenizer.from_pretrained("path/to/{name}")
model = GPT4LMHeadModel.from_pretrained("path/to/{name}")
```

{elsewhere}

## Limits

The model continues text in the manner of the text that it learned from. It states falsehoods as readily as facts and
repeats what was unfair in its data. Measure it on your own task before you rely on it (`malmoi eval`).
"""
