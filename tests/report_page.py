"""A report as a test reads it."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any


class Page(HTMLParser):
    """What a report has: texts by section, tables, pictures and attributes.

    Attributes:
        sections: The text of each section, by its anchor.
        metrics: The exact value of each metric of the results.
        rows: The cells of each row, by section: the exact number of a cell that has one, otherwise its text.
        images: The attributes of each picture.
        links: All addresses.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.sections: dict[str, str] = {}
        self.metrics: dict[str, float] = {}
        self.rows: dict[str, list[list[Any]]] = {}
        self.images: list[dict[str, str | None]] = []
        self.links: list[str] = []
        self._section = self._metric = ""
        self._cell = False
        self.text = file.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "action", "srcset", "poster")]
        if tag == "section":
            self._section = found["id"] or ""
            self.sections[self._section], self.rows[self._section] = "", []
        if tag == "img":
            self.images.append(found)
        if tag == "tr":
            self.rows.setdefault(self._section, []).append([])
        if tag in ("td", "th"):
            self._cell = True
            self.rows[self._section][-1].append("")
        self._metric = found.get("data-metric") or self._metric
        if tag == "data":
            value = float(found["value"] or "nan")
            if self._metric:
                self.metrics[self._metric], self._metric = value, ""
            if self._cell:
                self.rows[self._section][-1][-1], self._cell = value, False

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._cell = False

    def handle_data(self, data: str) -> None:
        if self._section:
            self.sections[self._section] += data
        if self._cell:
            self.rows[self._section][-1][-1] += data
