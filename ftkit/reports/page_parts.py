"""Parts that sections are made of: tables, folded details, lists of facts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ftkit.reports.markup import Child, Html, tag


def table(heads: Sequence[Child], rows: Iterable[Sequence[Child]], label: str, kind: str = "") -> Html:
    """A table that scrolls by itself where it is wider than the page; the first cell of each row is its heading.

    Args:
        label: What it is, for screen readers.
        kind: CSS classes: `words` for columns of text, `sortable` for columns that can be sorted.
    """
    head = tag("thead", tag("tr", [tag("th", one, scope="col") for one in heads]))
    body = [tag("tr", tag("th", row[0], scope="row"), [tag("td", cell) for cell in row[1:]]) for row in rows]
    return scrolling(tag("table", head, tag("tbody", body), class_=kind or None), label)


def scrolling(content: Html, label: str) -> Html:
    """Content that scrolls sideways by itself, by keyboard too."""
    return tag("div", content, class_="scroll", tabindex="0", role="region", aria_label=label)


def folded(summary: str, *content: Child) -> Html:
    """Content that is shown on request."""
    return tag("details", tag("summary", summary), tag("div", content, class_="folded"))


def hint(*content: Child) -> Html:
    """A line that explains what follows."""
    return tag("p", content, class_="hint")


def facts(rows: Iterable[tuple[str, Child]]) -> Html:
    """Names with their values."""
    return tag("dl", [tag("div", tag("dt", name), tag("dd", value)) for name, value in rows], class_="facts")


def unseen(text: str) -> Html:
    """Text for screen readers alone."""
    return tag("span", text, class_="unseen")


def warnings(lines: Iterable[Child]) -> Html | None:
    """Lines that need attention; None without any."""
    items = [tag("li", line) for line in lines]
    return tag("ul", items, class_="warnings") if items else None
