"""Weights between those of several epochs, evaluated when a run ends: `averages.json`. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ftkit.errors import RequestError
from ftkit.files.json_text import dump_json
from ftkit.runs.run_folder import RunFolder


@dataclass(frozen=True)
class Average:
    """Which weights were averaged, and their metrics.

    Attributes:
        epochs: The epochs whose weights were averaged; with a share, the first and the last weights.
        share: Part of the way from the first weights to the last, between 0 and 1; None for the mean of all.
        metrics: Metrics on the validation split, as in a model's card; None for one that isn't a number.
        kept: Whether these weights are the run's model.
    """

    epochs: tuple[int, ...]
    share: float | None = None
    metrics: Mapping[str, float | None] | None = None
    kept: bool = False

    @property
    def facts(self) -> dict[str, Any]:
        """What a model's card and a record say of it."""
        return {"epochs": list(self.epochs), "share": self.share}

    def describe(self) -> str:
        """One clause, as `describe_average` gives it."""
        return describe_average(self.epochs, self.share)

    def value(self, monitor: str) -> float | None:
        """A metric."""
        return (self.metrics or {}).get(f"val_{monitor}")


def describe_average(epochs: Sequence[int], share: float | None) -> str:
    """One clause: `0.5 of the way from epoch 0 to epoch 10`, or `the mean of epochs 8 to 10`."""
    if share is not None:
        return f"{share:g} of the way from epoch {epochs[0]} to epoch {epochs[-1]}"
    return f"the mean of epochs {epochs[0]} to {epochs[-1]}"


def encode_averages(averages: Sequence[Average]) -> bytes:
    """The content of `averages.json`."""
    return dump_json({"averages": [asdict(each) for each in averages]}, indent=1).encode() + b"\n"


def read_averages(run: RunFolder) -> tuple[Average, ...]:
    """The averages that a run has evaluated; empty before its end, and where it evaluates none.

    Raises:
        RequestError: The file isn't what ftkit wrote.
    """
    path = run.averages
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise RequestError(f"{path}: can't be read: {error.strerror}") from None
    return _decoded(path, content)


def _decoded(path: Path, content: bytes) -> tuple[Average, ...]:
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(dict[str, tuple[Average, ...]]).validate_json(content)["averages"]
    except (ValidationError, KeyError):
        raise RequestError(f"{path} isn't what ftkit wrote", "put it back as it was, or remove it") from None


def kept_average(run: RunFolder) -> Average | None:
    """The average that is the run's model; None where the model is of an epoch. Errors as in `read_averages`."""
    return next((each for each in read_averages(run) if each.kept), None)
