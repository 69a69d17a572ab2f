"""Forms that a client wishes its answer to have (a JSON schema, a tool's call), compiled where they can do no harm.

A schema is a program for a compiler, written by a stranger: some need seconds, some exhaust memory, some have crashed
other servers. So it is tried first in a process of its own, which is killed when it takes too long and started anew.
Only what came through there, in time, is compiled in the server. What does not come through is refused: no answer is
ever written without the form that was asked for.
"""

from __future__ import annotations

import asyncio
import functools
import json
import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from malmoi.config import MalmoiError
from malmoi.generate.constraint import Constraint
from malmoi.serve import limits
from malmoi.serve.errors import ApiError

if TYPE_CHECKING:
    from malmoi.tokens.tokenizer import GPT4Tokenizer

_MEMORY = 2_000_000_000  # bytes that the compiling process may use
_STARTING = 60.0  # seconds: it imports the library and reads the vocabulary


class Forms:
    """Compiles forms for one server, one at a time, in a process that is started when it is first needed."""

    def __init__(self, tokenizer: GPT4Tokenizer, vocab_size: int) -> None:
        self._tokenizer, self._vocab_size = tokenizer, vocab_size
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="malmoi-forms")
        self._process: Any = None
        self._pipe: Connection | None = None
        self._known = functools.lru_cache(maxsize=64)(self._compile)

    async def constraint(self, kind: str, source: Any, param: str) -> Constraint:
        """The constraint of a "json" schema or a "lark" grammar. Raises `ApiError` 400 that names `param`."""
        if kind == "json":
            limits.require_schema(source, param)
        text = json.dumps(source, sort_keys=False)
        if len(text) > limits.SCHEMA_BYTES:
            raise ApiError(400, f"The schema is larger than {limits.SCHEMA_BYTES} bytes.", param, "schema_limit")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._known, kind, text)
        except MalmoiError as error:
            raise ApiError(400, str(error), param, "invalid_schema") from None

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._end()

    def _compile(self, kind: str, text: str) -> Constraint:
        pipe = self._started()
        try:
            pipe.send_bytes(json.dumps([kind, text]).encode())
            if not pipe.poll(limits.GRAMMAR_SECONDS):
                raise MalmoiError(f"The schema takes more than {limits.GRAMMAR_SECONDS:g} seconds to compile.")
            found = json.loads(pipe.recv_bytes())
        except (MalmoiError, EOFError, OSError) as error:
            self._end()
            if isinstance(error, MalmoiError):
                raise
            raise MalmoiError("The schema cannot be compiled: the compiler gave up on it.") from None
        if "error" in found:
            raise MalmoiError(found["error"])
        return Constraint(found["grammar"])

    def _started(self) -> Connection:
        if self._pipe is None or not self._process.is_alive():
            self._end()
            context = multiprocessing.get_context("spawn")
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(
                target=compile_for, args=(theirs, self._tokenizer, self._vocab_size), daemon=True, name="malmoi-forms"
            )
            self._process.start()
            theirs.close()
            if not self._pipe.poll(_STARTING):
                self._end()
                raise MalmoiError("The process that compiles schemas does not start.")
            self._pipe.recv_bytes()
        return self._pipe

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None


def compile_for(pipe: Connection, tokenizer: GPT4Tokenizer, vocab_size: int) -> None:
    """The life of the compiling process: a form in, its grammar or an error out."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    except (ImportError, ValueError, OSError):  # not every system can
        pass
    pipe.send_bytes(b"ready")
    while True:
        try:
            kind, text = json.loads(pipe.recv_bytes())
        except EOFError:
            return
        try:
            source = json.loads(text)
            made = Constraint.json_schema(source) if kind == "json" else Constraint.lark(source)
            made.matcher(tokenizer, vocab_size, ()).allowed()
            answer = {"grammar": made.grammar}
        except MalmoiError as error:
            answer = {"error": str(error)}
        except Exception as error:
            answer = {"error": f"The schema cannot be compiled: {type(error).__name__}."}
        pipe.send_bytes(json.dumps(answer).encode())


# ---------------------------------------------------------------- tools

CALL = 'To use a tool, answer with nothing but {"name": its name, "arguments": {...}}. The tools:\n'


def call_schema(tools: Sequence[Mapping[str, Any]], name: str | None = None) -> dict[str, Any]:
    """The JSON of a call of one of the `tools` (OpenAI's `function` objects), or of the one that is named."""
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"const": tool["name"]},
                "arguments": tool.get("parameters") or {"type": "object"},
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for tool in tools
        if name in (None, tool["name"])
    ]
    return calls[0] if len(calls) == 1 else {"anyOf": calls}


def text_or_call(schema: Mapping[str, Any]) -> str:
    """The grammar of an answer that is a text or a call: a text does not begin with a brace."""
    return f"start: text | call\ntext: /([^{{](.|\\n)*)?/\ncall: %json {json.dumps(schema)}\n"


def tools_message(tools: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What the model is told of its tools: a message before all others."""
    return {"role": "system", "content": CALL + "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)}


def called(text: str) -> tuple[str, str] | None:
    """Name and arguments (JSON) of the call that an answer is; None where it is none, or was cut off."""
    try:
        value = json.loads(text)
        return value["name"], json.dumps(value["arguments"], ensure_ascii=False)
    except (ValueError, KeyError, TypeError):
        return None
