"""The table of verbs, and the group that loads a verb's module only when the verb is called."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

# verb -> (module of malmoi.cli, one line). The modules of this table hold a typer program called `app`.
VERBS: dict[str, tuple[str, str]] = {
    "quickstart": ("quickstart", "Train a first GPT here, in a few minutes, and hear it."),
    "tokenizer": ("tokenizer", "Learn a vocabulary, measure it, look at its tokens."),
    "image-tokenizer": ("image_tokenizer", "Learn to turn pictures into tokens; measure it."),
    "data": ("data", "See what is in your files; make the token file."),
    "train": ("train", "Train a model from a recipe or from files; resume."),
    "generate": ("generate", "Let a model continue a text."),
    "draw": ("draw", "Draw a picture of a text."),
    "describe": ("describe", "Say what is in a picture."),
    "chat": ("chat", "Talk with a model."),
    "serve": ("serve", "A chat page and an OpenAI-compatible API."),
    "eval": ("evaluate", "Measure a model: answers by task, bits per byte of text."),
    "sweep": ("sweep", "Find good settings by many short trainings."),
    "scale": ("scale", "What more data or size would buy, from small runs."),
    "plan": ("plan", "What a model costs, before anything is spent."),
    "runs": ("runs", "Training runs side by side; their curves in one picture."),
    "verify": ("verify", "Prove the promises of exactness on your own recipe."),
    "adapter": ("adapter", "Merge a LoRA adapter into its model."),
    "doctor": ("doctor", "Measure this machine; what stands in the way."),
    "params": ("params", "All four kinds of parameters of a model, with counts."),
    "export": ("export", "Write a model for llama.cpp, Ollama, transformers."),
    "quantise": ("quantise", "Round a model's weights for the fast CPU engine."),
    "explain": ("explain", "What a setting is, why, and what to try (en, ko)."),
}

ABOUT = """Malmoi (말모이): a whole GPT that one person can own. Train it, talk to it, look inside it.

Begin with `malmoi quickstart`; `malmoi train --help` explains a verb.
"""


class Verbs(TyperGroup):
    """The program `malmoi`. Listing verbs costs a table; calling one imports it."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A stand-in that carries only the summary: all that a list of verbs needs."""
        return TyperCommand(cmd_name, help=VERBS[cmd_name][1]) if cmd_name in VERBS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] in VERBS:
            return args[0], load(args[0]), args[1:]
        return super().resolve_command(ctx, args)


def load(verb: str) -> Any:
    """The verb's command, its module imported now."""
    module = importlib.import_module(f"malmoi.cli.{VERBS[verb][0]}")
    command = typer.main.get_command(module.app)
    command.name = verb
    pages: list[Any] = [command, *getattr(command, "commands", {}).values()]
    for one in pages:
        one.help = reflowed(one.help or "")
        one.format_help = functools.partial(_explained_help, one, one.format_help)
    return command


def _explained_help(command: Any, format_help: Callable[..., None], context: Any, formatter: Any) -> None:
    """A help page whose options that are settings are explained now that somebody reads it."""
    from malmoi.cli.console import with_settings

    for parameter in command.params:
        if getattr(parameter, "help", None):
            parameter.help = with_settings(parameter.help)
    format_help(context, formatter)


def reflowed(text: str) -> str:
    """A docstring for a help page of any width: paragraphs in one line each, examples (after a `\\b`) line by line."""
    paragraphs = text.split("\n\n")
    return "\n\n".join(
        paragraph.removeprefix("\b\n") if paragraph.startswith("\b") else " ".join(paragraph.split())
        for paragraph in paragraphs
    )


def program() -> Any:
    """The whole command line as one command object."""
    # Plain help for the list of verbs: rich takes as long to import as all the rest together.
    app = typer.Typer(cls=Verbs, help=ABOUT, no_args_is_help=True, rich_markup_mode=None, name="malmoi")
    app.callback()(_options)
    return typer.main.get_command(app)


def _options(
    version: bool = typer.Option(
        False, "--version", help="Show the version and leave.", is_eager=True, callback=lambda yes: _version(yes)
    ),
) -> None:
    """Options of the program itself."""


def _version(wanted: bool) -> None:
    if wanted:
        from malmoi import __version__

        print(f"malmoi {__version__}")
        raise typer.Exit


def usage_message(error: Any) -> str:
    """A mistake in the command line in one or two sentences: what, the nearest known word, where to read more."""
    from malmoi.config import nearest

    context = error.ctx
    if type(error).__name__ == "NoArgsIsHelpError":
        return context.get_help()
    message = error.format_message().strip()
    if context is not None and hasattr(error, "option_name"):
        for own_guess in (" (Possible", " Did you mean"):  # typer's and click's, which differ between versions
            message = message.split(own_guess)[0].rstrip(".")
        message += "." + nearest(error.option_name, _option_names(context))
    elif context is not None and message.startswith("No such command") and "Did you mean" not in message:
        message += nearest(message.split("'")[1], context.command.list_commands(context))
    if context is None:
        return message
    return f"{message}\nTry '{context.command_path} --help'."


def _option_names(context: Any) -> Iterator[str]:
    for parameter in context.command.get_params(context):
        yield from (name for name in parameter.opts if name.startswith("--"))
