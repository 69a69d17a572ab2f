"""Reading a tokenizer's folder, whoever wrote it, and making sure that text reaches no control token.

A folder holds `tokenizer.json` or, older, GPT-1's and GPT-2's two files (`merges.describe`); either way its content is
looked over as data before the library builds anything. What its tokens are in bytes: `spelling`.

A control token is what the file declares as `special` and what the settings give a role (the end of a text ...); added
tokens that are ordinary (Qwen's `<think>`) are words like any other, which text may spell.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, processors

from malmoi.config import MalmoiError
from malmoi.tokens import folder as files
from malmoi.tokens import merges, spelling

_ROLES = ("eos_token", "bos_token", "pad_token")
_OTHER_KINDS = ("tokenizer.model", "tiktoken.model", "tekken.json", "spiece.model", "sentencepiece.bpe.model")


def load(folder: Path) -> tuple[Tokenizer, dict[str, Any], str | None, int]:
    """The library's tokenizer, the settings (with eos, bos and pad found), the chat template of a folder, and one more
    than the largest id."""
    settings = _read_settings(folder)
    path, description = _describe(folder, settings)
    try:
        known = _pieces(path, description)
        changed = _declare_roles(description, known, _find_roles(folder, description, known, settings))
        changed |= _protect(description)
        as_it_is = path.name == "tokenizer.json" and not changed
        if as_it_is:
            tokenizer = Tokenizer.from_file(str(path))
        else:
            tokenizer = Tokenizer.from_str(json.dumps(description, ensure_ascii=False))
    except MalmoiError:
        raise
    except Exception as error:  # the library raises bare Exception; a shape that is not its own breaks what is above
        raise MalmoiError(f"{path}: is JSON, but not a tokenizer: {error}. The file is damaged.") from None
    _check(path, tokenizer, description)
    if path.name == merges.VOCABULARY:  # tokenizer.json says itself what it adds
        _frame(tokenizer, settings)
    template = settings.pop("chat_template", None)
    if isinstance(template, list):  # several, by name
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    if (folder / "chat_template.jinja").is_file():
        template = files.read_text(folder / "chat_template.jinja")
    size = 1 + max(known.values(), default=-1)
    return tokenizer, settings, template if isinstance(template, str) else None, size


def vocabulary(folder: Path) -> dict[str, int] | None:
    """Token -> id of a folder's tokenizer, added tokens included; None where it holds none.

    For those who ask whether a tokenizer and a model belong together: only ids are looked at, so that a tokenizer of a
    kind that Malmoi cannot use does not keep its model from being read. Raises `MalmoiError` for a damaged file.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        path = folder / merges.VOCABULARY
        return merges.pieces(folder, _read_settings(folder)) if path.is_file() else None
    description = files.read_json(path)
    try:
        pieces = description["model"]["vocab"]
        known = dict(pieces) if isinstance(pieces, dict) else {str(piece[0]): i for i, piece in enumerate(pieces)}
        known |= {token["content"]: token["id"] for token in description.get("added_tokens") or ()}
        return {str(token): int(index) for token, index in known.items()}
    except (TypeError, KeyError, ValueError, IndexError):
        raise MalmoiError(f"{path}: holds no vocabulary that can be read. The file is damaged.") from None


def _describe(folder: Path, settings: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """What describes the tokenizer, and the file to name when something is wrong with it."""
    path = folder / "tokenizer.json"
    if path.is_file():
        return path, files.read_json(path)
    if any((folder / name).is_file() for name in (merges.VOCABULARY, merges.MERGES)):
        return folder / merges.VOCABULARY, merges.describe(folder, settings)
    other = next((name for name in _OTHER_KINDS if (folder / name).is_file()), None)
    if other is not None:
        raise MalmoiError(
            f"{folder / other}: is a SentencePiece or tiktoken file, which Malmoi does not read. "
            f"{merges.advice(folder)}"
        )
    raise MalmoiError(
        f"{path}: there is no such file (nor {merges.VOCABULARY} with {merges.MERGES}), so that {folder} holds no "
        f"tokenizer that Malmoi can read."
    )


def _pieces(path: Path, description: dict[str, Any]) -> dict[str, int]:
    """Token -> id; BPE alone, each id with one token."""
    model = description.get("model")
    kind = model.get("type", "BPE" if "merges" in model else None) if isinstance(model, dict) else None
    if not isinstance(model, dict) or kind != "BPE":
        raise MalmoiError(
            f"{path}: holds a {kind or 'missing'} model; Malmoi reads BPE tokenizers (GPT-2, Llama, Qwen ...)."
        )
    known: dict[str, int] = dict(model["vocab"])
    known.update({token["content"]: token["id"] for token in description.get("added_tokens") or ()})
    if len(set(known.values())) < len(known):
        owners: dict[int, str] = {}
        first, second = next((owners[i], t) for t, i in known.items() if owners.setdefault(i, t) != t)
        raise MalmoiError(
            f"{path}: the tokens {first!r:.60} and {second!r:.60} have the same id {known[second]}. "
            f"The file is damaged."
        )
    unknown = model.get("unk_token")
    if unknown is not None and unknown not in known:
        raise MalmoiError(f"{path}: unk_token is {unknown!r:.60}, but there is no such token. The file is damaged.")
    return known


# -------------------------------------------------------------------- settings


def _read_settings(folder: Path) -> dict[str, Any]:
    """`tokenizer_config.json`, completed from `special_tokens_map.json` where older folders name eos, bos and pad."""
    path = folder / "tokenizer_config.json"
    settings = files.read_json(path) if path.is_file() else {}
    if any(settings.get(role) is None for role in _ROLES) and (folder / "special_tokens_map.json").is_file():
        older = files.read_json(folder / "special_tokens_map.json")
        settings.update({role: older[role] for role in _ROLES if settings.get(role) is None and older.get(role)})
    return settings


def _find_roles(
    folder: Path, description: dict[str, Any], known: dict[str, int], settings: dict[str, Any]
) -> dict[str, str]:
    """Role -> token; where nothing names the end of a text, `settings` gets it from config.json or by its usual names.

    GPT-1 has no such token, and `eos_token_id` is None then.
    """
    if settings.get("eos_token") is None and (folder / "config.json").is_file():
        index = files.read_json(folder / "config.json").get("eos_token_id")
        index = index[0] if isinstance(index, list) and index else index
        if isinstance(index, int) and (found := next((t for t, i in known.items() if i == index), None)) is not None:
            settings["eos_token"] = found
    if settings.get("eos_token") is None:
        special = {token["content"] for token in description.get("added_tokens") or () if token.get("special")}
        usual = [name for name in ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>") if name in special]
        settings["eos_token"] = usual[0] if usual else None
    roles = {}
    for role in _ROLES:
        value = settings.get(role)
        if value is None or (isinstance(value, dict) and value.get("content") is None):
            continue
        name = merges.content(value)
        if name is None or name not in known:
            shown = value.get("content") if isinstance(value, dict) else value
            raise MalmoiError(
                f"{folder / 'tokenizer_config.json'}: {role} is {shown!r}, but tokenizer.json has no such token."
            )
        roles[role] = name
    return roles


def _declare_roles(description: dict[str, Any], known: dict[str, int], roles: dict[str, str]) -> bool:
    """Declare as special every token that has a role; say whether any was not. Text could spell it otherwise."""
    added = description.setdefault("added_tokens", [])
    declared = {token["content"]: token for token in added}
    wanted = {name for name in roles.values() if not declared.get(name, {}).get("special")}
    for name in wanted:
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        if name not in declared:
            added.append(declared.setdefault(name, {"id": known[name], "content": name, **flags}))
        declared[name]["special"] = True
    added.sort(key=lambda token: token["id"])
    return bool(wanted)


def _protect(description: dict[str, Any]) -> bool:
    """Take away the merges whose product spells a control token; say whether there were any.

    With them gone, no text can become a control token by merging: BPE gives single characters (or bytes) and what
    merges make of them. Some converted vocabularies have such merges; only texts that spell the control token are
    affected. (Vocabularies that whole words are looked up in: `GPT4Tokenizer.encode_batch`.)
    """
    model = description["model"]
    control = {token["content"] for token in description["added_tokens"] if token.get("special")}

    def product(merge: Any) -> str:
        return "".join(merge.split(" ", 1) if isinstance(merge, str) else merge)

    # There are tens of thousands of merges and hardly ever such a one: first asked in one go, without a call for each.
    halves = [(token[:at], token[at:]) for token in control for at in range(1, len(token))]
    merges_of_control = {*halves, *(f"{first} {second}" for first, second in halves)}
    written = (merge if isinstance(merge, str) else tuple(merge) for merge in model["merges"])
    if merges_of_control.isdisjoint(written):
        return False
    kept = [merge for merge in model["merges"] if product(merge) not in control]
    if len(kept) == len(model["merges"]):
        return False
    model["merges"] = kept
    return True


def _check(path: Path, tokenizer: Tokenizer, description: dict[str, Any]) -> None:
    """The library gives added tokens ids of its own where the file's do not fit the vocabulary: refuse that."""
    for token in description["added_tokens"]:
        given = tokenizer.token_to_id(token["content"])
        if given != token["id"]:
            raise MalmoiError(
                f"{path}: the added token {token['content']!r:.60} has the id {token['id']}, but with this vocabulary "
                f"it would get {given}: tokens are missing before it. The file is damaged."
            )
    try:
        spelling.spelling(tokenizer)
    except MalmoiError as error:
        raise MalmoiError(f"{path}: {error}") from None


def _frame(tokenizer: Tokenizer, settings: dict[str, Any]) -> None:
    """Put bos before and eos behind every text where `add_bos_token` and `add_eos_token` say so."""
    names = {role: merges.content(settings.get(f"{role}_token")) for role in ("bos", "eos")}
    wanted = {role: name for role, name in names.items() if settings.get(f"add_{role}_token") and name is not None}
    if not wanted:
        return
    single = [*([wanted["bos"]] if "bos" in wanted else []), "$A", *([wanted["eos"]] if "eos" in wanted else [])]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[(name, tokenizer.token_to_id(name)) for name in dict.fromkeys(wanted.values())]
    )
