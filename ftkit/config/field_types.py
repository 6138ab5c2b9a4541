"""Types of values in a config: parts by name, and values that YAML, flags and variables spell in several ways."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import inf
from typing import Annotated, Any, Literal, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError, to_jsonable_python

from ftkit.config.choices import AUTO


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_bool_for_number(cls, value: object, info: ValidationInfo) -> object:
        """Refuse `epochs: true`, which pydantic would read as 1."""
        wanted = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and wanted is not bool and get_origin(wanted) is not Literal:
            raise PydanticCustomError("not_a_switch", "a number or text")
        return value


class Choice(Section):
    """A part by name, with its options as further keys."""

    model_config = ConfigDict(extra="allow")

    name: str

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, value: object) -> object:
        """Options as YAML values, so that a config that is written and read again is equal."""
        return to_jsonable_python(dict(value)) if isinstance(value, Mapping) else value

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


def _range(value: object) -> object:
    """Check for `auto` or two numbers."""
    if value == "auto":
        return value
    numbers = [] if isinstance(value, str) or not isinstance(value, Sequence) else list(value)
    if len(numbers) != 2 or not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
        raise PydanticCustomError("value_range", "auto, or two numbers such as [0, 4095]")
    low, high = map(float, numbers)
    if not -inf < low < high < inf:
        raise PydanticCustomError("value_range", "two numbers, the lower one first, such as [0, 4095]")
    return low, high


class DatasetChoice(Choice):
    """A dataset by name, with its options and those of every dataset."""

    value_range: Annotated[Literal["auto"] | tuple[float, float], BeforeValidator(_range)] = "auto"
    """Values of black and white in images of more than 8 bits whose files don't state them, such as [0, 4095]. auto:
    0 to 65535, or the range of all images where they exceed it."""

    @property
    def given_range(self) -> tuple[float, float] | None:
        """The values of black and white; None for auto."""
        return None if self.value_range == "auto" else self.value_range


def _named(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


def _listed(value: object) -> object:
    return [value] if isinstance(value, str | Mapping) else value


Named = Annotated[Choice, BeforeValidator(_named)]
NamedList = Annotated[tuple[Named, ...], BeforeValidator(_listed)]
NamedDataset = Annotated[DatasetChoice, BeforeValidator(_named)]


def join_dotted(value: object) -> object:
    """Names with dots, such as `features.0`, which arrive as nested mappings, as single keys."""
    if not isinstance(value, Mapping):
        return value
    found: dict[str, object] = {}
    for name, item in value.items():
        inner = join_dotted(item)
        found |= {f"{name}.{rest}": v for rest, v in inner.items()} if isinstance(inner, Mapping) else {name: item}
    return found


def _refuse_bool(value: object) -> object:
    if isinstance(value, bool):
        raise PydanticCustomError("not_a_switch", "a number or text")
    return value


def _name_of_number(value: object) -> object:
    """Class names such as 0, 1 and 2, which YAML reads as numbers, as text."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


ClassName = Annotated[str, BeforeValidator(_name_of_number)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(_refuse_bool)]


def _lower(name: object) -> object:
    """`AdamW` as `adamw`; names of plugins keep their case."""
    return name.lower() if isinstance(name, str) and "/" not in name else name


DEFAULT_RATE = 3e-3


class OptimizerChoice(Choice):
    """An optimizer by name with its options, and the learning rate that any optimizer has."""

    name: Annotated[str, BeforeValidator(_lower)] = "adamw"
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["auto"] = DEFAULT_RATE
    """Base learning rate; the strategy's scales and the learning-rate curve multiply it. auto: the best of four on the
    validation split, in short trainings before the run."""

    @property
    def rate(self) -> float:
        """The base learning rate; the default while `auto` isn't measured yet."""
        return self.lr if isinstance(self.lr, float) else DEFAULT_RATE


NamedOptimizer = Annotated[OptimizerChoice, BeforeValidator(_named)]


def as_digit(value: object) -> object:
    """Text of a flag or variable as a number, for choices of numbers."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds_of(text: str) -> float | None:
    """The seconds of a time such as `90s`, `30m`, `2h` or `1h30m`; None for other text."""
    parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)([smhd])", text)
    is_time = parts and "".join(number + unit for number, unit in parts) == text.strip()
    return sum(float(number) * SECONDS[unit] for number, unit in parts) if is_time else None


def as_seconds(value: object) -> object:
    """A time as text as a number of seconds, and `none` as None; `auto` and numbers are left for validation."""
    if value == "none":
        return None
    if not isinstance(value, str) or value == AUTO:
        return value
    seconds = seconds_of(value)
    if seconds is None:
        raise PydanticCustomError("not_a_time", "a time such as 90s, 10m or 1h30m, or auto or none")
    return seconds


def as_bytes(value: object) -> object:
    """`20GB` as a number of bytes."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([kKMGT])?i?B?", value.strip()) if isinstance(value, str) else None
    return int(float(found[1]) * 1000 ** " kMGT".index((found[2] or " ").replace("K", "k"))) if found else value
