"""The page of a report: its frame, style and script. It loads nothing, and its policy allows nothing to be loaded."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources

import ftkit
from ftkit.reports.markup import Html, tag
from ftkit.reports.section import Data, Omitted, Section


def page(title: str, header: Html, data: Data, sections: Iterable[Section[Data]]) -> Html:
    """A report as an HTML document.

    Args:
        title: For the window.
        header: The heading of the page.
    """
    built = [(section, section.build(data)) for section in sections]
    omitted = [(section.title, content.reason) for section, content in built if isinstance(content, Omitted)]
    present = [(section.name, section.title, content) for section, content in built if isinstance(content, Html)]
    parts = [_section(*one) for one in present]
    return document(title, header, [one[:2] for one in present], parts + ([_left_out(omitted)] if omitted else []))


def document(title: str, header: Html, sections: Sequence[tuple[str, str]], parts: Sequence[Html]) -> Html:
    """An HTML document with a list of its sections, each as its anchor and its title."""
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
    contents = [tag("li", tag("a", heading, href=f"#{name}")) for name, heading in sections]
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


def _section(name: str, title: str, content: Html) -> Html:
    heading = f"{name}-title"
    return tag("section", tag("h2", title, id=heading), content, id=name, aria_labelledby=heading)


def _left_out(omitted: Sequence[tuple[str, str]]) -> Html:
    rows = [tag("li", tag("b", title), ": ", reason, ".") for title, reason in omitted]
    return _section("omitted", "Not in this report", tag("ul", rows, class_="plain"))


@cache
def _text(name: str) -> str:
    return resources.files("ftkit.reports").joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """A hash that a content security policy allows an inline style or script by."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
