"""What the sections of a comparison are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ftkit.evaluation.comparison import Result
from ftkit.parts.dataset import Split
from ftkit.parts.metric import Metric
from ftkit.reports.thumbnails import Thumbnails


@dataclass(frozen=True)
class ComparisonData:
    """Runs on the same images.

    Attributes:
        results: The first one is the baseline.
        names: What the runs are called.
        title: What the images are called.
        images: The images in the order of the outputs of the first run; None where runs have other images.
    """

    results: Sequence[Result]
    names: Sequence[str]
    metrics: Mapping[str, Metric]
    title: str
    images: Split | None = field(repr=False)
    thumbnails: Thumbnails = field(repr=False)

    def style(self, place: int) -> str:
        """The CSS classes of a run's colour and dashes."""
        return f"s{place % 6 + 1}" + (" dashed" if place >= 6 else "")
