"""Values of text options as written: `01` stays `01`, and `1e3` stays `1e3`.

YAML decides the type of a scalar by its form. Here the type of the option decides: each value comes with its source
text, in the same shape, and options of type `str` take the text.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Collection, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Union

from pydantic import BaseModel

from ftkit.config.yaml_file import Setting

Fields = Callable[[Any, Any], Mapping[str, Any]]
"""From a type and a value to the types of its fields by name; empty if it has none."""


def fields_of(annotation: Any, value: Any) -> Mapping[str, Any]:
    """The fields of pydantic's models, dataclasses and typed dictionaries."""
    if not isinstance(annotation, type):
        return {}
    if issubclass(annotation, BaseModel):
        return {name: field.annotation for name, field in annotation.model_fields.items()}
    if dataclasses.is_dataclass(annotation) or typing.is_typeddict(annotation):
        return typing.get_type_hints(annotation, include_extras=True)
    return {}


def written(settings: Mapping[tuple[str, ...], Setting], key: tuple[str, ...], value: Any) -> Any:
    """The source text of the value at `key`, in the shape of the value; None if there is none."""
    setting = settings.get(key)
    if setting is not None:
        return setting.text
    if isinstance(value, dict):
        return {name: written(settings, (*key, name), item) for name, item in value.items()}
    return None


def as_typed(value: Any, text: Any, annotation: Any, fields: Fields = fields_of) -> Any:
    """The value, with the source text wherever the type is text.

    Args:
        text: The text that `written` returned.
        annotation: The type; the first member of a union that fits decides.
    """
    annotation = _bare(annotation)
    if isinstance(value, dict):
        return _mapping(value, text if isinstance(text, dict) else {}, annotation, fields)
    if isinstance(value, list):
        texts = text if isinstance(text, list) else [None] * len(value)
        inner = _items(annotation, len(value))
        return [as_typed(v, t, a, fields) for v, t, a in zip(value, texts, inner, strict=True)]
    if isinstance(value, str) or not isinstance(text, str):
        return value
    return text if _wants_text(annotation, value, text) else value


def _mapping(value: dict[str, Any], text: dict[str, Any], annotation: Any, fields: Fields) -> dict[str, Any]:
    known: Mapping[str, Any] = {}
    for member in _members(annotation):
        known = known or fields(member, value)
    of_all = next((m for m in _members(annotation) if _is_kind(m, Mapping) and len(typing.get_args(m)) == 2), None)
    rest = typing.get_args(of_all)[1] if of_all is not None else Any
    # Names with dots arrive as nested mappings whose values have the same type.
    dotted = Mapping[str, rest] if of_all is not None else Any  # type: ignore[valid-type]
    return {
        name: as_typed(
            item, text.get(name), known.get(name, dotted if isinstance(item, dict) and not _takes_dict(rest) else rest),
            fields,
        )
        for name, item in value.items()
    }  # fmt: skip


def _takes_dict(annotation: Any) -> bool:
    return any(_is_kind(member, Mapping) for member in _members(annotation))


def _items(annotation: Any, count: int) -> list[Any]:
    """The type of each of `count` items."""
    for member in _members(annotation):
        inner = typing.get_args(member)
        if not inner or not _is_kind(member, Collection) or _is_kind(member, Mapping):
            continue
        if typing.get_origin(member) is tuple and inner[-1] is not Ellipsis:
            return [*inner[:count], *[Any] * (count - len(inner))]
        return [inner[0]] * count
    return [Any] * count


def _wants_text(annotation: Any, value: Any, text: str) -> bool:
    """Whether the type of a scalar is text. Unions with a number or bool keep the value."""
    members = _members(annotation)
    if value is None:
        # null stays null where the type allows it, and an empty value isn't text.
        return text != "" and type(None) not in members and any(_is_text(member) for member in members)
    choices = {str(choice) for member in members for choice in _choices(member) if isinstance(choice, str)}
    exact = [choice for member in members for choice in _choices(member)]
    if text in choices and not any(type(choice) is type(value) and choice == value for choice in exact):
        return True
    numbers = {bool, int, float, complex, object, Any}
    return any(_is_text(member) for member in members) and not any(member in numbers for member in members)


def _is_text(member: Any) -> bool:
    return isinstance(member, type) and issubclass(member, str | Path) and not issubclass(member, Enum)


def _choices(member: Any) -> list[Any]:
    if typing.get_origin(member) is Literal:
        return list(typing.get_args(member))
    if isinstance(member, type) and issubclass(member, Enum):
        return [one.value for one in member]
    return []


def _members(annotation: Any) -> list[Any]:
    """The members of a union, otherwise the type itself."""
    annotation = _bare(annotation)
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return [member for inner in typing.get_args(annotation) for member in _members(inner)]
    return [annotation]


def _bare(annotation: Any) -> Any:
    """The type without `Annotated`, `Required`, aliases and the like."""
    while True:
        if typing.get_origin(annotation) in (typing.Annotated, typing.Required, typing.NotRequired, typing.Final):
            annotation = typing.get_args(annotation)[0]
        elif hasattr(annotation, "__supertype__"):
            annotation = annotation.__supertype__
        elif hasattr(annotation, "__value__"):
            annotation = annotation.__value__
        else:
            return annotation


def _is_kind(member: Any, kind: type) -> bool:
    origin = typing.get_origin(member) or member
    return isinstance(origin, type) and issubclass(origin, kind)
