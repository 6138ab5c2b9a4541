"""Errors that a person reads: one line that names the culprit, and a hint that names the remedy."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


class FtkitError(Exception):
    """Something went wrong that the user can understand and act on.

    Args:
        message: One line that names the file, key or flag at fault.
        hint: What to do about it, one line, or None where the message says it.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = one_line(message)
        self.hint = one_line(hint) if hint else None

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


def one_line(text: str) -> str:
    """The text on one line that any terminal can print.

    Names of files may hold line breaks, control characters and bytes that are no text; these are escaped.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shell_word(word: object) -> str:
    """A path or name in a command that is shown, so that a shell reads it back as it is."""
    import shlex

    return shlex.quote(one_line(str(word)))


def plural(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun: `1 image`, `2 images`, `1,000 classes`.

    Args:
        many: The plural, where it isn't made by adding s, or es after an s.
    """
    nouns = many or f"{one}{'es' if one.endswith('s') else 's'}"
    return f"{number:,} {one if number == 1 else nouns}"


def format_value(value: Any) -> str:
    """The value as a person wrote it, cut where it is long."""
    words = {None: "null", True: "true", False: "false"}
    text = words[value] if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


class RequestError(FtkitError):
    """What was asked for is wrong: an unknown name, key or value, or data that can't be used."""

    exit_code = 2


class RunInterrupted(FtkitError):
    """A signal stopped the run after a whole checkpoint had been written.

    Args:
        message: What happened, and where the run stands.
        hint: The command that resumes it.
        signum: The signal's number; the exit code is 128 plus it, as a shell would give.
    """

    def __init__(self, message: str, hint: str, signum: int) -> None:
        super().__init__(message, hint)
        self.exit_code = 128 + signum


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known spelling closest to `name`, or None where nothing is close.

    A name without its plugin's prefix (`tiny` for `my-project/tiny`) counts as close.
    """
    known = list(known)
    folded = {k.lower().replace("_", "-"): k for k in known}
    wanted = name.lower().replace("_", "-")
    unprefixed = [k for k in folded if "/" in k and k.split("/", 1)[1] == wanted]
    found = unprefixed or get_close_matches(wanted, folded, n=1, cutoff=0.5)
    return folded[found[0]] if found else None


def unknown(kind: str, name: str, known: Iterable[str], where: str = "") -> RequestError:
    """The error for a name that nothing answers to, with the nearest spelling that something does."""
    known = sorted(known)
    close = nearest(name, known)
    few = ", ".join(known) if len(known) <= 12 else ", ".join(known[:12]) + ", ..."
    hint = f"did you mean {close!r}?" if close else (f"known: {few}" if known else None)
    return RequestError(f"{where + ': ' if where else ''}unknown {kind} {name!r}", hint)
