"""Constraints: what may be written at all. A JSON schema, a regular expression, one of a few answers, a grammar.

At every token the constraint says which tokens can still lead to a text that it accepts; all others are forbidden, and
the model chooses among the rest. What is written is then right in form by construction (not in content). llguidance
(the extra `structured`) turns the constraint into those masks.

It fails closed: a schema that is not understood is refused before anything is written, and whatever goes wrong later
ends the sequence with an error. Nothing is ever written unconstrained instead. Control tokens are never allowed, except
the one that ends a text, and that only where the text is complete.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from malmoi.config import MalmoiError

if TYPE_CHECKING:
    from malmoi.tokens.tokenizer import GPT4Tokenizer

_LIMITS = {"max_grammar_size": 100_000, "initial_lexer_fuel": 1_000_000, "step_max_items": 50_000}


@dataclass(frozen=True)
class Constraint:
    """A rule for a text, in llguidance's spelling. Made by `json_schema`, `regex`, `choice` or `lark`."""

    grammar: str

    @staticmethod
    def json_schema(schema: Mapping[str, Any] | str | None = None) -> Constraint:
        """JSON that fits a schema; without one, any JSON object."""
        matcher = _library().LLMatcher
        try:
            parsed = json.loads(schema) if isinstance(schema, str) else dict(schema or {"type": "object"})
            # whitespace between the parts would let a model write blanks for ever
            return _checked(matcher.grammar_from_json_schema(parsed, overrides={"whitespace_flexible": False}))
        except (ValueError, TypeError) as error:
            raise MalmoiError(f"The JSON schema cannot be read: {_first_line(error)}") from None

    @staticmethod
    def regex(pattern: str) -> Constraint:
        """A text that matches the whole of a regular expression (Rust's dialect, no look-around)."""
        return _checked(_library().LLMatcher.grammar_from_regex(pattern))

    @staticmethod
    def choice(texts: Sequence[str]) -> Constraint:
        """One of these texts."""
        if isinstance(texts, str) or not texts or not all(isinstance(text, str) and text for text in texts):
            raise MalmoiError("A choice is a list of at least one text, none of them empty.")
        options = " | ".join(json.dumps(text, ensure_ascii=False) for text in dict.fromkeys(texts))
        return Constraint.lark(f"start: {options}")

    @staticmethod
    def lark(grammar: str) -> Constraint:
        """A text of a context-free grammar in llguidance's variant of Lark's notation."""
        return _checked(_library().LLMatcher.grammar_from_lark(grammar))

    def matcher(self, tokenizer: GPT4Tokenizer | None, vocab_size: int, eos_ids: Sequence[int]) -> Matcher:
        """The state of one sequence at its beginning; logits have `vocab_size` entries."""
        if tokenizer is None:
            raise MalmoiError("A constraint speaks of text, so the engine needs the tokenizer as well.")
        library = _library()
        limits = library.LLParserLimits(**_LIMITS)
        state = library.LLMatcher(_vocabulary(tokenizer, tuple(eos_ids)), self.grammar, log_level=0, limits=limits)
        return Matcher(state, vocab_size, tuple(eos_ids))


class Matcher:
    """How far one sequence has come in its constraint."""

    def __init__(self, state: Any, vocab_size: int, eos_ids: tuple[int, ...]) -> None:
        self.state, self.vocab_size, self.eos_ids = state, vocab_size, eos_ids
        self._require_health()

    @property
    def complete(self) -> bool:
        """Whether the text is accepted as it is and nothing can follow."""
        return self.state.is_stopped() and self.state.is_accepting()

    def allowed(self) -> NDArray[np.bool_]:
        """Which tokens may come next, (V,); those that the tokenizer does not know may not."""
        bits = np.unpackbits(np.frombuffer(self.state.compute_bitmask(), dtype=np.uint8), bitorder="little")
        self._require_health()
        allowed = np.zeros(self.vocab_size, dtype=bool)
        known = min(self.vocab_size, bits.size)
        allowed[:known] = bits[:known]
        ends = [token for token in self.eos_ids if token < self.vocab_size]
        allowed[ends] = self.state.is_accepting()
        return allowed

    def consume(self, token: int) -> None:
        self.state.consume_token(token)
        self._require_health()

    def copy(self) -> Matcher:
        """The same state, to go another way from here."""
        return Matcher(self.state.deep_copy(), self.vocab_size, self.eos_ids)

    def _require_health(self) -> None:
        if self.state.is_error():
            raise MalmoiError(f"The constraint cannot go on: {_first_line(self.state.get_error())}")


def _library() -> Any:
    try:
        import llguidance
    except ImportError:
        raise MalmoiError("Constraints need an extra: pip install 'malmoi[structured]'.") from None
    return llguidance


def _checked(grammar: str) -> Constraint:
    error = _library().LLMatcher.validate_grammar(grammar)
    if error and not error.startswith("WARNING"):
        raise MalmoiError(f"The constraint is not understood: {_first_line(error)}")
    return Constraint(grammar)


def _first_line(error: Any) -> str:
    return str(error).strip().partition("\n")[0][:300]


class _Spelling:
    """What llguidance asks of a tokenizer."""

    def __init__(self, tokenizer: GPT4Tokenizer, eos_ids: tuple[int, ...]) -> None:
        control = frozenset(tokenizer.special_tokens.values())
        self.tokens = [tokenizer.token_bytes(token) for token in range(len(tokenizer))]
        # every vocabulary of the library has an end; one that no model writes stands for a model without any
        self.eos_token_id = next((token for token in eos_ids if token < len(self.tokens)), len(self.tokens))
        if self.eos_token_id == len(self.tokens):
            self.tokens.append(b"<end>")
        self.special_token_ids = sorted({*control, self.eos_token_id})
        self.bos_token_id = None
        self._tokenizer = tokenizer

    def __call__(self, text: bytes | str) -> list[int]:
        return self._tokenizer.encode(text if isinstance(text, str) else text.decode("utf-8", "replace"))


@functools.lru_cache(maxsize=4)
def _vocabulary(tokenizer: GPT4Tokenizer, eos_ids: tuple[int, ...]) -> Any:
    library = _library()
    return library.LLTokenizer(library.TokenizerWrapper(_Spelling(tokenizer, eos_ids)))
