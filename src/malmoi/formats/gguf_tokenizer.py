"""The vocabulary in a GGUF file: tokens, merges, and the name of the way in which a text is cut before merging.

`tokenizer.json` holds the pattern that cuts words; a GGUF file holds only a *name* for it (`tokenizer.ggml.pre`), and
llama.cpp has the pattern for each name in its source. A wrong name costs no error message, only silently other tokens
than the model was trained on. So the name is found here from the pattern itself, never from the name of a model; a
pattern that llama.cpp does not have is refused.

llama.cpp cannot say every class of characters that a pattern may use. Where its own pattern is an approximation, `Cut`
holds that one too (`applied`), so that an export can measure on real text what the difference does.

SentencePiece's way (Llama 2) has no words and no pattern: spaces are spelt U+2581, and of all neighbours the pair whose
union has the best score is joined. Scores are made from the order of the merges, where that order allows it.

Source: https://github.com/ggml-org/llama.cpp/blob/master/src/llama-vocab.cpp
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from malmoi.config import MalmoiError
from malmoi.tokens.tokenizer import GPT4Tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # tokenizer.ggml.token_type
SPACE = "\u2581"

_SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def _cased(upper: str, lower: str, suffix: str, digits: str) -> str:
    """A word is capitals and then small letters, so that HelloWorld is two."""
    before = r"[^\r\n\p{L}\p{N}]?"
    words = f"{before}{upper}*{lower}+{suffix}|{before}{upper}+{lower}*{suffix}"
    return rf"{words}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"


@dataclass(frozen=True, slots=True)
class Cut:
    """One of llama.cpp's ways to cut a text: its name and the patterns, applied one after another.

    `whole_words`: a word that is a token is taken as it is, without merging. `applied`: what llama.cpp really applies,
    where that is not `patterns`; `note` then says what the difference is.
    """

    name: str
    patterns: tuple[str, ...]
    whole_words: bool = False
    applied: tuple[str, ...] | None = None
    note: str = ""


_CASE_NOTE = (
    "llama.cpp takes letters outside a-z for capitals and small letters at once, and combining marks for signs, so it "
    "cuts some words differently (ÉCOLE, decomposed accents): the same text, other tokens"
)
_ANY_UPPER, _ANY_LOWER = r"(?:(?=\p{L})[^a-z])", r"(?:(?=\p{L})[^A-Z])"
_O200K, _TEKKEN = (_SUFFIX + "?", r"\p{N}{1,3}"), ("", r"\p{N}")

CUTS: tuple[Cut, ...] = (
    Cut("gpt-2", (_GPT2,)),
    Cut("llama-bpe", (rf"{_SUFFIX}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_SIGNS}|{_SPACES}",), True),
    Cut("smaug-bpe", (rf"{_SUFFIX}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_SIGNS}|{_SPACES}",)),
    Cut("qwen2", (rf"{_SUFFIX}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_SIGNS}|{_SPACES}",)),
    Cut(
        "qwen35",
        (
            rf"{_SUFFIX}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*"
            rf"|{_SPACES}",
        ),
    ),
    Cut("smollm", (r"\p{N}", _GPT2)),
    Cut("gpt-4o", (_cased(_UPPER, _LOWER, *_O200K),), False, (_cased(_ANY_UPPER, _ANY_LOWER, *_O200K),), _CASE_NOTE),
    Cut("tekken", (_cased(_UPPER, _LOWER, *_TEKKEN),), True, (_cased(_ANY_UPPER, _ANY_LOWER, *_TEKKEN),), _CASE_NOTE),
)
_SPELLINGS = {r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+": _GPT2}


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """All that a GGUF file says about tokens. `kind` is "gpt2" (byte-level BPE) or "llama" (SentencePiece's)."""

    kind: str
    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    ids: Mapping[str, int] = field(default_factory=dict)  # bos, eos, eot, unk, pad
    add_bos: bool = False
    add_eos: bool = False
    add_space: bool = False
    chat_template: str | None = None
    normalized: bool = False  # the tokenizer brings text to NFC first, which a file cannot say
    notes: tuple[str, ...] = ()

    @property
    def cut(self) -> Cut | None:
        return next((cut for cut in CUTS if cut.name == self.pre), None)


def describe(tokenizer: GPT4Tokenizer, vocab_size: int, also_ends: tuple[int, ...] = ()) -> Vocabulary:
    """What a GGUF file has to say about this tokenizer, for a model of `vocab_size` ids.

    `also_ends` are ids that end a turn besides the end of text. Raises `MalmoiError` for what llama.cpp would do
    otherwise: an unknown pattern, a normaliser, a vocabulary whose merges no scores can order.
    """
    said = json.loads(tokenizer._tokenizer.to_str())
    model = said["model"]
    tokens, types = _tokens(said, vocab_size)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    before, after = _frame(tokenizer)
    ids = {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id, "pad": tokenizer.pad_token_id}
    ids |= {"eot": next((one for one in also_ends if one != tokenizer.eos_token_id), None)}
    ids |= {"unk": model["vocab"].get(model.get("unk_token"))}
    ids["bos"] = ids["eos"] if ids["bos"] is None else ids["bos"]  # or llama.cpp would take id 11 for it
    shared: dict[str, Any] = {
        "tokens": tokens,
        "types": types,
        "chat_template": tokenizer.chat_template,
        "ids": {role: index for role, index in ids.items() if index is not None},
        "add_bos": before,
        "add_eos": after,
    }
    if model.get("byte_fallback"):
        return Vocabulary("llama", "default", scores=_scores(tokens, types, merges), add_space=_space(said), **shared)
    cut, notes = _cut(tokenizer, said)
    return Vocabulary("gpt2", cut.name, merges=merges, notes=notes, normalized=bool(said.get("normalizer")), **shared)


def _tokens(said: Mapping[str, Any], vocab_size: int) -> tuple[list[str], list[int]]:
    """Every id's spelling and type; ids that no token has are unused ones with names of their own."""
    added = {token["id"]: token for token in said["added_tokens"]}
    spelt = {index: token for token, index in said["model"]["vocab"].items()}
    spelt |= {index: token["content"] for index, token in added.items()}
    known, tokens, types = set(spelt.values()), [], []
    for index in range(vocab_size):
        token = spelt.get(index)
        if token is None:
            token = f"[PAD{index}]"
            while token in known:
                token += "_"
            kind = UNUSED
        elif index in added:
            kind = CONTROL if added[index]["special"] else USER_DEFINED
        elif said["model"].get("byte_fallback") and token == f"<0x{token[3:-1]}>" and len(token) == 6:
            kind = BYTE
        else:
            kind = NORMAL
        if index in added and token == said["model"].get("unk_token"):
            kind = UNKNOWN
        tokens.append(token)
        types.append(kind)
    for token in added.values():
        if not token["special"] and (token["lstrip"] or token["rstrip"] or token["single_word"]):
            raise MalmoiError(f"The token {token['content']!r} swallows the spaces around it; GGUF cannot say that.")
    return tokens, types


def _frame(tokenizer: GPT4Tokenizer) -> tuple[bool, bool]:
    """Whether the tokenizer puts its beginning before a text, and its end after it."""
    bare, framed = tokenizer.encode("a", add_special_tokens=False), tokenizer.encode("a")
    for before in (False, True):
        for after in (False, True):
            expected = [tokenizer.bos_token_id] * before + bare + [tokenizer.eos_token_id] * after
            if framed == expected:
                return before, after
    raise MalmoiError("The tokenizer puts other tokens around a text than its beginning and end; GGUF cannot say that.")


# ---------------------------------------------------------------- byte-level BPE


def _cut(tokenizer: GPT4Tokenizer, said: Mapping[str, Any]) -> tuple[Cut, tuple[str, ...]]:
    """The way to cut, by its pattern, and what to tell about it."""
    patterns = tuple(_patterns(said["pre_tokenizer"]))
    fitting = [cut for cut in CUTS if cut.patterns == patterns]
    if not fitting:
        raise MalmoiError(
            f"llama.cpp does not know this tokenizer's way of cutting words ({' then '.join(patterns) or 'none'}): it "
            f"would see other tokens than the model learned. `malmoi export --to hf` keeps the tokenizer as it is."
        )
    normalizer = (said.get("normalizer") or {}).get("type")
    if normalizer not in (None, "NFC"):
        raise MalmoiError(f"The tokenizer rewrites texts first ({normalizer}); llama.cpp would not.")
    whole_words = bool(said["model"].get("ignore_merges"))
    cut = next((cut for cut in fitting if cut.whole_words == whole_words), fitting[0])
    if cut.whole_words != whole_words and (odd := _unmerged(said)):
        raise MalmoiError(
            f"Words like {odd!r} are tokens that merging does not reach; '{cut.name}' treats them otherwise."
        )
    notes = ["llama.cpp does not bring text to Unicode's composed form (NFC) first"] if normalizer else []
    return cut, (*notes, *([cut.note] if cut.note else []))


def _patterns(step: Any) -> Iterator[str]:
    """The patterns of a `pre_tokenizer`, in the order in which they cut."""
    match step:
        case {"type": "Sequence", "pretokenizers": steps}:
            for one in steps:
                yield from _patterns(one)
        case {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}:
            yield _SPELLINGS.get(str(pattern), str(pattern))
        case {"type": "Digits", "individual_digits": True}:
            yield r"\p{N}"
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": uses}:
            if uses:
                yield _GPT2
        case _:
            name = step.get("type") if step else "nothing"
            raise MalmoiError(f"The tokenizer cuts words by '{name}' with settings that llama.cpp does not have.")


def _unmerged(said: Mapping[str, Any]) -> str | None:
    """A token that merging its own spelling does not give; only for such words does `whole_words` matter."""
    merging = models.BPE(said["model"]["vocab"], [_pair(merge) for merge in said["model"]["merges"]])
    skipped = {token["content"] for token in said["added_tokens"]}
    for token in said["model"]["vocab"]:
        if token not in skipped and [part.value for part in merging.tokenize(token)] != [token]:
            return token
    return None


def _pair(merge: Any) -> tuple[str, str]:
    first, second = merge.split(" ", 1) if isinstance(merge, str) else merge
    return first, second


# ---------------------------------------------------------------- SentencePiece's BPE


def _space(said: Mapping[str, Any]) -> bool:
    """Whether a space is put before the text, from the two forms in which Llama-2-like files say it."""
    normalizer, cutter = said.get("normalizer"), said.get("pre_tokenizer")
    steps = normalizer.get("normalizers", [normalizer]) if normalizer else []
    kinds = [step["type"] for step in steps]
    if cutter is None and kinds in (["Prepend", "Replace"], ["Replace"]):
        return kinds[0] == "Prepend"
    match cutter:
        case {"type": "Metaspace", "replacement": "\u2581", "split": False, "prepend_scheme": scheme} if not steps:
            return scheme != "never"
    raise MalmoiError("The tokenizer treats spaces in a way that llama.cpp's `llama` tokenizer does not have.")


def _scores(tokens: list[str], types: list[int], merges: list[str]) -> list[float]:
    """A score for every token, so that joining the best-scored neighbours does what the merges do in their order.

    That holds where the merges of one token stand together and every way to halve a token is among them, as in files
    that were converted from SentencePiece.
    """
    products = ["".join(_pair(merge)) for merge in merges]
    ordered = {token: rank for rank, token in reversed(list(enumerate(products)))}
    groups = sum(1 for i, token in enumerate(products) if i == 0 or products[i - 1] != token)
    known = {token for token, kind in zip(tokens, types, strict=True) if kind == NORMAL}
    if groups != len(ordered) or set(merges) != {" ".join(pair) for token in known for pair in _halves(token, known)}:
        raise MalmoiError(
            "The order of this vocabulary's merges is none that scores can express, so that llama.cpp would see other "
            "tokens. `malmoi export --to hf` keeps the tokenizer as it is."
        )
    return [float(-ordered.get(token, len(merges))) for token in tokens]


def _halves(token: str, known: set[str]) -> Iterator[tuple[str, str]]:
    for at in range(1, len(token)):
        if token[:at] in known and token[at:] in known:
            yield token[:at], token[at:]


# ---------------------------------------------------------------- the file


def write(writer: Any, vocabulary: Vocabulary) -> None:
    """Add the vocabulary to a `GGUFWriter`."""
    writer.add_tokenizer_model(vocabulary.kind)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.merges:
        writer.add_token_merges(vocabulary.merges)
    if vocabulary.scores:
        writer.add_token_scores(vocabulary.scores)
    for role, index in vocabulary.ids.items():
        getattr(writer, f"add_{role}_token_id")(index)
    writer.add_add_bos_token(vocabulary.add_bos)
    writer.add_add_eos_token(vocabulary.add_eos)
    writer.add_add_space_prefix(vocabulary.add_space)
    if vocabulary.chat_template is not None:
        writer.add_chat_template(vocabulary.chat_template)


def read(said: Mapping[str, Any]) -> Vocabulary:
    """The vocabulary of a file's values. Raises `MalmoiError` for a kind that Malmoi does not know."""

    def own(key: str, default: Any = None) -> Any:
        return said.get(f"tokenizer.ggml.{key}", default)

    if own("model") not in ("gpt2", "llama") or own("tokens") is None:
        raise MalmoiError(f"The file's vocabulary is of kind {own('model')!r}; Malmoi reads 'gpt2' and 'llama'.")
    roles = {"bos": "bos", "eos": "eos", "eot": "eot", "unk": "unknown", "pad": "padding"}
    return Vocabulary(
        kind=own("model"),
        pre=own("pre", "default"),
        tokens=own("tokens"),
        types=own("token_type", [NORMAL] * len(own("tokens"))),
        merges=own("merges", []),
        scores=own("scores", []),
        ids={role: own(f"{key}_token_id") for role, key in roles.items() if own(f"{key}_token_id") is not None},
        add_bos=own("add_bos_token", False),
        add_eos=own("add_eos_token", False),
        add_space=own("add_space_prefix", own("model") == "llama"),
        chat_template=said.get("tokenizer.chat_template"),
    )


def rebuild(vocabulary: Vocabulary, as_applied: bool = False) -> Tokenizer:
    """A tokenizer of the `tokenizers` library from nothing but what a file says; control tokens are out of reach.

    `as_applied`: with the pattern that llama.cpp really applies.
    """
    typed = list(zip(vocabulary.tokens, vocabulary.types, strict=True))
    reachable = (NORMAL, BYTE, UNKNOWN, USER_DEFINED)
    vocab = {token: index for index, (token, kind) in enumerate(typed) if kind in reachable}
    if vocabulary.kind == "llama":
        tokenizer = _rebuild_scored(vocabulary, vocab)
    else:
        cut = vocabulary.cut
        if cut is None:
            raise MalmoiError(f"'{vocabulary.pre}' is no way of cutting words that Malmoi knows.")
        merges = [_pair(merge) for merge in vocabulary.merges]
        tokenizer = Tokenizer(models.BPE(vocab, merges, ignore_merges=cut.whole_words))
        patterns = cut.applied if as_applied and cut.applied else cut.patterns
        steps = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in patterns]
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        tokenizer.decoder = decoders.ByteLevel()
    words = [AddedToken(token, normalized=False) for token, kind in typed if kind == USER_DEFINED]
    tokenizer.add_tokens(words)
    return tokenizer


def _rebuild_scored(vocabulary: Vocabulary, vocab: dict[str, int]) -> Tokenizer:
    known = {token for token, index in vocab.items() if vocabulary.types[index] == NORMAL}
    pairs = [(token, pair) for token in known for pair in _halves(token, known)]
    pairs.sort(key=lambda entry: (-vocabulary.scores[vocab[entry[0]]], entry[1]))
    unknown = vocabulary.tokens[vocabulary.ids["unk"]] if "unk" in vocabulary.ids else None
    model = models.BPE(vocab, [pair for _, pair in pairs], unk_token=unknown, fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    steps: list[Any] = [normalizers.Replace(" ", SPACE)]
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), *steps] if vocabulary.add_space else steps)
    return tokenizer
