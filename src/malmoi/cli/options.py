"""The options that `generate` and `chat` share: the fields of `GenerationConfig`, explained by its own texts, and what
computes."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from malmoi.cli.console import setting

_PANEL = "How it speaks"


def _option(field: str, *names: str) -> typer.models.OptionInfo:
    return typer.Option(*names, help=setting("GenerationConfig", field), rich_help_panel=_PANEL, show_default=False)


MaxNewTokens = Annotated[int | None, _option("max_new_tokens", "--max-new-tokens", "-m")]
MaxLength = Annotated[int | None, _option("max_length")]
Temperature = Annotated[float | None, _option("temperature", "--temperature", "-t")]
TopK = Annotated[int | None, _option("top_k")]
TopP = Annotated[float | None, _option("top_p")]
MinP = Annotated[float | None, _option("min_p")]
RepetitionPenalty = Annotated[float | None, _option("repetition_penalty")]
Seed = Annotated[int | None, _option("seed")]
Stop = Annotated[list[str] | None, _option("stop_strings", "--stop")]
Sequences = Annotated[int | None, _option("num_return_sequences", "--n", "-n")]
BackendChoice = Annotated[
    Literal["auto", "native", "torch", "cuda"],
    typer.Option(
        "--backend",
        help="What computes: the native CPU engine wherever it knows the model (auto), that or an error (native), "
        "torch on the CPU (torch), or torch on a GPU (cuda).",
    ),
]
