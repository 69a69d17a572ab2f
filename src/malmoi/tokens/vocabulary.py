"""Learning a vocabulary: byte-level BPE, and what it costs each language.

Byte-pair encoding (Sennrich, Haddow and Birch, 2016) starts from single bytes and, again and again, turns the most
frequent pair of neighbours into one token. Which pairs are frequent depends on the text that it is learned from: a
vocabulary learned on English writes English in few tokens and Korean, three bytes a syllable, in many. A model pays for
that three times: in price, in speed and in how far back it can see. So Malmoi learns its vocabulary from all the
languages that it is for, and `report` measures the difference.

Before merging, a pattern cuts the text into words that no merge crosses. It is the one of OpenAI's o200k vocabularies
(tiktoken, `openai_public.py`), which llama.cpp knows as `gpt-4o`: words with one leading space or sign, numbers of up
to three digits, runs of punctuation, line breaks.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from malmoi.config import MalmoiError
from malmoi.tokens import chat
from malmoi.tokens.tokenizer import END_OF_TEXT, PAD, GPT4Tokenizer

# Facts of the format, not ours to change: llama.cpp applies the same expression under the name "gpt-4o".
O200K_PATTERN = "|".join(
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)

# GPT-2's words (Radford et al., 2019): letters, digits or signs with one space before them, English contractions apart.
GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

RESERVED = tuple(f"<|reserved_{index}|>" for index in range(11))
SPECIAL_TOKENS = (END_OF_TEXT, PAD, chat.START, chat.MESSAGE, chat.END, *RESERVED)  # ids 0, 1, 2 ...
SMALLEST_VOCABULARY = len(SPECIAL_TOKENS) + 256

_PIECE_CHARACTERS = 16_384  # a book is sampled in pieces, or one book would be the whole sample
_SMALLEST_SAMPLE = 4096  # bytes: a piece is then at most 256 characters, a quarter of it
_PAIR_OCCURS_AT_LEAST = 2


def learn(texts: Iterable[str], vocab_size: int, *, sample_bytes: int = 64 * 2**20, seed: int = 0) -> GPT4Tokenizer:
    """Learn a tokenizer with exactly `vocab_size` tokens (256 bytes, 16 control tokens, the rest merges).

    Memory is bounded: of `texts`, however many there are, a sample of at most `sample_bytes` bytes is kept. Which
    pieces are kept depends on their content and `seed` alone, so that the order of the texts does not matter.

    Raises `MalmoiError` when there is no text, and when the text has too few repeated pairs for the size (saying
    which size would do).
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise MalmoiError(
            f"vocab_size={vocab_size} is too small: 256 bytes and {len(SPECIAL_TOKENS)} control tokens "
            f"need at least {SMALLEST_VOCABULARY}."
        )
    pieces = sample(texts, sample_bytes, seed)
    size = sum(len(piece.encode()) for piece in pieces)
    if not size:
        raise MalmoiError("There is no text to learn a tokenizer from: every document is empty.")
    tokenizer = _blank(O200K_PATTERN)
    _train(tokenizer, pieces, vocab_size, SPECIAL_TOKENS)
    reached = tokenizer.get_vocab_size()
    if reached < vocab_size:
        raise MalmoiError(
            f"vocab_size={vocab_size} is more than this text can fill: in {size:,} bytes of it, every pair of "
            f"neighbours that occurs twice is merged at {reached} tokens. Set vocab_size to {reached} or less, "
            f"or give more text."
        )
    return GPT4Tokenizer(tokenizer, _SETTINGS, chat.TEMPLATE)


_SETTINGS = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "eos_token": END_OF_TEXT,
    "pad_token": PAD,
    "padding_side": "left",
    "truncation_side": "right",
    "clean_up_tokenization_spaces": False,
    "model_input_names": ["input_ids", "attention_mask"],
}


def _blank(pattern: str) -> Tokenizer:
    """A byte-level BPE tokenizer without merges, cutting words by `pattern`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False, trim_offsets=False),
        ]
    )
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _train(tokenizer: Tokenizer, pieces: Iterable[str], vocab_size: int, special_tokens: Iterable[str]) -> None:
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=_PAIR_OCCURS_AT_LEAST,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in special_tokens],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(pieces, trainer)


def sample(texts: Iterable[str], sample_bytes: int, seed: int = 0) -> list[str]:
    """A sample of at most `sample_bytes` bytes of `texts`, drawn in one pass and without knowing how much will come.

    Every piece of text has a priority, a hash of its content; the pieces with the smallest ones stay (bottom-k
    sampling, Cohen and Kaplan, 2007, with bytes for k). Pieces come back in the order of their priority.
    """
    heap: list[tuple[int, str]] = []  # the largest priority on top, as its negative
    held, threshold = 0, 2**64
    if sample_bytes < _SMALLEST_SAMPLE:
        raise MalmoiError(f"sample_bytes={sample_bytes} is too small a sample; the least is {_SMALLEST_SAMPLE}.")
    salt = seed.to_bytes(16, "little", signed=True)
    for piece in _pieces(texts, min(_PIECE_CHARACTERS, sample_bytes // 16)):
        data = piece.encode()
        priority = int.from_bytes(hashlib.blake2b(data, digest_size=8, key=salt).digest(), "little")
        if priority >= threshold:
            continue
        heapq.heappush(heap, (-priority, piece))
        held += len(data)
        while held > sample_bytes:
            negative, dropped = heapq.heappop(heap)
            held -= len(dropped.encode())
            threshold = -negative
    return [piece for _, piece in sorted(heap, key=lambda entry: (-entry[0], entry[1]))]


def _pieces(texts: Iterable[str], longest: int) -> Iterator[str]:
    """The documents, those over `longest` characters cut at line breaks or spaces where there are any."""
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise MalmoiError(f"Document {index} is {type(text).__name__}, not a text.")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise MalmoiError(
                f"Document {index} holds a lone surrogate (half of a character) at character {error.start}."
            ) from None
        start = 0
        while len(text) - start > longest:
            limit = start + longest
            cut = max(text.rfind("\n", start + 1, limit), text.rfind(" ", start + 1, limit))
            cut = cut if cut > start else limit
            yield text[start:cut]
            start = cut
        if start < len(text):
            yield text[start:]


# -------------------------------------------------------------------- what a vocabulary costs


@dataclass(frozen=True)
class Fertility:
    """What a language costs in a vocabulary: how many tokens its text takes."""

    characters: int  # Unicode code points
    bytes: int  # in UTF-8
    tokens: int

    @property
    def tokens_per_character(self) -> float:
        return self.tokens / self.characters

    @property
    def tokens_per_byte(self) -> float:
        return self.tokens / self.bytes


def fertility(tokenizer: GPT4Tokenizer, texts_by_language: Mapping[str, Iterable[str]]) -> dict[str, Fertility]:
    """Tokens per character and per byte of each language's texts; texts are streamed, not held.

    Per character a language is compared with itself (under two vocabularies); per byte the languages are compared
    roughly with each other, as a syllable of Korean is three bytes and says about as much as three letters.
    """
    results = {}
    for language, texts in texts_by_language.items():
        characters = size = tokens = 0
        for batch in _batches(texts, 256):
            characters += sum(len(text) for text in batch)
            tokens += sum(len(ids) for ids in tokenizer.encode_batch(batch, add_special_tokens=False))
            size += sum(len(text.encode()) for text in batch)
        if not size:
            raise MalmoiError(f"There is no text in the language '{language}' to measure the tokenizer on.")
        results[language] = Fertility(characters, size, tokens)
    return results


_FUNCTION_WORDS = {
    "en": re.compile(r"\b(the|an?|and|of|to|in|is|was|are|were|he|she|it|you|they|his|her|that|with|for|not)\b"),
    "fr": re.compile(r"\b(le|la|les|l|une?|des|du|et|est|était|il|elle|je|vous|que|qui|dans|ne|pas|sa|son|pour)\b"),
}


def guess_language(text: str) -> str:
    """ "ko", "en", "fr" or "other", by script and by function words: enough to sort a corpus for `report`."""
    letters = [character for character in text if character.isalpha()]
    hangul = sum("\uac00" <= letter <= "\ud7a3" or "\u3131" <= letter <= "\u318e" for letter in letters)
    if hangul * 3 > len(letters):
        return "ko"
    counts = {language: len(words.findall(text.lower())) for language, words in _FUNCTION_WORDS.items()}
    best = max(counts, key=lambda language: counts[language])
    return best if counts[best] and len(set(counts.values())) > 1 else "other"


def _batches(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    iterator = iter(texts)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


@dataclass(frozen=True)
class Report:
    """A tokenizer beside an English-only one. `rows` holds one JSON-ready dictionary for each language."""

    vocab_size: int
    english_only_vocab_size: int
    rows: tuple[dict[str, Any], ...]

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "rows": list(self.rows)}


def report(
    tokenizer: GPT4Tokenizer,
    texts_by_language: Mapping[str, Iterable[str]],
    *,
    english: str = "en",
    english_only_texts: Iterable[str] | None = None,
) -> Report:
    """Measure a tokenizer beside a GPT-2-style one, learned from English alone.

    GPT-2's own vocabulary is not part of the package and cannot be downloaded everywhere; so the comparison is made on
    the spot: GPT-2's way of cutting words, the same vocabulary size, learned on `english_only_texts` (by default on the
    English part of the same texts). Where the English part is too small for that size, the baseline is as large as it
    can be, and `english_only_vocab_size` says so.

    Each row: language, characters, bytes, tokens, tokens_per_character, tokens_per_byte, english_only_tokens,
    english_only_tokens_per_character, english_only_tokens_per_byte, and `saved`, the share of tokens that the
    tokenizer saves against the English-only one (negative where it needs more).
    """
    texts_by_language = {language: list(texts) for language, texts in texts_by_language.items()}
    if english_only_texts is None:
        if english not in texts_by_language:
            raise MalmoiError(
                f"The comparison needs English texts under '{english}'; there are only: "
                f"{', '.join(texts_by_language) or 'none'}."
            )
        english_only_texts = texts_by_language[english]
    baseline = learn_english_only(english_only_texts, len(tokenizer))
    ours, theirs = fertility(tokenizer, texts_by_language), fertility(baseline, texts_by_language)
    rows = tuple(
        {
            "language": language,
            "characters": ours[language].characters,
            "bytes": ours[language].bytes,
            "tokens": ours[language].tokens,
            "tokens_per_character": ours[language].tokens_per_character,
            "tokens_per_byte": ours[language].tokens_per_byte,
            "english_only_tokens": theirs[language].tokens,
            "english_only_tokens_per_character": theirs[language].tokens_per_character,
            "english_only_tokens_per_byte": theirs[language].tokens_per_byte,
            "saved": 1 - ours[language].tokens / theirs[language].tokens,
        }
        for language in texts_by_language
    )
    return Report(len(tokenizer), len(baseline), rows)


def learn_english_only(
    texts: Iterable[str], vocab_size: int, *, sample_bytes: int = 64 * 2**20, seed: int = 0
) -> GPT4Tokenizer:
    """A GPT-2-style tokenizer (its words, bytes, `<|endoftext|>`) of at most `vocab_size` tokens, to compare with."""
    pieces = sample(texts, sample_bytes, seed)
    if not pieces:
        raise MalmoiError("There is no English text to learn the comparison's vocabulary from.")
    tokenizer = _blank(GPT2_PATTERN)
    _train(tokenizer, pieces, vocab_size, (END_OF_TEXT,))
    return GPT4Tokenizer(tokenizer, {**_SETTINGS, "pad_token": None})
