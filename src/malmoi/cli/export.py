"""`malmoi export`: a model for other programs, written, read back and compared before it counts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from malmoi.cli.console import console, print_json, table
from malmoi.cli.folders import MODEL, open_model

if TYPE_CHECKING:
    from malmoi.formats.handover import Published

app = typer.Typer(add_completion=False, rich_markup_mode="rich")

_TYPE = (
    "How numbers are kept. f32: as they are. f16 (the default for gguf), bf16: half the size, almost as good. q8_0: a "
    "quarter. q4_0: an eighth, at a loss that is printed. A folder (hf) keeps its own type unless f32, f16 or bf16 is "
    "named."
)


@app.command()
def export(
    folder: Annotated[str, typer.Argument(help="A model folder, a run's folder, or a name on the hub.")],
    to: Annotated[Literal["gguf", "hf"], typer.Option("--to", help="gguf: one file; hf: a folder.")] = "gguf",
    kind: Annotated[
        Literal["f32", "f16", "bf16", "q8_0", "q4_0"] | None, typer.Option("--type", help=_TYPE, show_default=False)
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            help="Where to write; by default beside the model, named after it and its type.", show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a model for other programs.

    gguf is the one file that llama.cpp, Ollama and LM Studio open (extra `gguf`). hf is the folder that transformers
    and vLLM open. Either is read back from the disk and compared with the model: the same token ids for text in several
    languages, the same logits. What rounding costs is measured and printed. If anything differs, no file is left.

    [bold]Examples[/bold]

    \b
    malmoi export runs/quickstart
    malmoi export runs/quickstart --type q8_0 --out cat.gguf
    malmoi export runs/quickstart --to hf --type bf16 --out for-transformers
    """
    from malmoi.config import MalmoiError

    if to == "hf" and kind in ("q8_0", "q4_0"):
        raise MalmoiError(f"--type {kind} is a type of GGUF's. A folder (--to hf) takes f32, f16 or bf16.")
    chosen = kind or ("f16" if to == "gguf" else None)
    place, name = _place(folder, to, chosen, out)
    if to == "gguf":
        from malmoi.formats.gguf_architectures import library

        library()  # say that the extra is missing before a large model is loaded
    from malmoi.formats import handover

    model, tokenizer = open_model(folder)
    if to == "gguf":
        made = handover.to_gguf(model, tokenizer, place, chosen or "f16", name)
    else:
        made = handover.to_hf(model, tokenizer, place, chosen, name)
    commands = _commands(made, to)
    if as_json:
        print_json({**dataclasses.asdict(made), "commands": commands})
    else:
        _show(made, commands)


def _place(folder: str, to: str, kind: str | None, out: str | None) -> tuple[Path, str]:
    """Where to write, and the model's name: the run's or the folder's."""
    named = Path(folder).expanduser()
    real = named.absolute()
    if real.name == MODEL and (real / "config.json").is_file():
        real = real.parent  # a run's own model folder
    name = real.name
    if out is not None:
        return Path(out), name
    ending = f"{name}-{kind}" if kind else f"{name}-hf"
    within = real if (real / MODEL).is_dir() else real.parent if real.is_dir() else Path.cwd()
    return within / (f"{ending}.gguf" if to == "gguf" else ending), name


def _commands(made: Published, to: str) -> dict[str, str]:
    """What to type next, by program."""
    import shlex

    path = shlex.quote(str(made.path))
    if to == "gguf":
        name = made.path.stem.lower()
        return {
            "llama.cpp": f'llama-cli -m {path} -p "Once upon a time" --temp 0.7',
            "llama.cpp as a server": f"llama-server -m {path}",
            "Ollama": f"printf 'FROM %s' {path} > Modelfile && ollama create {name} && ollama run {name}",
        }
    commands = {"Malmoi": f'malmoi generate {path} "Once upon a time"'}
    if made.layout != "GPT4LMHeadModel":
        commands |= {
            "transformers": f'python -c "from transformers import pipeline; '
            f"print(pipeline('text-generation', '{made.path}')('Once upon a time'))\"",
            "vLLM": f"vllm serve {path}",
        }
    return commands


def _show(made: Published, commands: dict[str, str]) -> None:
    screen = console()
    numbers = ", ".join(f"{count} {kind}" for kind, count in made.numbers.items())
    rows: list[tuple[str, Any]] = [
        ("written", made.path),
        ("size", _size(made.bytes)),
        ("layout", made.layout),
        ("tensors", numbers),
        ("token ids, read back", "the same"),
        ("logits, read back", "the same, bit for bit" if made.difference == 0 else f"within {made.difference:.1g}"),
        ("loss on sample texts", f"{made.rounded_loss:.4f} (unrounded {made.loss:.4f}) nats a token"),
        ("divergence from the unrounded model", f"{made.divergence:.2g} nats"),
    ]
    screen.print(table(("", ""), rows))
    for note in made.notes:
        screen.print(f"Note: {note}.", soft_wrap=True, markup=False)
    screen.print("\nNext:")
    for program, command in commands.items():
        screen.print(f"  {program}:  {command}", soft_wrap=True, markup=False)


def _size(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:,.2f} {unit}"
    return f"{count} bytes"
