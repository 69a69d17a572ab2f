"""`malmoi chat FOLDER`: a conversation in the terminal.

The conversation is kept as messages and rendered anew for every answer by `malmoi.tokens.chat`, the one place where a
conversation becomes ids. When it outgrows the model's context, the oldest turns are left out, and that is said. Ctrl-C
stops an answer, not the program. In a pipe, each line is one message and only the answers are printed.

A terminal shows words only: a picture that the model draws stands there as "[picture]", stays in the conversation, and
can be kept with /save.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from malmoi.cli import history, options
from malmoi.cli.console import console, harmless, write
from malmoi.cli.folders import Speaker, open_speaker, say_note
from malmoi.config import GenerationConfig, MalmoiError, nearest

if TYPE_CHECKING:
    from malmoi.generate.engine import Engine
    from malmoi.tokens.picture import Picture

app = typer.Typer(add_completion=False, rich_markup_mode="rich")

COMMANDS = {
    "/help": "show this list",
    "/system TEXT": "tell the model who it is (and begin anew)",
    "/temperature 0.2": "how freely it chooses its words; 0: always the likeliest",
    "/explain": "colour each token by how much it surprised the model; again: stop that",
    "/image PATH": "show it a picture with your next message, if it reads pictures",
    "/save PATH": "keep the newest picture that it drew, as a PNG",
    "/reset": "forget the conversation",
    "/exit": "leave (also Ctrl-D)",
}


@app.command()
def chat(
    folder: Annotated[str, typer.Argument(help="A model folder, a run's folder, or a name on the hub.")],
    system: Annotated[str | None, typer.Option(help="Tell the model who it is.")] = None,
    max_new_tokens: options.MaxNewTokens = None,
    temperature: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    min_p: options.MinP = None,
    repetition_penalty: options.RepetitionPenalty = None,
    seed: options.Seed = None,
    backend: options.BackendChoice = "auto",
) -> None:
    """Talk with a model.

    Type a message; /help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves. In a pipe each line is a message.

    In a terminal the arrow keys bring back what you typed, also in earlier conversations; MALMOI_HISTORY= (nothing)
    in the environment keeps no such file.

    [bold]Examples[/bold]

    \b
    malmoi chat runs/quickstart
    malmoi chat runs/quickstart --system "You are brief." --temperature 0.2
    echo "안녕하세요" | malmoi chat runs/quickstart
    """
    speaker = open_speaker(folder, backend)
    say_note(speaker)
    given = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "seed": seed,
    }
    settings = {key: value for key, value in given.items() if value is not None}
    GenerationConfig(**settings)  # a wrong value is said now, not after the first message
    talk = Conversation(speaker, settings)
    if system:
        talk.messages.append({"role": "system", "content": system})
    # a tokenizer without chat tokens is said now
    speaker.tokenizer.apply_chat_template([{"role": "user", "content": ""}])
    if sys.stdin.isatty():
        console().print(f"[dim]{folder}. /help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves.[/dim]")
    with contextlib.closing(_lines()) as lines:
        for line in lines:
            if not _handle(talk, line):
                break


@dataclass
class Conversation:
    """The messages so far and how to go on with them."""

    speaker: Speaker
    settings: dict[str, Any]
    messages: list[dict[str, Any]] = field(default_factory=list)
    explain: bool = False
    pictures: list[Picture] = field(default_factory=list)  # that go with the next message
    drawn: Picture | None = None  # the newest one of the model's
    engine: Engine | None = None

    def prompt(self) -> list[int]:
        """The ids to answer, the oldest turns left out (and said) where the context is too small for all of them."""
        context = self.speaker.backend.max_position
        room = self.settings.get("max_new_tokens") or min(256, context // 4)
        head = [message for message in self.messages[:1] if message["role"] == "system"]
        turns = self.messages[len(head) :]
        dropped = 0
        while True:
            ids = self.speaker.tokenizer.apply_chat_template([*head, *turns[dropped:]], add_generation_prompt=True)
            if len(ids) + room <= context:
                break
            if dropped + 1 >= len(turns):
                raise MalmoiError(
                    f"The message takes {len(ids)} of the model's {context} tokens and leaves less than {room} for the "
                    "answer. Write a shorter one, or set --max-new-tokens lower."
                )
            dropped += 1
            while turns[dropped]["role"] != "user" and dropped + 1 < len(turns):
                dropped += 1
        if dropped:
            self.messages = [*head, *turns[dropped:]]
            plural = "message" if dropped == 1 else "messages"
            console(stderr=True).print(f"[dim](the oldest {dropped} {plural} no longer fit the context)[/dim]")
        return ids

    def answer(self, text: str) -> None:
        """Say `text` to the model and stream its answer; what was said stays in the conversation."""
        before = list(self.messages)
        parts = [{"type": "image", "image": picture} for picture in self.pictures]
        content = [*parts, {"type": "text", "text": text}] if parts else text
        self.messages.append({"role": "user", "content": content})
        said: list[Any] = []
        try:
            for token in self._stream(self.prompt()):
                said.append(token)
                self._write(token)
        except KeyboardInterrupt:
            console(stderr=True).print("\n[dim](stopped)[/dim]", end="")
        except MalmoiError:
            self.messages = before
            raise
        print()
        self.pictures = []
        self.messages.append({"role": "assistant", "content": self._content(said)})

    def _content(self, said: Sequence[Any]) -> Any:
        """What was said, as a message: a text, or texts and pictures. One that was stopped half way is left out."""
        known = self.speaker.tokenizer.images
        ids = [token.id for token in said] if known is not None else []
        if known is None or known.end not in ids:
            return "".join(token.text for token in said)
        import numpy as np

        from malmoi.tokens.interleave import decode_parts
        from malmoi.tokens.picture import Picture

        content: list[dict[str, Any]] = []
        for part in decode_parts(self.speaker.tokenizer, ids[: len(ids) - (known.unfinished(ids) or 0)]):
            if isinstance(part, str):
                content.append({"type": "text", "text": part})
            else:
                self.drawn = Picture.of(np.asarray(part))
                content.append({"type": "image", "image": self.drawn})
        return content

    def attach(self, path: str) -> None:
        """Show the model a picture with the next message. Raises `MalmoiError` where it reads none, or the file is
        none."""
        from malmoi.cli.generate import opened

        if self.speaker.tokenizer.images is None:
            raise MalmoiError(
                "This model reads text only: it was trained without pictures, so /image has nothing to show it to. "
                "Models that read them: malmoi train with a recipe that has images, such as recipes/emoji.yaml."
            )
        if not path:
            raise MalmoiError("/image wants the path of a picture, such as /image apple.png.")
        self.pictures.append(opened(Path(path).expanduser()))

    def save(self, path: str) -> Path:
        """Keep the newest picture that the model drew. Raises `MalmoiError` where there is none, or no place for it."""
        from malmoi.tokens.folder import write_bytes

        if self.drawn is None:
            raise MalmoiError("The model has drawn no picture in this conversation, so /save has nothing to keep.")
        if not path:
            raise MalmoiError("/save wants a name for the picture, such as /save circle.png.")
        file = Path(path).expanduser()
        write_bytes(file, self.drawn.data())
        return file

    def _stream(self, ids: list[int]) -> Iterator[Any]:
        from malmoi.generate.engine import Engine, stream
        from malmoi.tokens.chat import END

        if self.engine is None:  # kept, so that a turn is read once and not again with every later one
            self.engine = Engine(self.speaker.backend, self.speaker.tokenizer)

        own = self.speaker.generation_config.eos_token_id
        ends = (own,) if isinstance(own, int) else own or ()
        turn_end = self.speaker.tokenizer.convert_tokens_to_ids(END)
        settings = {**self.settings, "eos_token_id": tuple({*ends, turn_end})}
        return stream(self.engine, self.speaker.tokenizer, ids, trace=self.explain, **settings)

    def _write(self, token: Any) -> None:
        images = self.speaker.tokenizer.images
        if images is not None and token.id == images.end:
            write("[picture]")
        elif self.explain and token.trace is not None and token.text:
            from rich.text import Text

            from malmoi.cli.surprise import colour

            console().print(Text(harmless(token.text), style=colour(token.trace)), end="", soft_wrap=True)
        else:
            write(token.text)


def _handle(talk: Conversation, line: str) -> bool:
    """One line of the person's: a command or a message. False: leave."""
    line = line.strip()
    if not line:
        return True
    if line in ("/exit", "/quit"):
        return False
    try:
        if line.startswith("/"):
            _command(talk, *line.partition(" ")[::2])
        else:
            talk.answer(line)
    except MalmoiError as error:
        if not sys.stdin.isatty():
            raise
        console(stderr=True).print(f"[red]{error}[/red]", markup=False, style="red")
    return True


def _command(talk: Conversation, name: str, rest: str) -> None:
    say = console(stderr=True)
    match name:
        case "/help":
            for command, what in COMMANDS.items():
                say.print(f"  {command:<18} {what}", markup=False)
        case "/reset":
            talk.messages = [message for message in talk.messages[:1] if message["role"] == "system"]
            talk.pictures, talk.drawn = [], None
            say.print("[dim](forgotten)[/dim]")
        case "/system":
            talk.messages = [{"role": "system", "content": rest}] if rest else []
            say.print("[dim](a new conversation)[/dim]")
        case "/temperature":
            try:
                value = float(rest)
            except ValueError:
                raise MalmoiError(f"/temperature wants a number, such as /temperature 0.2 (given: {rest!r}).") from None
            GenerationConfig(temperature=value)
            talk.settings["temperature"] = value
            say.print(f"[dim](temperature {value:g})[/dim]")
        case "/image":
            talk.attach(rest)
            say.print("[dim](it goes with your next message)[/dim]")
        case "/save":
            say.print(f"({talk.save(rest)})", style="dim", markup=False)
        case "/explain":
            from malmoi.cli.surprise import LEGEND

            talk.explain = not talk.explain
            say.print(f"[dim]({LEGEND})[/dim]" if talk.explain else "[dim](colours off)[/dim]")
        case _:
            known = [command.split()[0] for command in COMMANDS]
            raise MalmoiError(f"There is no command {name}.{nearest(name, known)} Commands: {', '.join(known)}.")


def _lines() -> Generator[str, None, None]:
    """What the person types, or the lines of a pipe."""
    if not sys.stdin.isatty():
        for number, raw in enumerate(sys.stdin.buffer, start=1):
            try:
                yield raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise MalmoiError(f"standard input: line {number}, byte {error.start + 1} is not UTF-8.") from None
        return
    with history.kept(history.path()):
        while True:
            try:
                yield input("> ")
            except KeyboardInterrupt:
                print("\n(/exit or Ctrl-D leaves)", file=sys.stderr)
            except EOFError:
                print()
                return
