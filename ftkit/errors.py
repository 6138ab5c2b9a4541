"""Error messages for users: one line that names the cause, and a hint that names the remedy."""

from __future__ import annotations

import math
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


class FtkitError(Exception):
    """An error that the user can understand and act on.

    Args:
        message: One line that names the file, key or flag at fault.
        hint: The remedy, one line, or None where the message makes it clear.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = one_line(message)
        self.hint = one_line(hint) if hint else None

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


def one_line(text: str) -> str:
    """Escape line breaks, control characters and undecodable bytes, so that the text prints on one line."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shell_word(word: object) -> str:
    """Quote a path or name for a shell command that is shown to the user."""
    import shlex

    return shlex.quote(one_line(str(word)))


def plural(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun: `1 image`, `2 images`, `1,000 classes`.

    Args:
        many: The plural, where it is irregular.
    """
    nouns = many or f"{one}{'es' if one.endswith('s') else 's'}"
    return f"{number:,} {one if number == 1 else nouns}"


def format_value(value: Any) -> str:
    """A config value as in YAML, shortened to 60 characters."""
    words = {None: "null", True: "true", False: "false"}
    text = words[value] if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


class SettingsError(FtkitError):
    """A training that its settings made fail, by a loss that isn't finite or too little memory; others may work."""


class RequestError(FtkitError):
    """The request is wrong: an unknown name, key or value, or data that can't be used."""

    exit_code = 2


class RunInterrupted(FtkitError):
    """A signal stopped the run, after a checkpoint was written.

    Args:
        message: The signal and the position of the run.
        hint: The command that resumes the run.
        signum: The signal's number; the exit code is 128 plus this number, as in a shell.
    """

    def __init__(self, message: str, hint: str, signum: int) -> None:
        super().__init__(message, hint)
        self.exit_code = 128 + signum


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most similar to `name`, or None where none is similar.

    A name without its plugin prefix (`tiny` for `my-project/tiny`) is similar.
    """
    known = list(known)
    folded = {k.lower().replace("_", "-"): k for k in known}
    wanted = name.lower().replace("_", "-")
    unprefixed = [k for k in folded if "/" in k and k.split("/", 1)[1] == wanted]
    found = unprefixed or get_close_matches(wanted, folded, n=1, cutoff=0.5)
    return folded[found[0]] if found else None


def unknown(kind: str, name: str, known: Iterable[str], where: str = "") -> RequestError:
    """The error for an unknown name, which suggests the most similar known name."""
    known = sorted(known)
    close = nearest(name, known)
    few = ", ".join(known) if len(known) <= 12 else ", ".join(known[:12]) + ", ..."
    hint = f"did you mean {close!r}?" if close else (f"known: {few}" if known else None)
    return RequestError(f"{where + ': ' if where else ''}unknown {kind} {name!r}", hint)


def check_number(
    option: str, value: float, low: float = -math.inf, high: float = math.inf, above: bool = False, below: bool = False
) -> None:
    """Refuse a number that is not finite or out of bounds.

    Args:
        option: Name of the option; messages of a config put its place before it.
        above: Refuse `low` itself.
        below: Refuse `high` itself.

    Raises:
        RequestError: Names the option, the value and the bounds.
    """
    fits = (value > low if above else value >= low) and (value < high if below else value <= high)
    if not (fits and math.isfinite(value)):
        raise RequestError(f"{option} is {value}", f"give {_bounds(low, high, above, below)}")


def _bounds(low: float, high: float, above: bool, below: bool) -> str:
    if math.isfinite(low) and math.isfinite(high):
        return f"a number {'above' if above else 'from'} {low:g} {'and below' if below else 'to'} {high:g}"
    if math.isfinite(low):
        return f"a number above {low:g}" if above else f"a number of {low:g} or more"
    if math.isfinite(high):
        return f"a number below {high:g}" if below else f"a number of {high:g} or less"
    return "a finite number"
