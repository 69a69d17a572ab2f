"""GPT-1's and GPT-2's own two files: `vocab.json` (token -> id) and `merges.txt` (a merge a line, the first one first).

Both are byte-pair encoding, and both files look alike; what a "character" is differs, and neither file says it.

*GPT-2* (Radford et al., 2019) merges bytes inside words that one expression cuts out, so that every text can be
written and comes back exactly.

*GPT-1* (Radford et al., 2018) merges characters inside words that were cleaned first: lower case, accents dropped, runs
of white space made one, punctuation apart. A word's last piece ends in `</w>`, and a character that no piece has is
`<unk>`. Text does not come back exactly, and Hangul (taken apart into its letters by the dropping of accents) comes
back as `<unk>`s. The cleaning is BERT's, which transformers uses where ftfy and spaCy, the original's, are absent.

Which of the two it is, is said by `tokenizer_class` in `tokenizer_config.json`, else by `model_type` in `config.json`,
else by the pieces themselves. `describe` returns what `tokenizer.json` would hold; everything after is the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from malmoi.config import MalmoiError
from malmoi.tokens import folder as files

VOCABULARY, MERGES = "vocab.json", "merges.txt"
GPT1, GPT2 = "OpenAIGPTTokenizer", "GPT2Tokenizer"  # transformers' names of the two
_WORD_END = "</w>"
_BY_MODEL = {"openai-gpt": GPT1, "gpt2": GPT2, "gpt_neo": GPT2, "gptj": GPT2}
_UNSAID = (None, "PreTrainedTokenizerFast", "TokenizersBackend")
_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def describe(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """What a `tokenizer.json` of this folder would hold; `settings` receives what its absence leaves unsaid.

    Raises `MalmoiError` that names the file, and the line where there is one, for files that do not fit each other.
    """
    for name, other in ((VOCABULARY, MERGES), (MERGES, VOCABULARY)):
        if not (folder / name).is_file():
            raise MalmoiError(
                f"{folder}: holds {other}, but no {name}: this kind of tokenizer needs both. "
                f"Take the missing file from where the other one came."
            )
    vocabulary = _vocabulary(folder / VOCABULARY)
    kind = _kind(folder, settings, vocabulary)
    settings["tokenizer_class"] = kind
    merges = _merges(folder / MERGES, vocabulary)
    if kind == GPT1:
        settings.setdefault("unk_token", "<unk>")
        parts = _gpt1_parts()
        unknown = content(settings["unk_token"])
        if unknown not in vocabulary:
            raise MalmoiError(
                f"{folder / VOCABULARY}: has no {unknown!r}, the token for characters that have none (unk_token)."
            )
    else:
        for role in ("bos_token", "eos_token", "unk_token"):
            settings.setdefault(role, "<|endoftext|>")
        parts = _gpt2_parts(settings.get("add_prefix_space"))
        unknown = None
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": unknown,
        "continuing_subword_prefix": "",
        "end_of_word_suffix": _WORD_END if kind == GPT1 else "",
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": vocabulary,
        "merges": merges,
    }
    added = _added(folder, settings, vocabulary)
    _refuse_holes(folder, {**vocabulary, **{token["content"]: token["id"] for token in added}})
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, **parts, "model": model}


def pieces(folder: Path, settings: Mapping[str, Any]) -> dict[str, int]:
    """Token -> id of `vocab.json` and the tokens that the folder adds to it, however they are to be used."""
    vocabulary = _vocabulary(folder / VOCABULARY)
    return {**vocabulary, **{token["content"]: token["id"] for token in _added(folder, settings, vocabulary)}}


def content(token: Any) -> str | None:
    """The spelling of a token that a settings file names as a text or as {"content": ...}."""
    said = token.get("content") if isinstance(token, Mapping) else token
    return said if isinstance(said, str) else None


def _gpt1_parts() -> dict[str, Any]:
    return {
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": None,
        "decoder": {"type": "BPEDecoder", "suffix": _WORD_END},
    }


def _gpt2_parts(add_prefix_space: Any) -> dict[str, Any]:
    byte_level = {"type": "ByteLevel", "trim_offsets": True, "use_regex": True}
    return {
        "normalizer": None,
        "pre_tokenizer": {**byte_level, "add_prefix_space": bool(add_prefix_space)},
        "post_processor": None,
        "decoder": {**byte_level, "add_prefix_space": True},
    }


def _kind(folder: Path, settings: Mapping[str, Any], vocabulary: Mapping[str, int]) -> str:
    said = settings.get("tokenizer_class")
    if said not in _UNSAID:
        if (known := str(said).removesuffix("Fast")) in (GPT1, GPT2):
            return known
        raise MalmoiError(
            f"{folder / 'tokenizer_config.json'}: tokenizer_class is {said!r}; from {VOCABULARY} and {MERGES} Malmoi "
            f"builds {GPT2} and {GPT1}. {advice(folder)}"
        )
    model_type = None
    if (folder / "config.json").is_file():
        model_type = files.read_json(folder / "config.json").get("model_type")
    if model_type is None:
        ends_words = any(piece.endswith(_WORD_END) for piece in vocabulary)
        return GPT1 if ends_words and "Ġ" not in vocabulary else GPT2  # Ġ: GPT-2's space, one of its 256 bytes
    if model_type not in _BY_MODEL:
        raise MalmoiError(
            f"{folder}: nothing says how {VOCABULARY} and {MERGES} are read for a {model_type!r} model "
            f"(tokenizer_class in tokenizer_config.json). {advice(folder)}"
        )
    return _BY_MODEL[model_type]


def advice(folder: Path) -> str:
    """How anybody's tokenizer becomes one that is read here."""
    return (
        "Convert it once with transformers, which writes a tokenizer.json: "
        f'AutoTokenizer.from_pretrained("{folder}").save_pretrained("{folder}").'
    )


def _vocabulary(path: Path) -> dict[str, int]:
    vocabulary = files.read_json(path)
    tokens: dict[int, str] = {}
    for token, index in vocabulary.items():
        if not isinstance(index, int) or isinstance(index, bool) or index < 0:
            raise MalmoiError(f"{path}: token {token!r:.60} has the id {index!r:.60}, but an id is 0, 1, 2 ...")
        if index in tokens:
            raise MalmoiError(
                f"{path}: the tokens {tokens[index]!r:.60} and {token!r:.60} have the same id {index}. "
                f"The file is damaged."
            )
        tokens[index] = token
    return vocabulary


def _refuse_holes(folder: Path, vocabulary: Mapping[str, int]) -> None:
    used = set(vocabulary.values())
    hole = next((index for index in range(len(used)) if index not in used), None)
    if hole is not None:
        raise MalmoiError(
            f"{folder / VOCABULARY}: no token has the id {hole}, although ids go up to {max(used)}: tokens are "
            f"missing. Take {VOCABULARY} (and added_tokens.json) again from where they came."
        )


def _merges(path: Path, vocabulary: Mapping[str, int]) -> list[list[str]]:
    merges = []
    lines = files.read_text(path).split("\n")  # not splitlines: GPT-1's pieces may hold other line breaks than this
    if lines[-1] == "":
        lines.pop()
    for number, line in enumerate(lines, 1):
        if line.startswith("#version"):
            continue
        pair = line.split(" ")
        if len(pair) != 2 or not all(pair):
            raise MalmoiError(
                f"{path}, line {number}: {line!r:.80} is not two pieces with one space between them. "
                f"The file is damaged."
            )
        for piece in (*pair, "".join(pair)):
            if piece not in vocabulary:
                raise MalmoiError(
                    f"{path}, line {number}: the merge {line!r:.80} needs the token {piece!r:.80}, which {VOCABULARY} "
                    f"does not have. Do the two files belong together?"
                )
        merges.append(pair)
    return merges


def _added(folder: Path, settings: Mapping[str, Any], vocabulary: Mapping[str, int]) -> list[dict[str, Any]]:
    """Tokens beside the vocabulary: listed by a folder, or named by a role; those without an id get the next ones."""
    named = [name for role in _NAMED if (name := content(settings.get(role))) is not None]
    extra = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or ()
    named += [name for token in extra if (name := content(token)) is not None]
    listed: dict[str, dict[str, Any]] = {}
    decoder = settings.get("added_tokens_decoder")
    older = folder / "added_tokens.json"
    try:
        if isinstance(decoder, dict):
            for index, token in decoder.items():
                listed[token["content"]] = {**token, "id": int(index)}
        elif older.is_file():
            for token, index in files.read_json(older).items():
                listed[token] = {"id": int(index), "normalized": token not in named, "special": token in named}
    except (TypeError, KeyError, ValueError):
        where = "added_tokens_decoder in tokenizer_config.json" if isinstance(decoder, dict) else older.name
        raise MalmoiError(f"{folder}: {where} is not a list of tokens with their ids.") from None
    index = max((*vocabulary.values(), *(token["id"] for token in listed.values())), default=-1)
    for name in dict.fromkeys(named):
        if name not in listed:
            known = vocabulary.get(name)
            index += known is None
            listed[name] = {"id": index if known is None else known, "normalized": False, "special": True}
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return [
        {"id": token["id"], "content": name, **{flag: bool(token.get(flag, False)) for flag in flags}}
        for name, token in sorted(listed.items(), key=lambda entry: entry[1]["id"])
    ]
