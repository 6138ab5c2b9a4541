"""HTML from Python values: all text is escaped, except what is `Html` already."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import TypeAlias

VOID = frozenset({"br", "col", "hr", "img", "input", "link", "meta"})
"""Elements without content, which have no end tag."""


class Html(str):
    """Text that is HTML, which is not escaped again."""

    __slots__ = ()


Child: TypeAlias = "str | int | float | Iterable[Child] | None"
"""Content of an element: HTML, text to escape, a number, nothing, or several of them."""
Value = str | int | float | bool | None
"""Value of an attribute. None and False leave it out; True writes the name alone."""


def tag(name: str, /, *children: Child, **attributes: Value) -> Html:
    """An element.

    Args:
        attributes: By name, with `_` for `-`, and a trailing `_` for names that Python reserves, such as `class_`.
    """
    start = name + "".join(_attribute(key, value) for key, value in attributes.items())
    if name in VOID:
        return Html(f"<{start}>")
    return Html(f"<{start}>{join(children)}</{name}>")


def join(children: Child) -> Html:
    """The content of an element as HTML."""
    if children is None:
        return Html()
    if isinstance(children, Html):
        return children
    if isinstance(children, str):
        return escape(children)
    if isinstance(children, int | float):
        return Html(f"{children:g}" if isinstance(children, float) else f"{children:,}")
    return Html("".join(map(join, children)))


def escape(text: str) -> Html:
    """Text as HTML, for content and for quoted attributes.

    Control characters, which HTML doesn't allow, and bytes of file names that aren't UTF-8 become escapes such as
    `\\x1b` and `\\udc80`. Line breaks are kept.
    """
    if not text.isprintable():
        text = "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
    return Html(html.escape(text))


def number(value: float | None, digits: int) -> Html:
    """A number with some decimals; the exact value is the attribute `value`. None is a dash."""
    if value is None or value != value:
        return Html("–")
    return tag("data", f"{value:.{digits}f}", value=repr(float(value)))


def count(value: int) -> Html:
    """A whole number, with separators; without them, the attribute `value`."""
    return tag("data", f"{value:,}", value=str(value))


def _attribute(name: str, value: Value) -> str:
    if value is None or value is False:
        return ""
    name = name.rstrip("_").replace("_", "-")
    if value is True:
        return f" {name}"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return f' {name}="{escape(text)}"'
