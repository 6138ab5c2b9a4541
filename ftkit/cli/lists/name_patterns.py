"""Patterns for names of parts, on the command line."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from ftkit.errors import RequestError, nearest


def folded(name: str) -> str:
    """A name in lower case with underscores, so that spellings of it are equal."""
    return name.lower().replace("-", "_")


def matches(pattern: str | None, name: str) -> bool:
    """Whether a name matches a pattern with `*`, `?` and `[...]`, or contains a pattern without them.

    A pattern without a slash also matches the part of a name after its plugin.
    """
    if pattern is None:
        return True
    wanted, name = folded(pattern), folded(name)
    if not set(wanted) & set("*?["):
        return wanted in name
    return fnmatchcase(name, wanted) or ("/" not in wanted and fnmatchcase(name.partition("/")[2], wanted))


def no_match(kind: str, pattern: str, known: Iterable[str], where: str = "") -> RequestError:
    """The error for a pattern that matches nothing.

    Args:
        kind: Plural of the kind of part.
        where: The flag, for the start of the message.
    """
    close = nearest(pattern, known)
    hint = f"did you mean {close!r}?" if close else f"see `ftkit {kind.replace('_', '-')} list`"
    return RequestError(f"{where}no {kind.replace('_', ' ')} match {pattern!r}", hint)
