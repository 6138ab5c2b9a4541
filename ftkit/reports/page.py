"""The page of a report: its frame, style and script. It loads nothing, and its policy allows nothing to be loaded."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources

import ftkit
from ftkit.reports.markup import Html, join, tag
from ftkit.reports.report_data import ReportData
from ftkit.reports.section import Omitted, Section


def page(data: ReportData, sections: Iterable[Section], header: Html) -> Html:
    """The report of a run as an HTML document.

    Args:
        header: The heading of the page.
    """
    built = [(section, section.build(data)) for section in sections]
    present = [(section, content) for section, content in built if isinstance(content, Html)]
    omitted = [(section, content) for section, content in built if isinstance(content, Omitted)]
    parts = [*(_section(section, content) for section, content in present), *([_left_out(omitted)] if omitted else [])]
    return document(f"{data.summary.run.name}: report", header, [section for section, _ in present], parts)


def document(title: str, header: Html, sections: Sequence[Section], parts: Sequence[Html]) -> Html:
    """An HTML document with a list of its sections."""
    style, script = _text("report.css"), _text("report.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="generator", content=f"ftkit {ftkit.__version__}"),
        tag("title", title),
        tag("style", Html(style)),
    )
    contents = [tag("li", tag("a", section.title, href=f"#{section.name}")) for section in sections]
    body = tag(
        "body",
        tag("a", "Skip to the results", class_="skip", href="#main"),
        tag("div", header, class_="top"),
        tag(
            "div",
            tag("nav", tag("ol", contents), class_="contents", aria_label="Sections"),
            tag("main", parts, id="main"),
            class_="frame",
        ),
        tag("footer", f"Written by ftkit {ftkit.__version__}. This page is one file and loads nothing."),
        tag("script", Html(script)),
    )
    return Html(f"<!doctype html>\n{tag('html', head, body, lang='en')}\n")


def _section(section: Section, content: Html) -> Html:
    heading = f"{section.name}-title"
    return tag("section", tag("h2", section.title, id=heading), content, id=section.name, aria_labelledby=heading)


def _left_out(omitted: Sequence[tuple[Section, Omitted]]) -> Html:
    rows = [tag("li", tag("b", section.title), ": ", content.reason, ".") for section, content in omitted]
    return tag(
        "section",
        tag("h2", "Not in this report", id="omitted-title"),
        tag("ul", rows, class_="plain"),
        id="omitted",
        aria_labelledby="omitted-title",
    )


@cache
def _text(name: str) -> str:
    return resources.files("ftkit.reports").joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """A hash that a content security policy allows an inline style or script by."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


__all__ = ["document", "join", "page"]
