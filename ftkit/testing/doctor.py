"""The contract checks over all that a plugin brings, for `ftkit plugins doctor`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ftkit.config.plugin_options import is_required, option_fields
from ftkit.errors import FtkitError
from ftkit.plugins import Plugin, Registry
from ftkit.plugins.loading import reason
from ftkit.testing.backbones import check_backbone
from ftkit.testing.datasets import check_dataset
from ftkit.testing.strategies import check_strategy

MOST = 8
"""Parts of a kind that are checked, spread evenly: a plugin may bring a thousand backbones."""


@dataclass(frozen=True)
class Finding:
    """One check.

    Attributes:
        what: What was looked at.
        fault: What is wrong with it; None where nothing is.
    """

    what: str
    fault: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {"what": self.what, "ok": self.fault is None, "fault": self.fault}


def examine(registry: Registry, name: str, processes: int = 1) -> Iterator[Finding]:
    """Load a plugin and check a sample of what it brings, one after the other.

    Args:
        processes: As in `check_strategy`.
    """
    found = registry.plugin(name)
    if not isinstance(found, Plugin):
        yield Finding("it loads", found.reason if found is not None else "it is disabled")
        return
    yield Finding(f"it loads, and has the hooks {', '.join([*found.offers, *found.listens])}")
    check = partial(check_strategy, processes=processes)
    yield from _each(registry.strategies, name, lambda cls: _on_instance(cls, check))
    yield from _each(registry.datasets, name, lambda cls: _on_instance(cls, check_dataset))
    yield from _each(registry.backbones, name, check_backbone)


def _each(catalog: Any, plugin: str, check: Callable[[Any], object]) -> Iterator[Finding]:
    names = catalog.of(plugin)
    sample = names[:: max(1, -(-len(names) // MOST))]
    if len(sample) < len(names):
        yield Finding(f"{len(sample)} of {len(names)} of kind {catalog.kind} are looked at")
    for name in sample:
        finding = Finding(f"{catalog.kind} {name}")
        try:
            note = check(catalog.get(name))
        except FtkitError as error:
            yield replace(finding, fault=str(error))
        except Exception as error:
            yield replace(finding, fault=reason(error))
        else:
            yield replace(finding, what=f"{finding.what}{note if isinstance(note, str) else ''}")


def _on_instance(cls: type[Any], check: Callable[[Any], object]) -> str | None:
    """Check a class by an instance with its defaults; one whose options must be given can't be made here."""
    needed = [name for name, field in option_fields(cls).items() if is_required(field)]
    if needed:
        return f": not checked, since it needs {', '.join(needed)}; ftkit.testing checks it with these in a test"
    check(cls())
    return None
