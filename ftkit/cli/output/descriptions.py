"""Backbones, datasets and strategies put into words and plain values, for lists and for JSON."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from ftkit.parts.backbone import Backbone
from ftkit.parts.strategy import Strategy
from ftkit.strategies.schedule import Schedule
from ftkit.transforms.preprocessing import Preprocessing

COLUMNS = 8
"""Epochs, or runs of equal ones, that a table shows side by side."""


@dataclass(frozen=True)
class Option:
    """One option of a plugin's class, as a person sees it.

    Attributes:
        type: What values it takes: `int | null`.
        default: None where it is required, or where None is the default.
        doc: From the `Attributes:` section of the docstring; empty where it has none.
    """

    name: str
    type: str
    required: bool
    default: Any
    doc: str

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "type": self.type,
            "required": self.required,
            "default": self.default,
            "doc": self.doc,
        }


def options_of(cls: type) -> list[Option]:
    """The options of a dataset's or strategy's class, in the order of its fields."""
    from ftkit.config.plugin_options import is_required, option_fields, option_types

    hints, docs = option_types(cls), attribute_docs(cls)
    return [
        Option(name, type_text(hints[name]), is_required(field), _default(field), docs.get(name, ""))
        for name, field in option_fields(cls).items()
    ]


def prose(cls: type) -> str:
    """The docstring up to its sections; empty where there is none of the class's own."""
    doc = inspect.cleandoc(vars(cls).get("__doc__") or "")
    if doc.startswith(f"{cls.__name__}("):  # what `dataclass` writes where nobody wrote anything
        return ""
    return re.split(r"^(?:Attributes|Args|Raises):$", doc, maxsplit=1, flags=re.MULTILINE)[0].strip()


def headline(cls: type) -> str:
    """The first paragraph of the docstring on one line."""
    return " ".join(prose(cls).split("\n\n")[0].split())


def attribute_docs(cls: type) -> dict[str, str]:
    """What the `Attributes:` sections of a class and those it derives from say, by attribute."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        doc = inspect.cleandoc(vars(base).get("__doc__") or "")
        section = re.search(r"^Attributes:\n((?:(?: .*)?\n?)*)", doc, flags=re.MULTILINE)
        for names, text in re.findall(r"^    (\w[\w, ]*): (.*(?:\n {5,}.*)*)", section[1] if section else "", re.M):
            found |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    return found


def type_text(annotation: Any) -> str:
    """An annotation in the words of a config file, where None is null."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return " | ".join(map(str, inner))
    if origin is typing.Annotated:
        return type_text(inner[0])
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(type_text, inner))
    if origin is not None and inner:
        return f"{origin.__name__}[{', '.join(map(type_text, inner))}]"
    if annotation is Ellipsis:
        return "..."
    if annotation is type(None):
        return "null"
    if isinstance(annotation, type) and issubclass(annotation, Strategy):
        return "strategy"
    return "path" if annotation is Path else getattr(annotation, "__name__", str(annotation))


def value_text(value: Any) -> str:
    """A value as one would write it after `--set KEY=`."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(value_text, value))}]"
    return str(value)


def named(items: Mapping[str, type]) -> dict[str, list[str]]:
    """Names with their aliases: a class goes by the first name that it has, the others stand for it."""
    found: dict[str, list[str]] = {}
    first: dict[int, str] = {}
    for name, cls in items.items():
        own = first.setdefault(id(cls), name)
        found.setdefault(own, []).extend([name] if name != own else [])
    return found


def backbone_json(name: str, backbone: Backbone, plugin: str) -> dict[str, Any]:
    """A backbone's facts; parameters are those without the task's own head layers."""
    summary = backbone.summary
    return {
        "name": name,
        "plugin": plugin,
        "family": backbone.family,
        "size": shown_preprocessing(backbone).size,
        "channels": backbone.preprocessing.channels,
        "min_size": backbone.min_size,
        "fixed_size": backbone.fixed_size and backbone.resized is None,
        "size_step": backbone.size_step,
        "parameters": None if summary is None else summary.parameters(0),
        "head": list(backbone.head),
        "head_inputs": None if summary is None else list(summary.head_inputs),
        "groups": [
            {"name": group.name, "parameters": group_parameters(backbone, group.name)} for group in backbone.groups
        ],
        "weights": [
            {
                "name": weights.name,
                "note": weights.note,
                "file": weights.file,
                "size_mb": weights.size_mb,
                "preprocessing": vars(weights.preprocessing),
            }
            for weights in backbone.weights
        ],
    }


def group_parameters(backbone: Backbone, group: str) -> int | None:
    """Parameters of one of the backbone's own groups, or None where only building it tells."""
    if backbone.summary is None:
        return None
    size = backbone.summary.groups.get(group)
    return sum(size.parameters.values()) if size else 0


def shown_preprocessing(backbone: Backbone) -> Preprocessing:
    """That of the default weights, or the backbone's own where it has none."""
    return backbone.weights[0].preprocessing if backbone.weights else backbone.preprocessing


def preprocessing_text(pre: Preprocessing) -> str:
    """How an image becomes the network's input, on one line."""
    fit = {
        "crop": f"middle of the image resized to {pre.resize}",
        "pad": "padded to a square",
        "stretch": "stretched to a square",
    }[pre.fit]
    numbers = [" ".join(f"{value:.3g}" for value in values) for values in (pre.mean, pre.std)]
    colour = "grey" if pre.channels == 1 else "RGB"
    text = f"{colour} {pre.size} x {pre.size}, {fit}, {pre.interpolation}, mean {numbers[0]}, std {numbers[1]}"
    return text + (f", values of {pre.value_range[0]:g} to {pre.value_range[1]:g}" if pre.value_range else "")


def full_count(number: int | None) -> str:
    """A number with all of its digits, `11,177,538`; `?` where it isn't known."""
    return "?" if number is None else f"{number:,}"


def short_count(number: int | None) -> str:
    """A number in three digits, `11.2M`; `?` where it isn't known."""
    if number is None:
        return "?"
    value = float(number)
    for unit in ("", "K", "M"):
        if value < 999.5:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g}G"


def schedule_tables(schedule: Schedule) -> Iterable[list[list[str]]]:
    """Groups by epochs, counted from 1, equal neighbours in one column; as many tables as it takes."""
    runs = [list(members) for _, members in groupby(range(len(schedule.rows)), key=schedule.rows.__getitem__)]
    for start in range(0, len(runs), COLUMNS):
        spans = [(epochs[0], epochs[-1]) for epochs in runs[start : start + COLUMNS]]
        table = [["epochs", *(f"{a + 1}" if a == b else f"{a + 1}-{b + 1}" for a, b in spans)]]
        for group in schedule.groups:
            scales = [schedule.rows[first].get(group.name) for first, _ in spans]
            table.append([group.name, *("frozen" if scale is None else f"{scale:.3g}" for scale in scales)])
        yield table


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines of equally wide columns, two spaces apart; nothing is cut off, so that they can be searched."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _default(field: Field[Any]) -> Any:
    value = field.default_factory() if field.default_factory is not MISSING else field.default
    if value is MISSING:
        return None
    if isinstance(value, tuple | set | frozenset):
        return list(value)
    return value if isinstance(value, bool | int | float | str | list | dict | None) else str(value)
