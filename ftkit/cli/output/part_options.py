"""Classes of parts (datasets, strategies, metrics, ...) and their options, as text and as JSON values."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftkit.errors import FtkitError
from ftkit.parts.strategy import Strategy

if TYPE_CHECKING:
    from ftkit.plugins import Catalog

SECTIONS = {
    "datasets": "dataset",
    "strategies": "strategy",
    "tasks": "task",
    "losses": "loss",
    "optimizers": "optimizer",
    "curves": "lr_curve",
}
"""Config section by kind of part, for kinds that take a single part."""


@dataclass(frozen=True)
class Option:
    """An option of a part's class.

    Attributes:
        type: The accepted values, such as `int | null`.
        default: None if the option is required or its default is None.
        doc: Text of the docstring's `Attributes:` section; empty without one.
    """

    name: str
    type: str
    required: bool
    default: Any
    doc: str


@dataclass(frozen=True)
class PartClass:
    """A class that a plugin provides under a name.

    Attributes:
        name: The first of the names that the plugin gives the class.
        aliases: The other names.
        origin: `built in`, or the plugin and its package.
        about: The docstring up to its sections.
        properties: The class attributes of the interface, such as the `label` of a metric.
        options: The options in the order of the fields.
    """

    name: str
    aliases: list[str]
    origin: str
    about: str
    properties: dict[str, Any]
    options: list[Option]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def describe_class(catalog: Catalog[Any], name: str) -> PartClass:
    """Describe the class called `name`, which may be an alias."""
    cls = catalog.get(name)
    names = group_aliases(dict(available(catalog, catalog.of(catalog.owner(name).name))))
    # A plugin may provide more names than it lists.
    first = next((own for own, aliases in names.items() if name in (own, *aliases)), name)
    return PartClass(first, names.get(first, []), origin(catalog, name), prose(cls), properties(cls), options_of(cls))


def class_lines(part: PartClass, kind: str) -> Iterator[str]:
    """A class with its properties and options, as lines for `show`."""
    aliases = f"; aliases: {', '.join(part.aliases)}" if part.aliases else ""
    yield f"{part.name}, {part.origin}{aliases}"
    if part.about:
        yield f"\n{part.about}"
    set_properties = [
        f"{name} = {value_text(value)}" for name, value in part.properties.items() if value not in ((), "")
    ]
    if set_properties:
        yield "\n" + ", ".join(set_properties)
    if not part.options:
        yield "\nno options"
        return
    yield f"\noptions: {_where_set(kind)}"
    for option in part.options:
        default = "required" if option.required else f"default {value_text(option.default)}"
        yield f"  {option.name}: {option.type}, {default}"
        if option.doc:
            yield f"      {option.doc}"


def _where_set(kind: str) -> str:
    """Where the options of a kind of part are set."""
    if kind in SECTIONS:
        return f"`--set {SECTIONS[kind]}.KEY=VALUE`, or beside `name` in ftkit.yaml"
    if kind == "exporters":
        return "`ftkit export --set KEY=VALUE`"
    return f"beside `name` in the list `{kind}` of ftkit.yaml"


def available(
    catalog: Catalog[Any], names: Iterable[str], faults: list[str] | None = None
) -> Iterator[tuple[str, Any]]:
    """Names with their values; a value that its plugin can't provide is left out, and added to `faults`."""
    for name in names:
        try:
            yield name, catalog.get(name)
        except FtkitError as error:
            if faults is not None:
                faults.append(str(error))


def origin(catalog: Catalog[Any], name: str) -> str:
    """The plugin that provides a name, as text."""
    from ftkit.plugins import BUILT_IN

    owner = catalog.owner(name)
    package = f"{owner.package} {owner.version}".rstrip()
    return "built in" if owner.name == BUILT_IN else f"from plugin {owner.name} ({package})"


def group_aliases(classes: Mapping[str, type]) -> dict[str, list[str]]:
    """The first name of each class, with the other names of the same class."""
    found: dict[str, list[str]] = {}
    first: dict[int, str] = {}
    for name, cls in classes.items():
        own = first.setdefault(id(cls), name)
        found.setdefault(own, []).extend([name] if name != own else [])
    return found


def properties(cls: type) -> dict[str, Any]:
    """The values of public class attributes that the interface declares as `ClassVar`."""
    return {
        name: getattr(cls, name)
        for base in reversed(cls.__mro__)
        for name, annotation in inspect.get_annotations(base).items()
        if str(annotation).startswith("ClassVar") and not name.startswith("_") and hasattr(cls, name)
    }


def options_of(cls: type) -> list[Option]:
    """The options of a class, in the order of its fields."""
    from ftkit.config.plugin_options import is_required, option_fields, option_types

    hints, docs = option_types(cls), attribute_docs(cls)
    return [
        Option(name, type_text(hints[name]), is_required(field), _default(field), docs.get(name, ""))
        for name, field in option_fields(cls).items()
    ]


def prose(cls: type) -> str:
    """The docstring up to its sections; empty if the class has none of its own."""
    doc = inspect.cleandoc(vars(cls).get("__doc__") or "")
    if doc.startswith(f"{cls.__name__}("):  # generated by `dataclass`
        return ""
    return re.split(r"^(?:Attributes|Args|Raises):$", doc, maxsplit=1, flags=re.MULTILINE)[0].strip()


def headline(cls: type) -> str:
    """The first paragraph of the docstring on one line."""
    return " ".join(prose(cls).split("\n\n")[0].split())


def attribute_docs(cls: type) -> dict[str, str]:
    """The texts of the `Attributes:` sections of a class and its base classes, by attribute."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        doc = inspect.cleandoc(vars(base).get("__doc__") or "")
        section = re.search(r"^Attributes:\n((?:(?: .*)?\n?)*)", doc, flags=re.MULTILINE)
        for names, text in re.findall(r"^    (\w[\w, ]*): (.*(?:\n {5,}.*)*)", section[1] if section else "", re.M):
            found |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    return found


def type_text(annotation: Any) -> str:
    """An annotation in the terms of a config file, where None is null."""
    origin_type, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin_type is typing.Literal:
        return " | ".join(map(str, inner))
    if origin_type is typing.Annotated:
        return type_text(inner[0])
    if origin_type in (typing.Union, types.UnionType):
        return " | ".join(map(type_text, inner))
    if origin_type is not None and inner:
        return f"{origin_type.__name__}[{', '.join(map(type_text, inner))}]"
    if annotation is Ellipsis:
        return "..."
    if annotation is type(None):
        return "null"
    if isinstance(annotation, type) and issubclass(annotation, Strategy):
        return "strategy"
    return "path" if annotation is Path else getattr(annotation, "__name__", str(annotation))


def value_text(value: Any) -> str:
    """A value as written after `--set KEY=`."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(value_text, value))}]"
    return str(value)


def _default(field: Field[Any]) -> Any:
    value = field.default_factory() if field.default_factory is not MISSING else field.default
    if value is MISSING:
        return None
    if isinstance(value, tuple | set | frozenset):
        return list(value)
    return value if isinstance(value, bool | int | float | str | list | dict | None) else str(value)
