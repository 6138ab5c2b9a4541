"""Options of the parts that a config names, validated against the fields of their classes."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic_core import PydanticSerializationError, to_jsonable_python

from ftkit.config.problems import ConfigError, lines, place, unknown_key
from ftkit.config.schema import shared_options
from ftkit.errors import RequestError, format_value
from ftkit.parts.strategy import Strategy

if TYPE_CHECKING:
    from ftkit.plugins import Registry

T = TypeVar("T")


def make(cls: type[T], options: Mapping[str, Any], section: str, sources: Mapping[str, str], registry: Registry) -> T:
    """An instance of a part's class.

    Args:
        cls: A frozen dataclass whose fields are the options.
        options: Values from the config, by field name.
        section: Dotted key of the part in the config: `dataset`, `strategy.first`, `batch_transforms.0`.
        sources: The places of values by dotted key, for messages.
        registry: The registry, for strategies inside a strategy.

    Raises:
        RequestError: An option is unknown, missing or invalid, one line for each; or raised by the class.
    """
    values, faults = _checked(cls, options, section, sources, registry)
    if faults:
        raise ConfigError(faults)
    try:
        return cls(**values)
    except RequestError as error:
        raise _placed(error, cls, section, sources) from None
    except (ValueError, TypeError) as error:
        raise RequestError(f"{place(sources, section)}: {error}") from error


def _placed(error: RequestError, cls: type, section: str, sources: Mapping[str, str]) -> RequestError:
    """A class's own message with the place of the option that it starts with: `gamma is -1`, `loss.gamma is -1`."""
    first, _, rest = error.message.partition(" ")
    option = first.rpartition(".")[2]
    if option not in option_fields(cls) or first not in (option, f"{section.partition('.')[0]}.{option}"):
        return error
    return RequestError(f"{place(sources, f'{section}.{option}')} {rest}", error.hint)


def all_options(instance: object, given: Mapping[str, Any]) -> dict[str, Any]:
    """Every option of an instance as a YAML value, defaults included. Strategies inside a strategy stay as given."""
    hints = option_types(type(instance))
    found: dict[str, Any] = {}
    for name in option_fields(type(instance)):
        if _is_strategy(hints[name]):
            found |= {name: given[name]} if name in given else {}
            continue
        try:
            found[name] = to_jsonable_python(getattr(instance, name))
        except PydanticSerializationError:
            found |= {name: given[name]} if name in given else {}
    return found


def option_fields(cls: type) -> dict[str, dataclasses.Field[Any]]:
    """The fields of a class that are options, in order."""
    fields = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
    return {f.name: f for f in fields if f.init}


def is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def option_types(cls: type) -> dict[str, Any]:
    """The annotation of each option.

    Raises:
        RequestError: An annotation names something that is imported for type checking only.
    """
    try:
        return typing.get_type_hints(cls, include_extras=True)
    except NameError as error:
        raise RequestError(
            f"{cls.__module__}.{cls.__qualname__}: its options can't be read: {error}",
            "import that name outside of `if TYPE_CHECKING`",
        ) from error


def members(annotation: Any) -> set[Any]:
    """The classes in an annotation, including those in lists and unions."""
    inner = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Literal:
        return {type(value) for value in inner}
    return set().union(*map(members, inner)) if inner else {annotation}


def strategy_in(annotation: Any, options: Any, registry: Registry) -> type | None:
    """The class of a strategy inside a strategy; None for other options and unknown names."""
    name = options.get("name") if _is_strategy(annotation) and isinstance(options, Mapping) else None
    return registry.strategies.get(name) if isinstance(name, str) and name in registry.strategies else None


def _checked(
    cls: type, options: Mapping[str, Any], section: str, sources: Mapping[str, str], registry: Registry
) -> tuple[dict[str, Any], list[str]]:
    fields, types = option_fields(cls), option_types(cls)
    values: dict[str, Any] = {}
    faults: list[str] = []
    for name, value in options.items():
        key = f"{section}.{name}"
        if name not in fields:
            faults.append(unknown_key(sources, key, [*fields, *shared_options(section)], {}))
        elif isinstance(value, bool) and members(types[name]) & {int, float} and bool not in members(types[name]):
            faults.append(f"{place(sources, key)}: must be a number, not {format_value(value)}")
        elif type(value) in (int, float) and bool in members(types[name]) and not members(types[name]) & {int, float}:
            faults.append(f"{place(sources, key)}: must be true or false, not {format_value(value)}")
        elif _is_strategy(types[name]):
            values[name] = _nested(value, key, sources, registry)
        else:
            try:
                values[name] = _adapter(cls, name, types[name]).validate_python(value)
            except ValidationError as error:
                faults += lines(error, value, key, sources)
    missing = [n for n, f in fields.items() if is_required(f) and n not in options]
    faults += [_missing(f"{section}.{n}", types[n], sources) for n in missing]
    return values, faults


def _adapter(cls: type, name: str, annotation: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(annotation)
    except PydanticUserError as error:
        reason = str(error).splitlines()[0]
        raise RequestError(
            f"{cls.__module__}.{cls.__qualname__}.{name}: can't be an option: {reason}",
            "annotate it with plain types: str, int, float, bool, Path, lists and tuples of them",
        ) from error


def _is_strategy(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Strategy)


def _nested(value: object, key: str, sources: Mapping[str, str], registry: Registry) -> Strategy:
    options = {"name": value} if isinstance(value, str) else value
    if not isinstance(options, Mapping) or not isinstance(options.get("name"), str):
        raise RequestError(f"{place(sources, key)}: must be the name of a strategy, not {format_value(value)}")
    cls = registry.strategies.get(options["name"], where=place(sources, key))
    return make(cls, {k: v for k, v in options.items() if k != "name"}, key, sources, registry)


def _missing(key: str, annotation: Any, sources: Mapping[str, str]) -> str:
    section = key.rpartition(".")[0]
    where = place(sources, f"{section}.name").removesuffix(f": {section}.name").removesuffix(f"{section}.name")
    value = "PATH" if Path in members(annotation) else "VALUE"
    return f"{where + ': ' if where else ''}{key}: missing, give it with --set {key}={value}"
