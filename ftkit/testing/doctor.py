"""The contract checks over all that a plugin brings, for `ftkit plugins doctor`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from ftkit.config.load import DEFAULT_FILE, build, resolve
from ftkit.config.plugin_options import is_required, option_fields
from ftkit.config.problems import ConfigError
from ftkit.config.sources import from_flags, merge
from ftkit.config.yaml_file import read_file
from ftkit.errors import FtkitError, unknown
from ftkit.plugin_errors import plugin_location
from ftkit.plugins import Plugin, Registry
from ftkit.plugins.loading import reason
from ftkit.testing.checks.backbone_checks import check_backbone
from ftkit.testing.checks.dataset_checks import check_dataset
from ftkit.testing.checks.strategy_checks import check_strategy

MOST = 8
"""Parts of a kind that are checked, spread evenly: a plugin may bring a thousand backbones."""


@dataclass(frozen=True)
class CheckResult:
    """One check.

    Attributes:
        what: What was looked at.
        fault: What is wrong with it; None where nothing is.
        skipped: Why it couldn't be checked; None where it was.
    """

    what: str
    fault: str | None = None
    skipped: str | None = None

    @property
    def ok(self) -> bool | None:
        """Whether nothing is wrong; None where that isn't known."""
        return None if self.skipped is not None else self.fault is None

    def to_json(self) -> dict[str, Any]:
        return {"what": self.what, "ok": self.ok, "fault": self.fault, "skipped": self.skipped}


class SkippedError(Exception):
    """A part can't be checked without options; the text says which."""


def run_checks(registry: Registry, name: str, processes: int = 1, sets: Sequence[str] = ()) -> Iterator[CheckResult]:
    """Load a plugin and check a sample of what it brings, one after the other.

    Args:
        processes: As in `check_strategy`.
        sets: Options, as `dataset.root=scans`: each goes to all datasets, or strategies, that have it.

    Raises:
        RequestError: An option is of no part, or its value is wrong.
    """
    found = registry.plugin(name)
    if not isinstance(found, Plugin):
        yield CheckResult("it loads", found.reason if found is not None else "it is disabled")
        return
    _require_known(registry, name, sets)
    yield CheckResult(f"it loads, and has the hooks {', '.join([*found.offers, *found.event_hooks])}")
    yield from (CheckResult(fault.partition(":")[0], fault) for fault in registry.check_offers(found))
    check = partial(check_strategy, processes=processes)
    yield from _each(registry.strategies, name, lambda part: check(_instance(registry, "strategy", part, sets)))
    yield from _each(registry.datasets, name, lambda part: check_dataset(_instance(registry, "dataset", part, sets)))
    yield from _each(registry.backbones, name, lambda part: check_backbone(registry.backbones.get(part)))


def _each(catalog: Any, plugin: str, check: Callable[[str], object]) -> Iterator[CheckResult]:
    names = [name for name in catalog.of(plugin) if catalog.fault(name) is None]
    sample = names[:: max(1, -(-len(names) // MOST))]
    if len(sample) < len(names):
        yield CheckResult(f"{len(sample)} of {len(names)} of kind {catalog.kind} are looked at")
    for name in sample:
        finding = CheckResult(f"{catalog.kind} {name}")
        try:
            check(name)
        except ConfigError:
            raise
        except SkippedError as error:
            yield replace(finding, skipped=str(error))
        except FtkitError as error:
            yield replace(finding, fault=str(error))
        except (Exception, SystemExit) as error:
            place = plugin_location(error)
            yield replace(finding, fault=reason(error) + (f" ({place[1]})" if place is not None else ""))
        else:
            yield finding


def _instance(registry: Registry, section: Literal["dataset", "strategy"], name: str, sets: Sequence[str]) -> Any:
    """A dataset or strategy with the options that are given for it, or that `ftkit.yaml` has for it.

    Raises:
        SkippedError: It has required options that neither gives.
        ConfigError: A value is wrong.
    """
    cls = (registry.datasets if section == "dataset" else registry.strategies).get(name)
    fields = option_fields(cls)
    mine = [item for item in sets if _key(item) in {f"{section}.{field}" for field in fields}]
    needed = [field for field, details in fields.items() if is_required(details)]
    if not needed and not mine:
        return cls()
    given = _given(section, name, mine)
    missing = [field for field in needed if field not in given]
    if missing:
        raise SkippedError(f"give {' '.join(f'--set {section}.{field}=VALUE' for field in missing)}")
    resolved = resolve(None, {f"{section}.name": ("NAME", name)}, mine, {})
    return build(resolved, section)


def _given(section: str, name: str, sets: Sequence[str]) -> set[str]:
    """The options that `ftkit.yaml` has for a part, where it uses it, and those of `sets`."""
    there = read_file(DEFAULT_FILE) if DEFAULT_FILE.exists() else []
    tree, _ = merge([there, from_flags({f"{section}.name": ("NAME", name)}, sets)])
    return set(tree[section])


def _require_known(registry: Registry, plugin: str, sets: Sequence[str]) -> None:
    """Refuse options that no part of the plugin has.

    Raises:
        RequestError: Names the option.
    """
    known = {
        f"{section}.{field}"
        for section, catalog in (("dataset", registry.datasets), ("strategy", registry.strategies))
        for name in catalog.of(plugin)
        if catalog.fault(name) is None
        for field in option_fields(catalog.get(name))
    }
    for item in sets:
        if _key(item) not in known:
            raise unknown("option", _key(item), known, "--set")


def _key(item: str) -> str:
    return item.partition("=")[0].strip()
