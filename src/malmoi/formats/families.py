"""What Hugging Face calls things, in both directions: `config.json` and the names of the weights.

The tables stand in `malmoi.formats.published`; this file reads them. A model belongs to the first family that can say
everything about its structure; what a family cannot say about anything else (dropout, for example) is kept under the
key "malmoi", which other programs ignore. A structure that no family knows is written in our own names (`malmoi`),
which only Malmoi opens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from malmoi.config import ROPE_FIELDS, MalmoiError, ModelConfig, nearest
from malmoi.formats.published import FAMILIES, OWN, Family
from malmoi.formats.renaming import places
from malmoi.layers import final_norm, layer_specs

if TYPE_CHECKING:
    import torch

__all__ = ["EXTRA", "FAMILIES", "Family", "family_named", "family_of", "from_config", "match", "to_config"]

EXTRA = "malmoi"  # the key of config.json that holds what the family's own keys cannot
_BY_TYPE = {family.model_type: family for family in (*FAMILIES, OWN)}
# where null means something else than leaving the key out
_NULLABLE = {"sliding_window", "num_key_value_heads", "bos_token_id", "eos_token_id"}
_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")


def family_of(config: ModelConfig) -> Family:
    """The first family that can say everything about the structure of this model."""
    for family in FAMILIES:
        if family.experts == (config.num_experts > 0) and _agrees(family, config):
            try:
                if _structure(from_config(_say(family, config))) == _structure(config):
                    return family
            except MalmoiError:
                continue
    return OWN


def _agrees(family: Family, config: ModelConfig) -> bool:
    return all(getattr(config, name) == value for name, value in family.fixed.items())


def _structure(config: ModelConfig) -> tuple[Any, ...]:
    """All that decides a model's logits, apart from its weights."""
    plain = config.replace(attention_dropout=0.0, residual_dropout=0.0, embedding_dropout=0.0)
    turning = config.rope_parameters if config.positions == "rotary" else None
    tables = (config.vocab_size, config.max_position_embeddings, config.tie_word_embeddings)
    ngrams = (config.ngram_sizes, config.ngram_vocab_size) if config.ngram_sizes else None
    return layer_specs(plain), final_norm(config), tables, ngrams, turning


def _say(family: Family, config: ModelConfig) -> dict[str, Any]:
    """The configuration in the family's names, as today's and as older versions of transformers read them."""
    values = config.model_dump(mode="json")
    said = {"architectures": [family.architecture], "model_type": family.model_type, **family.written}
    for ours, theirs in family.settings.items():
        spelled: dict[str, str] = {}
        for their, our in family.spellings.get(ours, {}).items():
            spelled.setdefault(our, their)
        said[theirs] = spelled.get(values[ours], values[ours]) if spelled else values[ours]
    if family is OWN:
        return said
    sliding = [kind == "sliding_attention" for kind in config.layer_types]
    if family.windows == "all":
        said["sliding_window"] = config.sliding_window if all(sliding) else None
    if family.windows == "later":
        said["use_sliding_window"] = any(sliding)
        said["max_window_layers"] = sliding.index(True) if any(sliding) else len(sliding)  # read before version 4.53
    if "rope_parameters" in said:  # before version 5 the base and its stretching were two keys
        rope = dict(said["rope_parameters"])
        said["rope_theta"] = rope.pop("rope_theta")
        said["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    return said


def to_config(config: ModelConfig) -> dict[str, Any]:
    """What `config.json` says about a model, in its family's names; the rest under `EXTRA`."""
    family = family_of(config)
    said = _say(family, config)
    understood = from_config(said).model_dump(mode="json")
    rest = {name: value for name, value in config.model_dump(mode="json").items() if understood[name] != value}
    return {**said, EXTRA: {"config": rest}} if rest else said


def from_config(said: Mapping[str, Any]) -> ModelConfig:
    """A `config.json` as a `ModelConfig`.

    Raises `MalmoiError` for a family that is not known, a setting that we would compute differently, or a bad value.
    """
    family = family_named(said)
    if family is not OWN:
        said = _modern_names(family, said)
    for key, allowed in family.refused.items():
        if key in said and said[key] not in allowed:
            raise MalmoiError(f"{key}={said[key]!r} is not supported for model_type '{family.model_type}'.")
    values: dict[str, Any] = dict(family.fixed)
    for ours, theirs in family.settings.items():
        if said.get(theirs) is not None:
            value = said[theirs]
            spelled = family.spellings.get(ours, {})
            values[ours] = spelled.get(value, value) if isinstance(value, str) else value
    if isinstance(values.get("eos_token_id"), list):  # the first ends a text; generation_config.json has them all
        values["eos_token_id"] = values["eos_token_id"][0] if values["eos_token_id"] else None
    if family.windows == "all" and said.get("sliding_window") is not None:
        values["sliding_window"] = said["sliding_window"]
        values["layer_types"] = said["layer_types"]
    if family.experts and values.get("num_experts") == 0:
        raise MalmoiError(f"model_type '{family.model_type}' is a mixture of experts, but config.json gives it none.")
    extra = said.get(EXTRA) if isinstance(said.get(EXTRA), Mapping) else {}
    values |= extra.get("config", {}) if extra else {}
    return ModelConfig(**values)


def family_named(said: Mapping[str, Any]) -> Family:
    """The family that a `config.json` names as its `model_type`."""
    name = said.get("model_type")
    if name not in _BY_TYPE:
        given = f"model_type '{name}' is not a family that Malmoi knows" if name else "there is no model_type"
        near = nearest(str(name), _BY_TYPE) if name else ""
        raise MalmoiError(f"{given}.{near} Known families: {', '.join(_BY_TYPE)}.")
    return _BY_TYPE[name]


def _modern_names(family: Family, said: Mapping[str, Any]) -> dict[str, Any]:
    """A published `config.json` complete and in today's spelling, whichever version of transformers wrote it."""
    given = {key: value for key, value in said.items() if value is not None or key in _NULLABLE}
    if "num_local_experts" in given:
        given.setdefault("num_experts", given["num_local_experts"])
    for ours, theirs in family.settings.items():  # transformers takes its common names everywhere
        if ours in given:
            given.setdefault(theirs, given[ours])
    missing = [family.settings[ours] for ours in _SIZES if family.settings[ours] not in given]
    if missing:
        raise MalmoiError(f"{', '.join(missing)} must be said for a model of type '{family.model_type}'.")
    full = {**family.defaults, **given}
    if "rope_parameters" in family.settings:
        full["rope_parameters"] = _rope(full, given.get("rope_scaling") or full.get("rope_parameters") or {})
    _windows(family, full)
    return full


def _windows(family: Family, said: dict[str, Any]) -> None:
    """Write out which layers look through a window, where the family has a rule instead of a list."""
    if family.windows == "later":
        first = said.get("max_window_layers", 28)
        if not said.get("use_sliding_window") or not isinstance(first, int):
            said["sliding_window"], first = None, 10_000
        plain, sliding = _repeat(("full_attention",), said), _repeat(("sliding_attention",), said)
        said.setdefault("layer_types", plain[:first] + sliding[first:])
    elif family.windows == "alternating":
        said.setdefault("layer_types", _repeat(("sliding_attention", "full_attention"), said))
    elif family.windows == "all" and said.get("sliding_window") is not None:
        said["layer_types"] = _repeat(("sliding_attention",), said)


def _repeat(pattern: tuple[str, ...], said: Mapping[str, Any]) -> list[str]:
    depth = said.get("num_hidden_layers")
    depth = depth if isinstance(depth, int) and 0 < depth <= 10_000 else 0  # else the field's own check will say so
    return [pattern[i % len(pattern)] for i in range(depth)]


def _rope(said: Mapping[str, Any], rope: Any) -> dict[str, Any]:
    """The rotary positions of a folder as our `rope_parameters`; a kind that we do not compute is refused by name."""
    if not isinstance(rope, Mapping):
        raise MalmoiError(f"rope_parameters must be a record of settings, not {rope!r:.60}.")
    rope = {key: value for key, value in rope.items() if value is not None}
    kind = rope.pop("rope_type", None) or rope.get("type") or "default"
    rope.pop("type", None)
    nested = [key for key, value in rope.items() if isinstance(value, Mapping)]
    if kind not in ROPE_FIELDS or nested:
        what = f"rope_parameters for each kind of layer ({', '.join(nested)})" if nested else f"rope_type '{kind}'"
        raise MalmoiError(f"{what} is not supported; known: {', '.join(ROPE_FIELDS)}.")
    part = rope.pop("partial_rotary_factor", said.get("partial_rotary_factor", 1.0))
    if part != 1:
        raise MalmoiError(f"partial_rotary_factor={part!r} is not supported: positions turn all of a head, or none.")
    required, optional = ROPE_FIELDS[kind]
    known = {name for names in ROPE_FIELDS.values() for field in names for name in field}
    strange = sorted(set(rope) - known - {"rope_theta"})
    if strange:
        raise MalmoiError(f"rope_parameters has {', '.join(strange)}, which Malmoi does not know how to compute.")
    # what belongs to another kind has no effect, there as here
    kept = {name: value for name, value in rope.items() if name in (*required, *optional, "rope_theta")}
    if "original_max_position_embeddings" in required:
        kept.setdefault("original_max_position_embeddings", said.get("max_position_embeddings"))
    kept.setdefault("rope_theta", said.get("rope_theta"))
    return {"rope_type": kind, **kept}


def to_tensors(family: Family, state: Mapping[str, torch.Tensor], layers: int) -> dict[str, torch.Tensor]:
    """Our state dictionary under the family's names, in its layout (views of ours where that is enough)."""
    return {place.theirs: place.whole(state) for place in places(family.tensors, state, layers)}


def match(family: Family, held: Iterable[str], expected: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Which tensor of a folder is which expected one (by the family's names), and the names that nobody expected."""
    wanted, found, extra = set(expected), {}, []
    for name in held:
        full = name if name in wanted else family.prefix + name  # some folders leave the prefix out
        if full in wanted:
            found[full] = name
        elif not any(name.endswith(ending) for ending in family.ignored):
            extra.append(name)
    return found, sorted(extra)
