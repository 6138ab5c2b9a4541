"""The contract checks of all parts of a plugin, for `ftkit plugins doctor`."""

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
"""Most parts of a kind that are checked, spread evenly; some plugins have a thousand backbones."""


@dataclass(frozen=True)
class CheckResult:
    """The result of one check.

    Attributes:
        check: What was checked.
        fault: The violation, or None.
        skipped: Why the check was skipped, or None.
    """

    check: str
    fault: str | None = None
    skipped: str | None = None

    @property
    def ok(self) -> bool | None:
        """Whether the check passed; None where it was skipped."""
        return None if self.skipped is not None else self.fault is None

    def to_json(self) -> dict[str, Any]:
        return {"check": self.check, "ok": self.ok, "fault": self.fault, "skipped": self.skipped}


class SkippedError(Exception):
    """A part can't be checked without options that the message names."""


def run_checks(registry: Registry, name: str, processes: int = 1, sets: Sequence[str] = ()) -> Iterator[CheckResult]:
    """Load a plugin and check its parts, at most `MOST` of each kind.

    Args:
        processes: As in `check_strategy`.
        sets: Options such as `dataset.root=scans`; each is passed to all parts of the kind that have the option.

    Raises:
        RequestError: No part has one of the options, or its value is wrong.
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
        yield CheckResult(f"{len(sample)} of {len(names)} of kind {catalog.kind} are checked")
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
    """A dataset or strategy with its options from `sets` or `ftkit.yaml`.

    Raises:
        SkippedError: A required option is missing.
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
    """The names of a part's options in `ftkit.yaml`, if it uses that part, and in `sets`."""
    there = read_file(DEFAULT_FILE) if DEFAULT_FILE.exists() else []
    tree, _ = merge([there, from_flags({f"{section}.name": ("NAME", name)}, sets)])
    return set(tree[section])


def _require_known(registry: Registry, plugin: str, sets: Sequence[str]) -> None:
    """Require that each option belongs to a part of the plugin.

    Raises:
        RequestError: An option belongs to none.
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
