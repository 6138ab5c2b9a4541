"""The contract checks of all parts of a plugin, for `ftkit plugins doctor`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ftkit.config import DEFAULT_FILE
from ftkit.config.load import build, resolve
from ftkit.config.plugin_options import is_required, make, option_fields
from ftkit.config.problems import ConfigError
from ftkit.config.sources import from_flags, merge
from ftkit.config.yaml_file import read_file
from ftkit.errors import FtkitError, unknown
from ftkit.plugin_errors import plugin_location
from ftkit.plugins import Plugin, Registry
from ftkit.plugins.loading import reason
from ftkit.testing import (
    check_backbone,
    check_batch_transform,
    check_callback,
    check_curve,
    check_dataset,
    check_exporter,
    check_image_transform,
    check_loss,
    check_metric,
    check_optimizer,
    check_strategy,
    check_task,
)

MOST = 8
"""Most parts of a kind that are checked, spread evenly; some plugins have a thousand backbones."""
SECTIONS: Mapping[str, str] = {
    "strategies": "strategy",
    "datasets": "dataset",
    "tasks": "task",
    "metrics": "metrics",
    "losses": "loss",
    "optimizers": "optimizer",
    "curves": "lr_curve",
    "image_transforms": "image_transforms",
    "batch_transforms": "batch_transforms",
    "callbacks": "callbacks",
    "exporters": "exporter",
}
"""By kind, the first word of the keys of its options in `--set`."""
CHECKS: Mapping[str, Callable[[Any], object]] = {
    "strategies": check_strategy,
    "datasets": check_dataset,
    "tasks": check_task,
    "metrics": check_metric,
    "losses": check_loss,
    "optimizers": check_optimizer,
    "curves": check_curve,
    "image_transforms": check_image_transform,
    "batch_transforms": check_batch_transform,
    "callbacks": check_callback,
    "exporters": check_exporter,
    "backbones": check_backbone,
}
"""By kind, the check of a part."""


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
        processes: See `check_strategy`.
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
    checks: dict[str, Callable[[Any], object]] = {**CHECKS, "strategies": partial(check_strategy, processes=processes)}
    for plural, check in checks.items():
        yield from _each(registry, plural, name, check, sets)


def _each(
    registry: Registry, plural: str, plugin: str, check: Callable[[Any], object], sets: Sequence[str]
) -> Iterator[CheckResult]:
    catalog = registry.catalogs[plural]
    names = [name for name in catalog.of(plugin) if catalog.fault(name) is None]
    sample = names[:: max(1, -(-len(names) // MOST))]
    if len(sample) < len(names):
        yield CheckResult(f"{len(sample)} of {len(names)} of kind {catalog.kind} are checked")
    for name in sample:
        result = CheckResult(f"{catalog.kind} {name}")
        try:
            check(_part(registry, plural, name, sets))
        except ConfigError:
            raise
        except SkippedError as error:
            yield replace(result, skipped=str(error))
        except FtkitError as error:
            yield replace(result, fault=str(error))
        except (Exception, SystemExit) as error:
            place = plugin_location(error)
            yield replace(result, fault=reason(error) + (f" ({place[1]})" if place is not None else ""))
        else:
            yield result


def _part(registry: Registry, plural: str, name: str, sets: Sequence[str]) -> Any:
    """A part of a plugin; where the plugin brings a class, an instance with its options.

    Raises:
        SkippedError: A required option is missing.
        ConfigError: A value is wrong.
    """
    value = registry.catalogs[plural].get(name)
    if not isinstance(value, type):
        return value
    section, fields = SECTIONS[plural], option_fields(value)
    mine = [item for item in sets if _key(item) in {f"{section}.{field}" for field in fields}]
    needed = [field for field, details in fields.items() if is_required(details)]
    if not needed and not mine:
        return value()
    given = _given(section, name, mine)
    missing = [field for field in needed if field not in given]
    if missing:
        raise SkippedError(f"give {' '.join(f'--set {section}.{field}=VALUE' for field in missing)}")
    if section in ("dataset", "strategy"):
        return build(resolve(None, {f"{section}.name": ("NAME", name)}, mine, {}), section)
    sources = {f"{section}.{field}": f"--set {section}.{field}" for field in given}
    return make(value, given, section, sources, registry)


def _given(section: str, name: str, sets: Sequence[str]) -> dict[str, Any]:
    """A part's options in `ftkit.yaml`, if it uses that dataset or strategy, and in `sets`."""
    if section not in ("dataset", "strategy"):
        return {setting.key[1]: setting.value for setting in from_flags({}, sets)}
    there = read_file(DEFAULT_FILE) if DEFAULT_FILE.exists() else []
    tree, _ = merge([there, from_flags({f"{section}.name": ("NAME", name)}, sets)])
    options: dict[str, Any] = tree[section]
    return options


def _require_known(registry: Registry, plugin: str, sets: Sequence[str]) -> None:
    """Require that each option belongs to a part of the plugin.

    Raises:
        RequestError: An option belongs to none.
    """
    known = {
        f"{section}.{field}"
        for plural, section in SECTIONS.items()
        for name in (registry.catalogs[plural].of(plugin) if sets else ())
        if registry.catalogs[plural].fault(name) is None
        for field in option_fields(registry.catalogs[plural].get(name))
    }
    for item in sets:
        if _key(item) not in known:
            raise unknown("option", _key(item), known, "--set")


def _key(item: str) -> str:
    return item.partition("=")[0].strip()
