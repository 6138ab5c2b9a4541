"""The parts of a report: each is a function of the run's data that returns HTML, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftkit.reports.markup import Html

if TYPE_CHECKING:
    from ftkit.reports.report_data import ReportData


@dataclass(frozen=True)
class Omitted:
    """Why a report lacks a section, in one sentence without a full stop."""

    reason: str


Build = Callable[["ReportData"], Html | Omitted]


@dataclass(frozen=True)
class Section:
    """A section of a report.

    Attributes:
        name: Its anchor: letters and hyphens.
        title: Its heading.
        build: Returns its content without the heading.
    """

    name: str
    title: str
    build: Build
