"""The parts of a report: each is a function of the run's data that returns HTML, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from ftkit.reports.markup import Html

Data = TypeVar("Data")
"""What sections are made of: `ReportData` for the report of a run."""


@dataclass(frozen=True)
class Omitted:
    """Why a report lacks a section, in one sentence without a full stop."""

    reason: str


@dataclass(frozen=True)
class Section(Generic[Data]):
    """A section of a report.

    Attributes:
        name: Its anchor: letters and hyphens.
        title: Its heading.
        build: Returns its content without the heading.
    """

    name: str
    title: str
    build: Callable[[Data], Html | Omitted]
