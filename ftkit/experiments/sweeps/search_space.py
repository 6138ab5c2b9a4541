"""The search space of a sweep: config keys with the values that trials may have."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from ftkit.config.choices import CHOICES
from ftkit.config.load import Resolved
from ftkit.errors import RequestError
from ftkit.experiments.auto_strategy import measured_key
from ftkit.planning.run_data.validation_images import is_cross_fitted, with_one_recipe
from ftkit.strategies.recommendation_rules import AUTO

FLAG = "--search"
FORM = f"write it like {FLAG} optimizer.lr=1e-4..1e-2:log, epochs=5..20 or augment.name=none|light"
MOST_CHECKED = 100
"""Most combinations of choices that are checked together; of more, each value is checked alone."""
FIXED = (
    "cache",
    "checkpoint",
    "classes",
    "dataset",
    "device",
    "extended_from",
    "label_map",
    "metrics",
    "monitor",
    "name",
    "output",
    "plugins",
    "report",
    "scan",
    "seed",
    "task",
    "tracker",
    "train_samples",
    "val_fraction",
    "val_samples",
    "workers",
)
"""Sections that are the same in all trials: with other data, another metric or another seed, values don't compare."""
DEFAULT = {
    "strategy.name": "freeze|gradual|full",
    "optimizer.lr": "1e-4..1e-2:log",
    "augment.name": "none|light|standard",
    "label_smoothing": "0|0.1",
}
"""The space without `--search`; keys that the command sets are left out of it."""

_NUMBER = r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})(:log)?")
_WHOLE = re.compile(r"[-+]?[0-9]+")

Point = Mapping[str, str]
"""Values of a trial by dotted config key, as the texts of `--set`."""
ResolveWith = Callable[[Sequence[str]], Resolved]
"""Resolves the request with further `KEY=VALUE`, which override the others."""


@dataclass(frozen=True)
class Choices:
    """Values to choose from, as texts."""

    values: tuple[str, ...]

    @property
    def ends(self) -> tuple[str, ...]:
        return self.values


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included.

    Attributes:
        log: Drawn uniformly in the logarithm.
        whole: Whole numbers only.
    """

    low: float
    high: float
    log: bool
    whole: bool

    @property
    def ends(self) -> tuple[str, ...]:
        return self.text(self.low), self.text(self.high)

    def text(self, value: float) -> str:
        return str(int(value)) if self.whole else repr(float(value))


Space = Mapping[str, Choices | Range]


def parse_space(texts: Sequence[str]) -> dict[str, str]:
    """The values of `--search` by dotted config key; a key that names a part alone gets `.name`.

    Raises:
        RequestError: One isn't KEY=SPACE, is given twice, or is the same in all trials.
    """
    found: dict[str, str] = {}
    for text in texts:
        key, equals, values = (part.strip() for part in text.partition("="))
        if not equals or not key or not values:
            raise RequestError(f"{FLAG} {text}: not KEY=SPACE", FORM)
        key = f"{key}.name" if key in CHOICES else key
        if key.partition(".")[0] in FIXED:
            raise RequestError(
                f"{FLAG} {key}: all trials have the same {key.partition('.')[0]}, so that their metrics compare",
                f"drop it, or give one value with --set {key}=VALUE",
            )
        if key in found:
            raise RequestError(f"{FLAG} {key} is given twice", "give all its values in one")
        found[key] = values
    return found


def make_space(texts: Mapping[str, str], resolve_with: ResolveWith) -> dict[str, Choices | Range]:
    """The space of parsed `--search` values, which the config's validation accepts.

    Raises:
        RequestError: A key, name or value is invalid, also in combination with choices of the other keys.
    """
    space = {key: _dimension(key, text) for key, text in texts.items()}
    check_points(space, lambda point: resolved_at(point, resolve_with))
    return {key: _with_number_type(space, key, resolve_with) for key in space}


def resolved_at(point: Point, resolve_with: ResolveWith) -> Resolved:
    """The request with the values of a trial, which is one training.

    Raises:
        RequestError: A value is invalid; the message names `--search` and the key.
    """
    try:
        resolved = resolve_with([f"{key}={text}" for key, text in point.items()])
    except RequestError as error:
        text = str(error) if error.hint is None else error.message
        for key in point:
            text = text.replace(f"--set {key}", f"{FLAG} {key}")
        raise RequestError(text, error.hint) from None
    _refuse_measured(resolved)
    return with_one_recipe(resolved)


def _refuse_measured(resolved: Resolved) -> None:
    """Refuse what each trial would measure for itself, and cross-fitting, whose epochs are those of several models.

    Raises:
        RequestError: Names the key.
    """
    config = resolved.config
    if config.strategy.name == AUTO:
        raise RequestError(
            f"{resolved.where('strategy.name')}: a sweep doesn't take strategy {AUTO}",
            f"name the strategy, or search it: {FLAG} strategy.name={DEFAULT['strategy.name']}",
        )
    if (key := measured_key(config)) is not None:
        raise RequestError(f"{resolved.where(key)}: a sweep doesn't take {AUTO}", f"give a number, or {FLAG} {key}")
    if config.budget not in (None, AUTO):
        raise RequestError(
            f"{resolved.where('budget')}: a search within each trial would choose what the sweep chooses",
            "drop it; --budget of ftkit sweep is the time of all trials",
        )
    if is_cross_fitted(config):
        raise RequestError(
            f"{resolved.where('validation')}: a sweep prunes by one validation split, which kfold has not",
            "drop it, or give --fold 1",
        )


def check_points(space: Space, check: Callable[[Point], object]) -> None:
    """Call `check` with all combinations of choices, and with both ends of ranges.

    With more than `MOST_CHECKED` combinations, each value is checked alone, beside the first ones of the other keys.
    """
    choices = {key: one.values for key, one in space.items() if isinstance(one, Choices)}
    count = 1
    for values in choices.values():
        count *= len(values)
    for end in (0, 1):
        ranges = {key: one.ends[end] for key, one in space.items() if isinstance(one, Range)}
        if end and not ranges:
            continue
        combined = product(*choices.values()) if count <= MOST_CHECKED else _each_alone(choices)
        for values in combined:
            check({key: {**ranges, **dict(zip(choices, values, strict=True))}[key] for key in space})


def single_changes(space: Space) -> Iterator[Point]:
    """The first value of each key together, then each further value or end of a range alone beside them."""
    first = {key: one.ends[0] for key, one in space.items()}
    yield first
    for key, one in space.items():
        for text in one.ends[1:]:
            yield {**first, key: text}


def default_space(
    fixed: Callable[[str], bool], check: Callable[[Point], object]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """The default space for a request, and a line for each value that the request can't have.

    Args:
        fixed: Whether the command sets a key.
        check: Raises `RequestError` for values that can't be planned.
    """
    found, notes = {}, []
    for key, text in DEFAULT.items():
        if fixed(key) or (key.endswith(".name") and fixed(key.removesuffix(".name"))):
            continue
        dimension = _dimension(key, text)
        refused = {value: reason for value in dimension.ends if (reason := _refusal({key: value}, check))}
        notes += [f"the space leaves out {key}={value}: {reason}" for value, reason in refused.items()]
        left = [value for value in dimension.ends if value not in refused]
        if len(left) == len(dimension.ends):
            found[key] = text
        elif isinstance(dimension, Choices) and len(left) > 1:
            found[key] = "|".join(left)
    return found, tuple(notes)


def describe(space: Space) -> list[tuple[str, str]]:
    """A row for each key: the key, and its values in words."""
    return [(key, _described(one)) for key, one in space.items()]


def _described(one: Choices | Range) -> str:
    if isinstance(one, Choices):
        return ", ".join(one.values)
    kind = "whole numbers" if one.whole else "numbers"
    return f"{kind} from {one.low:g} to {one.high:g}, uniform{' in the logarithm' if one.log else ''}"


def _refusal(point: Point, check: Callable[[Point], object]) -> str:
    try:
        check(point)
    except RequestError as error:
        return error.message
    return ""


def _dimension(key: str, text: str) -> Choices | Range:
    found = _RANGE.fullmatch(text)
    if found is not None and "|" not in text:
        low, high = float(found[1]), float(found[2])
        if not low < high:
            raise RequestError(f"{FLAG} {key}={text}: the range is empty", "give the lower end first")
        if found[3] and low <= 0:
            raise RequestError(f"{FLAG} {key}={text}: a logarithmic range starts above 0", "raise it, or drop :log")
        return Range(low, high, bool(found[3]), bool(_WHOLE.fullmatch(found[1]) and _WHOLE.fullmatch(found[2])))
    values = tuple(value.strip() for value in text.split("|"))
    if len(values) < 2:
        raise RequestError(f"{FLAG} {key}={text}: neither a range nor several values", FORM)
    if not all(values) or len(set(values)) < len(values):
        raise RequestError(f"{FLAG} {key}={text}: a value is empty or given twice", "write it like none|light")
    return Choices(values)


def _with_number_type(space: Space, key: str, resolve_with: ResolveWith) -> Choices | Range:
    """A range between whole numbers is one of all numbers where the key takes them: `head.dropout=0..1`."""
    one = space[key]
    if not isinstance(one, Range) or not one.whole:
        return one
    numbers = Range(one.low, one.high, one.log, whole=False)
    first = {other: dimension.ends[0] for other, dimension in space.items()}
    between = numbers.text((one.low + one.high) / 2 + (0.25 if (one.low + one.high) % 2 else 0.5))
    try:
        resolved_at({**first, key: between}, resolve_with)
    except RequestError:
        return one
    return numbers


def _each_alone(choices: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    first = {key: values[0] for key, values in choices.items()}
    for key, values in choices.items():
        yield from (tuple({**first, key: value}.values()) for value in values)
