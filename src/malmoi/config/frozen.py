"""A record of settings: frozen, complete, and clear about what it refuses.

Pydantic checks the values; this file turns its findings into one sentence for each mistake (where, what is allowed,
what was given, the nearest known name), at any depth of records inside records.
"""

from __future__ import annotations

import contextvars
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator


class MalmoiError(ValueError):
    """A mistake that a person can mend: what was wrong, where, and what to do. The command line prints only this."""


_building: contextvars.ContextVar[bool] = contextvars.ContextVar("building", default=False)
ConfigT = TypeVar("ConfigT", bound="Config")


def nearest(word: str, known: Iterable[str]) -> str:
    """`" Did you mean 'x'?"` for the known word nearest to `word`, or the empty string when none is near."""
    found = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.5)
    return f" Did you mean '{found[0]}'?" if found else ""


class Config(BaseModel):
    """A frozen record that explains its refusals and travels as YAML."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        outermost = not _building.get()  # a record inside another one leaves the words to the outer
        token = _building.set(True)
        try:
            super().__init__(**values)
        except ValidationError as error:
            if outermost:
                raise MalmoiError(_readable(type(self), error)) from None
            raise
        finally:
            _building.reset(token)

    @field_validator("*", mode="before")
    @classmethod
    def _a_truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and bool not in branches(cls.model_fields[str(info.field_name)].annotation):
            raise ValueError("true or false is not a number")
        return value

    def replace(self: ConfigT, **changes: Any) -> ConfigT:
        """The same record with some fields changed, validated again; what follows from a changed field follows anew."""
        return type(self)(**{**self._said(), **changes})

    def _said(self) -> dict[str, Any]:
        """The fields whose values do not follow from other fields."""
        return self.model_dump()

    @classmethod
    def from_yaml(cls: type[ConfigT], path: str | Path) -> ConfigT:
        """Read a record from a YAML file; every error names the file."""
        import yaml

        path = Path(path)
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise MalmoiError(f"{path}: there is no such file.") from None
        except (OSError, UnicodeDecodeError) as error:
            raise MalmoiError(f"{path}: cannot be read: {error}") from None
        except yaml.YAMLError as error:
            raise MalmoiError(f"{path}: is not valid YAML: {error}") from None
        if not isinstance(values, Mapping):
            raise MalmoiError(f"{path}: must hold 'name: value' lines, but holds {type(values).__name__}.")
        try:
            return cls(**{str(key): value for key, value in values.items()})
        except MalmoiError as error:
            raise MalmoiError(f"{path}: {error}") from None

    def to_yaml(self) -> str:
        """Every field, filled in, as YAML that `from_yaml` reads back to an equal record."""
        import yaml

        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _readable(cls: type[Config], error: ValidationError) -> str:
    """Pydantic's findings as one sentence for each mistake: where, what was given, what is allowed."""
    sentences: dict[str, str] = {}
    for item in error.errors():
        where, owner, allowed = _locate(cls, item["loc"])
        cause = item.get("ctx", {}).get("error")
        if item["type"] == "extra_forbidden":
            key, place = str(item["loc"][-1]), where or cls.__name__
            sentences[f"{where}.{key}"] = (
                f"{place} has no field '{key}'.{nearest(key, owner.model_fields)} "
                f"Known fields: {', '.join(owner.model_fields)}."
            )
        elif isinstance(cause, MalmoiError):
            sentences[where] = f"{where}: {cause}" if where else str(cause)
        elif item["type"] == "missing":
            sentences[where] = f"{where} is missing; it must be {allowed}."
        elif item["input"] is not None or "nothing" in allowed or len(error.errors()) == 1:
            # (a field that waits for others which are wrong themselves is None here, and not the mistake)
            sentences[where] = f"{where} must be {allowed}, not {item['input']!r:.60}."
    mistakes = [
        sentence
        for where, sentence in sentences.items()
        if not any(other.startswith((f"{where}.", f"{where}[")) for other in sentences)  # said more exactly elsewhere
    ]
    text = " ".join(mistakes) or str(error)
    return text if text.startswith(cls.__name__) else f"{cls.__name__}: {text}"


def _locate(cls: type[Config], path: tuple[int | str, ...]) -> tuple[str, type[Config], str]:
    """Where pydantic's path points, in a person's spelling; the record that holds it; what may stand there."""
    words, owner, allowed = "", cls, ""
    annotation: Any = cls
    for part in path:
        if isinstance(part, int):
            elements = [kind for kind in branches(annotation) if typing.get_origin(kind) is tuple]
            annotation = typing.get_args(elements[0])[0] if elements else annotation
            words, allowed = f"{words}[{part}]", type_words(annotation)
            continue
        records = [kind for kind in branches(annotation) if isinstance(kind, type) and issubclass(kind, Config)]
        if not records:
            continue  # pydantic's name for a branch of a union
        owner = records[0]
        if part in owner.model_fields:
            info = owner.model_fields[part]
            words, allowed = f"{words}.{part}" if words else part, allowed_words(info)
            annotation = info.annotation
    return words, owner, allowed


def branches(annotation: Any) -> tuple[Any, ...]:
    """The types that a union allows; any other type alone."""
    is_union = typing.get_origin(annotation) in (types.UnionType, typing.Union)
    return typing.get_args(annotation) if is_union else (annotation,)


def allowed_words(info: Any) -> str:
    """The type and bounds of a field in a person's words: `a number, >= 0, <= 100`."""
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "min_length": "at least this many:"}
    bounds = [
        f"{sign} {bound:,}" if isinstance(bound, int) else f"{sign} {bound}"
        for rule in info.metadata
        for attribute, sign in signs.items()
        if (bound := getattr(rule, attribute, None)) is not None
    ]
    return ", ".join([type_words(info.annotation), *bounds])


def type_words(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return " or ".join(repr(argument) for argument in arguments)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(type_words(argument) for argument in arguments)
    if origin is tuple:
        return f"a list of ({type_words(arguments[0])})"
    if origin is dict:
        names = "settings" if arguments[0] is str else f"({type_words(arguments[0])}: {type_words(arguments[1])})"
        return f"a record of {names}"
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return f"a record of {', '.join(annotation.model_fields)}"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "nothing"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))
