"""What a cross-fitted run has found, in `cross-fitting.json`. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ftkit.errors import RequestError
from ftkit.runs.run_folder import RunFolder


@dataclass(frozen=True)
class FoldResult:
    """A fold of a cross-fitted run: its numbers of images, and of the epochs that it trained."""

    fold: int
    train: int
    val: int
    epochs: int


@dataclass(frozen=True)
class ShareResult:
    """The out-of-fold metrics of the folds' networks at a share of the way from the first to the last weights."""

    share: float
    metrics: Mapping[str, float | None]


@dataclass(frozen=True)
class CrossFitting:
    """The result of a cross-fitted run.

    Attributes:
        monitor: The metric that chose the share.
        share: The chosen one.
        model: What the final model is, in words.
    """

    folds: tuple[FoldResult, ...]
    monitor: str
    shares: tuple[ShareResult, ...]
    share: float
    model: str

    @property
    def metrics(self) -> Mapping[str, float | None]:
        """The out-of-fold metrics at the chosen share."""
        return next(one.metrics for one in self.shares if one.share == self.share)

    @property
    def images(self) -> int:
        """Number of images; each was validated once."""
        return sum(one.val for one in self.folds)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "images": self.images, "metrics": dict(self.metrics)}


def read_cross_fitting(run: RunFolder) -> CrossFitting | None:
    """The result of a run; None for one that isn't cross-fitted or isn't finished.

    Raises:
        RequestError: The file isn't what ftkit wrote.
    """
    if not run.cross_fitting.is_file():
        return None
    from pydantic import TypeAdapter

    try:
        content = json.loads(run.cross_fitting.read_text(encoding="utf-8"))
        known = {name: content[name] for name in ("folds", "monitor", "shares", "share", "model")}
        found = TypeAdapter(CrossFitting).validate_python(known)
        _ = found.metrics
    except (ValueError, KeyError, TypeError, StopIteration):
        raise RequestError(
            f"{run.cross_fitting} isn't what ftkit wrote", "put it back as it was, or remove the run"
        ) from None
    return found
