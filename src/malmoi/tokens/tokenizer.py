"""Text to token ids and back.

A byte-level BPE tokenizer starts from the 256 bytes, so that every text can be written and none is "unknown"; frequent
neighbours were merged into longer tokens when it was learned (`vocabulary.learn`). The work is done by the `tokenizers`
library (Rust); the files are the ones that Hugging Face transformers reads and writes. What Malmoi learns gives every
text back exactly; which tokenizers from elsewhere open, and what is different in each, is told in docs/tokenizers.md.

**Text from outside is only text.** A *control token* (`<|endoftext|>`, `<|end|>` ...) is an id that means something to
the machinery. By default `tokenizers` and transformers recognise the spelling of a control token anywhere in a text and
give the id: whoever can type into a prompt can then end a document or play another role. Here `encode` gives plain
byte-level tokens for such a text, always; control ids come from `malmoi.tokens.chat` and `special_tokens` alone. The
library's switch for this (`encode_special_tokens`) is neither saved with a tokenizer nor pickled, so it is set wherever
a tokenizer comes into being (`_adopt`). *transformers differs*: `AutoTokenizer` on the same folder gives the same ids
for every text except one that spells a control token, unless it is called with `split_special_tokens=True`.

Legend: B texts, T tokens.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from tokenizers import Tokenizer

from malmoi.config import MalmoiError
from malmoi.tokens import folder as files
from malmoi.tokens.interleave import FOLDER, ImageIds
from malmoi.tokens.stream import StreamDecoder

if TYPE_CHECKING:
    from malmoi.tokens.image import ImageTokenizer
    from malmoi.tokens.spelling import Pieces, Spelling

END_OF_TEXT = "<|endoftext|>"
PAD = "<|pad|>"

_REBUILT = (
    "_tokenizer",
    "_reading_control_tokens",
    "_merging_every_word",
    "_pieces",
    "_spelling",
)  # what pickling leaves out


class BatchEncoding(dict[str, Any]):
    """What calling a tokenizer gives: `input_ids` and `attention_mask`, by key or attribute, for `model(**batch)`."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"this batch has no '{name}', only {', '.join(self)}") from None

    def to(self, device: Any) -> BatchEncoding:
        """The same batch with its tensors on another device."""
        return BatchEncoding({key: value.to(device) if hasattr(value, "to") else value for key, value in self.items()})


class GPT4Tokenizer:
    """Byte-level BPE with control tokens that text cannot reach.

    Made by `GPT4Tokenizer.from_pretrained(folder)` or `malmoi.tokens.vocabulary.learn(texts, vocab_size)`. `settings`
    is what `tokenizer_config.json` holds; keys that Malmoi does not know are kept for those who do. `size` is one more
    than the largest id, where that is known.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        settings: Mapping[str, Any] | None = None,
        chat_template: str | None = None,
        size: int | None = None,
    ) -> None:
        self._settings = dict(settings or {})
        self._image_folder: Path | None = None
        self.chat_template = chat_template
        self.padding_side: str = self._settings.get("padding_side", "left")
        self.truncation_side: str = self._settings.get("truncation_side", "right")
        self._adopt(tokenizer, size)

    def _adopt(self, tokenizer: Tokenizer, size: int | None = None) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        self.special_tokens: dict[str, int] = {
            token.content: index for index, token in sorted(added.items()) if token.special
        }
        self.images = ImageIds.of(self.special_tokens)
        self._special_ids = frozenset(self.special_tokens.values())
        self._words_may_be_control = getattr(
            tokenizer.model, "ignore_merges", False
        ) and not self.special_tokens.keys().isdisjoint(tokenizer.get_vocab(with_added_tokens=False))
        if size is None:
            size = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        self._size = size

    def __getstate__(self) -> dict[str, Any]:
        kept = {key: value for key, value in self.__dict__.items() if key not in _REBUILT}
        return {**kept, "_json": self._tokenizer.to_str()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        tokenizer = Tokenizer.from_str(state.pop("_json"))
        self.__dict__.update(state)
        self._adopt(tokenizer)

    # ---------------------------------------------------------------- files

    @classmethod
    def from_pretrained(cls, name: str | Path) -> GPT4Tokenizer:
        """Read a tokenizer from a folder or a hub name: one that Malmoi saved, or another BPE (GPT-1's, GPT-2's,
        Llama's, Qwen's, gpt-oss's ... see docs/tokenizers.md).

        Raises `MalmoiError` for a missing, damaged or unsuitable file, naming it.
        """
        from malmoi.tokens.foreign import load

        folder = files.locate(name)
        made = cls(*load(folder))
        made._image_folder = folder if (folder / FOLDER).is_dir() else None
        return made

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `tokenizer.json`, `tokenizer_config.json` and, where there are such, the chat template and the image
        tokenizer."""
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MalmoiError(f"{folder}: cannot be made: {error.strerror or error}.") from None
        settings = {
            **self._settings,
            "padding_side": self.padding_side,
            "truncation_side": self.truncation_side,
        }
        if self.image_tokenizer is not None:
            self.image_tokenizer.save_pretrained(folder)
        if self.chat_template is not None:
            files.write_text(folder / "chat_template.jinja", self.chat_template)
        files.write_text(
            folder / "tokenizer_config.json", json.dumps(settings, ensure_ascii=False, indent=2, sort_keys=True) + "\n"
        )
        files.write_text(folder / "tokenizer.json", self._tokenizer.to_str(pretty=True) + "\n")

    # ---------------------------------------------------------------- what it knows

    @property
    def vocab_size(self) -> int:
        """One more than the largest id, control tokens included: what a model's embedding needs at least."""
        return self._size

    def get_vocab(self) -> dict[str, int]:
        """Every token as the file spells it, control tokens included, and its id."""
        return self._tokenizer.get_vocab(with_added_tokens=True)

    def __len__(self) -> int:
        return self._size

    def __repr__(self) -> str:
        images = f", images={self.images}" if self.images else ""
        return f"GPT4Tokenizer(vocab_size={self.vocab_size}, special_tokens={self._control_of_text()}{images})"

    def _control_of_text(self) -> dict[str, int]:
        first = self.images.begin if self.images else self._size
        return {token: index for token, index in self.special_tokens.items() if index < first}

    def _named(self, role: str) -> int | None:
        value = self._settings.get(role)
        content = value.get("content") if isinstance(value, dict) else value
        return self._tokenizer.token_to_id(content) if isinstance(content, str) else None

    @property
    def eos_token_id(self) -> int | None:
        """Ends a document (and separates documents): `<|endoftext|>`, id 0 where Malmoi learned the tokenizer."""
        return self._named("eos_token")

    @property
    def bos_token_id(self) -> int | None:
        """Begins a text in some tokenizers from elsewhere; Malmoi's own have none."""
        return self._named("bos_token")

    @property
    def pad_token_id(self) -> int | None:
        """Fills short rows of a batch; the attention mask is 0 there."""
        return self._named("pad_token")

    def convert_tokens_to_ids(self, token: str) -> int:
        """The id of one token as it is spelt in `tokenizer.json`. Raises `MalmoiError` where there is none."""
        index = self._tokenizer.token_to_id(token)
        if index is None:
            raise MalmoiError(
                f"This tokenizer has no token {token!r}. Its control tokens: {', '.join(self._control_of_text())}."
            )
        return index

    @functools.cached_property
    def image_tokenizer(self) -> ImageTokenizer | None:
        """What makes tokens of pictures and pictures of tokens; None where the vocabulary holds text only."""
        if self._image_folder is None:
            return None
        from malmoi.tokens.image import ImageTokenizer

        return ImageTokenizer.from_pretrained(self._image_folder)

    @functools.cached_property
    def _reading_control_tokens(self) -> Tokenizer:
        """The same tokenizer with the library's own habit, for text that a chat template wrote (`template.to_ids`)."""
        copy = Tokenizer.from_str(self._tokenizer.to_str())
        copy.encode_special_tokens = False
        return copy

    def encode_rendered(self, text: str) -> list[int]:
        """The ids of text in which control tokens *are* meant. Only for what `malmoi.tokens.template` has rendered."""
        return self._reading_control_tokens.encode(text, add_special_tokens=False).ids

    @functools.cached_property
    def _merging_every_word(self) -> Tokenizer:
        """The same tokenizer without its looking up of whole words, which finds control tokens too (`encode_batch`)."""
        copy = Tokenizer.from_str(self._tokenizer.to_str())
        copy.encode_special_tokens = True
        copy.model.ignore_merges = False  # pyright: ignore[reportAttributeAccessIssue]  (BPE's own)
        return copy

    @functools.cached_property
    def _pieces(self) -> Pieces:
        from malmoi.tokens.spelling import Pieces

        return Pieces(self._tokenizer, self._size, self._spelling)

    @functools.cached_property
    def _spelling(self) -> Spelling:
        from malmoi.tokens.spelling import spelling

        return spelling(self._tokenizer)

    @property
    def adds_first_space(self) -> bool:
        """Whether encoding begins every text with a space that the text does not have (Llama 2's habit)."""
        return self._spelling.strips_first_space

    def token_bytes(self, token_id: int) -> bytes:
        """The exact bytes that a token stands for; those of a control token are its spelling."""
        index = int(token_id)
        if not 0 <= index < self._size:
            raise MalmoiError(
                f"Token id {index} is outside this tokenizer's vocabulary (0 to {self._size - 1}). "
                f"Do the tokenizer and the model belong together?"
            )
        return self._pieces[index]

    # ---------------------------------------------------------------- text -> ids

    @overload
    def encode(self, text: str, add_special_tokens: bool = True, return_tensors: None = None) -> list[int]: ...
    @overload
    def encode(self, text: str, add_special_tokens: bool = True, *, return_tensors: Literal["pt", "np"]) -> Any: ...

    def encode(self, text: str, add_special_tokens: bool = True, return_tensors: str | None = None) -> Any:
        """The ids of a text: a list, or with `return_tensors` "pt" or "np" an int64 tensor of shape (1, T).

        Malmoi's own tokenizers add nothing; one from elsewhere may put its beginning-of-text id first, which
        `add_special_tokens=False` leaves out. The spelling of a control token is encoded as ordinary text.
        """
        ids = self.encode_batch([text], add_special_tokens)[0]
        return ids if return_tensors is None else _tensor([ids], return_tensors)

    def encode_batch(self, texts: Iterable[str], add_special_tokens: bool = True) -> list[list[int]]:
        """The ids of many texts, in one call that the library spreads over the processor's cores.

        Some vocabularies look whole words up and hold control tokens among them (`ignore_merges`: Mistral's newer
        ones). A text of which a word became a control token is encoded again without looking words up.
        """
        texts = list(texts)
        if not all(isinstance(text, str) for text in texts):  # the library would take a pair of texts for one text
            _require_texts(texts)
        try:
            encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=add_special_tokens)
        except TypeError:
            _require_texts(texts)
            raise
        rows = [encoding.ids for encoding in encodings]
        if self._words_may_be_control:
            count = functools.partial(map, self._special_ids.__contains__)
            added = sum(count(self._tokenizer.encode("", add_special_tokens=add_special_tokens).ids))
            for index, row in enumerate(rows):
                if sum(count(row)) > added:
                    again = self._merging_every_word.encode(texts[index], add_special_tokens=add_special_tokens)
                    rows[index] = again.ids
        return rows

    def __call__(
        self,
        text: str | Sequence[str],
        padding: bool | str = False,
        truncation: bool = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        add_special_tokens: bool = True,
    ) -> BatchEncoding:
        """Encode one text or several into `input_ids` and `attention_mask` (1 for a token, 0 for padding).

        `padding` is False, True ("longest" in the batch) or "max_length"; the side is `padding_side`, left by default,
        so that generation goes on from the last token of every row. One text gives lists, several give lists of
        lists; tensors are int64 of shape (B, T).
        """
        single = isinstance(text, str)
        rows = self.encode_batch([text] if single else text, add_special_tokens)
        if padding not in (False, True, "longest", "max_length", "do_not_pad"):
            raise MalmoiError(f"padding={padding!r}, but it is False, True, 'longest' or 'max_length'.")
        if truncation or padding == "max_length":
            limit = max_length if max_length is not None else self._settings.get("model_max_length")
            if not isinstance(limit, int) or not 1 <= limit < 10**9:
                raise MalmoiError(
                    f"Truncation and padding to 'max_length' need max_length, a whole number >= 1 (given: {limit!r})."
                )
            if truncation:
                rows = [self._truncate(row, limit) for row in rows]
        else:
            limit = 0
        target = limit if padding == "max_length" else max((len(row) for row in rows), default=0)
        masks = [[1] * len(row) for row in rows]
        if padding not in (False, "do_not_pad"):
            rows, masks = self._pad(rows, target), self._pad(masks, target, 0)
        if return_tensors is not None:
            if len({len(row) for row in rows}) > 1:
                raise MalmoiError(
                    "These texts have different lengths in tokens; a tensor of them needs padding=True "
                    "(or padding='max_length' with truncation=True)."
                )
            return BatchEncoding(input_ids=_tensor(rows, return_tensors), attention_mask=_tensor(masks, return_tensors))
        if single:
            return BatchEncoding(input_ids=rows[0], attention_mask=masks[0])
        return BatchEncoding(input_ids=rows, attention_mask=masks)

    def _truncate(self, row: list[int], limit: int) -> list[int]:
        return row[-limit:] if self.truncation_side == "left" else row[:limit]

    def _pad(self, rows: list[list[int]], target: int, filler: int | None = None) -> list[list[int]]:
        if self.padding_side not in ("left", "right"):
            raise MalmoiError(f"padding_side={self.padding_side!r}, but it is 'left' or 'right'.")
        if filler is None:
            filler = self.pad_token_id if self.pad_token_id is not None else self.eos_token_id
        if filler is None:
            raise MalmoiError(
                "This tokenizer has neither a padding nor an end-of-text token, so that rows cannot be padded."
            )
        if self.padding_side == "left":
            return [[filler] * (target - len(row)) + row for row in rows]
        return [row + [filler] * (target - len(row)) for row in rows]

    # ---------------------------------------------------------------- ids -> text

    @overload
    def decode(  # pyright: ignore[reportOverlappingOverload]  (a tensor's dimensions are not in its type)
        self, ids: Sequence[Sequence[int]], skip_special_tokens: bool = False
    ) -> list[str]: ...
    @overload
    def decode(self, ids: Any, skip_special_tokens: bool = False) -> str: ...

    def decode(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """The text of ids: a list, a tensor or array (T,), or one id. Two dimensions (B, T) give a list of B texts.

        Bytes that are not UTF-8 (a character cut in two, a model that stammers) become U+FFFD, as everywhere.
        """
        values = ids.tolist() if hasattr(ids, "tolist") else ids
        if isinstance(values, int):
            values = [values]
        values = list(values)
        if values and not isinstance(values[0], int) and hasattr(values[0], "__iter__"):
            return [self.decode(row, skip_special_tokens) for row in values]
        if skip_special_tokens:
            values = [index for index in values if index not in self._special_ids]
        pieces = self._pieces
        try:
            joined = b"".join([pieces[index] for index in values])
        except IndexError:
            joined = b"".join(map(self.token_bytes, values))  # which says what is wrong
        text = joined.decode("utf-8", errors="replace")
        text = text.removeprefix(" ") if self._spelling.strips_first_space else text
        return text.removesuffix(" ") if self._spelling.strips_last_space else text

    def batch_decode(self, batch: Any, skip_special_tokens: bool = False) -> list[str]:
        """The texts of several rows of ids."""
        return [self.decode(row, skip_special_tokens) for row in batch]

    def stream(self, skip_special_tokens: bool = False, continues: bool = False) -> StreamDecoder:
        """A decoder that takes tokens one at a time and never shows a broken character.

        With `continues` the tokens go on from a text: a space before the first of them is then the writer's (Llama 2
        drops it at the beginning of a text, GPT-1 writes it between two words only).
        """
        skip = self._special_ids if skip_special_tokens else ()
        first, last = self._spelling.strips_first_space, self._spelling.strips_last_space
        if continues:
            return StreamDecoder(self.token_bytes, skip, strip_last_space=last, prefix=" " if last else "")
        return StreamDecoder(self.token_bytes, skip, strip_first_space=first, strip_last_space=last)

    # ---------------------------------------------------------------- conversations

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        tokenize: bool = True,
        add_generation_prompt: bool = False,
        return_tensors: str | None = None,
    ) -> Any:
        """A conversation as ids (a list, or a (1, T) tensor), or with `tokenize=False` as text (`malmoi.tokens.chat`).

        `add_generation_prompt` goes on to where the assistant begins to speak.
        """
        from malmoi.tokens import chat

        if not tokenize:
            return chat.render_text(self, messages, add_generation_prompt)
        ids = chat.prompt_ids(self, messages, add_generation_prompt)
        return ids if return_tensors is None else _tensor([ids], return_tensors)


def _require_texts(texts: Sequence[object]) -> None:
    """Say which of `texts` cannot be encoded and why: it is no text, or it holds half of a UTF-16 pair."""
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise MalmoiError(f"Text {index} is {type(text).__name__}, not a text: {text!r:.80}")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise MalmoiError(
                f"Text {index} holds a lone surrogate (U+{ord(text[error.start]):04X}) at character {error.start}: "
                f"half of a character, which UTF-8 cannot write. Repair or replace it where the text comes from."
            ) from None


def _tensor(rows: list[list[int]], kind: str) -> Any:
    """Rows of equal length as an int64 tensor (B, T); torch is imported only when it is asked for."""
    if kind == "pt":
        import torch

        return torch.tensor(rows, dtype=torch.int64)
    if kind == "np":
        import numpy as np

        return np.asarray(rows, dtype=np.int64)
    raise MalmoiError(f"return_tensors={kind!r}, but it is 'pt' (torch), 'np' (NumPy) or None (lists).")
