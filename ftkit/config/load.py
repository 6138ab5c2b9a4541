"""From defaults, `ftkit.yaml`, `FTKIT_*` and flags to one validated `Config`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ftkit.config import DEFAULT_FILE
from ftkit.config.choices import AUTO, CHOICES, LISTS
from ftkit.config.field_types import Choice
from ftkit.config.plugin_options import all_options, make, members, option_fields, option_types, strategy_in
from ftkit.config.problems import ConfigError, lines, place
from ftkit.config.schema import Config
from ftkit.config.source_text import as_typed, fields_of, written
from ftkit.config.sources import Key, from_env, from_flags, merge
from ftkit.config.yaml_file import Setting, dump, read_file
from ftkit.errors import RequestError, unknown
from ftkit.parts.optimizer import UNSUPPORTED, Optimizer
from ftkit.plugins import BUILT_IN, Registry
from ftkit.transforms.augmentation import LEVELS

if TYPE_CHECKING:
    from collections.abc import Sequence

WEIGHT_SUFFIXES = (".pt", ".pth", ".th", ".safetensors", ".bin")
CATALOGS: Mapping[str, str] = {
    "dataset": "datasets",
    "task": "tasks",
    "strategy": "strategies",
    "optimizer": "optimizers",
    "loss": "losses",
    "lr_curve": "curves",
    **{section: section for section in LISTS},
}
"""The kind of part, by its plural, that each section names or lists."""

AUTO_SECTIONS = ("task", "loss")
"""Sections that may be `auto`; planning replaces it."""


@dataclass(frozen=True)
class Resolved:
    """A validated config, with the plugins that it uses and the source of each value.

    Attributes:
        config: The config with absolute paths, and every option of the named parts filled in.
        registry: The plugins.
        sources: The place of each value by dotted key: `ftkit.yaml:12`, `FTKIT_EPOCHS`, `--epochs`, `--set epochs`.
            Keys with their default are absent.
        notes: What was chosen in place of `auto`, and why, for the notes of the plan.
    """

    config: Config
    registry: Registry
    sources: Mapping[str, str]
    notes: tuple[str, ...] = ()

    def where(self, key: str) -> str:
        """A key in messages: `ftkit.yaml:12: epochs`, `--epochs`, or just `epochs` if it has its default."""
        return place(self.sources, key)

    def is_explicit(self, key: str) -> bool:
        """Whether a flag or variable sets a key. A file may only repeat defaults, as a run's config.yaml does."""
        return self.sources.get(key, "").startswith(("--", "FTKIT_"))

    def is_requested(self, key: str) -> bool:
        """Whether a flag, a variable or a call of the library, which names keys as they are, sets a key."""
        return self.is_explicit(key) or self.sources.get(key) in (key, key.partition(".")[0])


def resolve(
    file: Path | None = None,
    flags: Mapping[str, tuple[str, Any]] | None = None,
    sets: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> Resolved:
    """Merge defaults, file, environment and flags, in rising precedence, and validate the result.

    Relative paths in the file are relative to its folder, all others (the default `output` too) to the working folder.

    Args:
        file: The config file; by default `ftkit.yaml` in the working folder, if it exists.
        flags: The spelling of a flag and its value, by dotted config key.
        sets: `KEY=VALUE`, which override flags and earlier ones.
        env: The environment; names that start with `FTKIT_` are read.

    Raises:
        RequestError: One line per error, with the place, the key and the remedy.
    """
    layers = [_file_settings(file), from_env(env or {}), from_flags(flags or {}, sets)]
    tree, marks = merge(layers)
    sources = {".".join(key): setting.where for key, setting in marks.items()}
    tree = as_typed(tree, written(marks, (), tree), Config)
    _anchor_top(tree, marks)
    config = _validated(tree, sources)
    registry = Registry(tuple(Path(p) for p in config.plugins))
    if config.backbone != AUTO:
        registry.backbones.get(config.backbone, where=place(sources, "backbone"))
    if config.monitor != AUTO:
        registry.metrics.get(config.monitor, where=place(sources, "monitor"))
    filled: dict[str, Any] = {
        section: fill_choice((section,), getattr(config, section), registry, marks, sources) for section in CHOICES
    }
    for section in LISTS:
        items = enumerate(getattr(config, section))
        filled[section] = tuple(fill_choice((section, str(i)), item, registry, marks, sources) for i, item in items)
    resolved = Resolved(config.model_copy(update=filled), registry, sources)
    _require_decay(resolved)
    return resolved


def build(resolved: Resolved, section: str) -> Any:
    """The part that a section names, built with its options; for a section that lists parts, a tuple of them.

    Raises:
        RequestError: An option is unknown, missing or invalid, one line for each; or raised by the class.
    """
    chosen = getattr(resolved.config, section)
    if section in LISTS:
        return tuple(_built(resolved, section, choice, f"{section}.{index}") for index, choice in enumerate(chosen))
    return _built(resolved, section, chosen, section)


def _built(resolved: Resolved, section: str, choice: Choice, key: str) -> Any:
    cls = class_of(section, choice.name, resolved.registry, resolved.where(f"{key}.name"))
    return make(cls, choice.options, key, resolved.sources, resolved.registry)


def with_choice(
    resolved: Resolved, section: str, name: str, options: Mapping[str, Any], sources: Mapping[str, str]
) -> Resolved:
    """The same request with another part in a section that names one.

    Args:
        options: Its options; others get their defaults.
        sources: The places of that section's values by dotted key, for messages.

    Raises:
        RequestError: The name is unknown, or an option is invalid.
    """
    others = {key: where for key, where in resolved.sources.items() if key.partition(".")[0] != section}
    known = {**others, **sources}
    cls = class_of(section, name, resolved.registry, place(known, f"{section}.name"))
    instance = make(cls, options, section, known, resolved.registry)
    now: Choice = getattr(resolved.config, section)
    choice = type(now).model_validate({**_general(now), "name": name, **all_options(instance, options)})
    return replace(resolved, config=resolved.config.model_copy(update={section: choice}), sources=known)


def project_plugins(file: Path | None = None) -> tuple[Path, ...]:
    """The plugin files that a config file lists. The rest of the file isn't validated."""
    tree, marks = merge([_file_settings(file)])
    _anchor_top(tree, marks)
    sources = {".".join(key): setting.where for key, setting in marks.items()}
    return tuple(Path(p) for p in _validated({"plugins": tree.get("plugins", [])}, sources).plugins)


def to_yaml(config: Config) -> str:
    """The config as YAML, with absolute paths, so that it can be loaded from any folder."""
    return dump(config.model_dump(mode="json"))


def is_path(weights: str) -> bool:
    """Whether `weights` is a path, and not the name of pretrained weights."""
    return "/" in weights or os.sep in weights or weights.lower().endswith(WEIGHT_SUFFIXES)


def class_of(section: str, name: str, registry: Registry, where: str = "") -> type[Any]:
    """The class of a part that a section of the config names or lists."""
    if section == "optimizer" and name in UNSUPPORTED:
        raise RequestError(
            f"{where + ': ' if where else ''}optimizer {name!r} isn't supported: {UNSUPPORTED[name]}",
            f"choose one of {', '.join(registry.optimizers.of(BUILT_IN))}",
        )
    if section in CATALOGS:
        return registry.catalogs[CATALOGS[section]].get(name, where)  # type: ignore[no-any-return]
    if name not in LEVELS:
        raise unknown("level", name, LEVELS, where)
    return LEVELS[name]


def _file_settings(file: Path | None) -> list[Setting]:
    if file is None:
        return read_file(DEFAULT_FILE) if DEFAULT_FILE.exists() else []
    if not file.exists():
        hint = "--config (-c) takes the path of a config file; `ftkit init` writes one"
        raise RequestError(f"{_shown(file)}: no such file, and --config (-c) names it", hint)
    return read_file(file)


def _shown(file: Path) -> str:
    """A path, in quotes if it has invisible characters."""
    text = str(file)
    return text if text.isprintable() and text == text.strip() else repr(text)


def _validated(tree: dict[str, Any], sources: Mapping[str, str]) -> Config:
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(lines(error, tree, "", sources)) from None


def _require_decay(resolved: Resolved) -> None:
    """Refuse `decay_all` where there is no weight decay."""
    optimizer: Optimizer = build(resolved, "optimizer")
    if not resolved.config.decay_all or optimizer.decay:
        return
    where, name = resolved.where("decay_all"), resolved.config.optimizer.name
    if "weight_decay" in option_fields(type(optimizer)):
        raise RequestError(
            f"{where}: optimizer {name} has no weight decay by default", "set optimizer.weight_decay too"
        )
    catalog = resolved.registry.optimizers
    names = [n for n in catalog.of(BUILT_IN) if "weight_decay" in option_fields(catalog.get(n))]
    raise RequestError(f"{where}: optimizer {name} has no weight decay; these have: {', '.join(names)}")


def fill_choice(
    key: Key, choice: Choice, registry: Registry, marks: Mapping[Key, Setting], sources: Mapping[str, str]
) -> Choice:
    """A choice with every option of its class, defaults included.

    Args:
        key: The key of the section, or of an item in a section that lists parts.
    """
    section = ".".join(key)
    if choice.name == AUTO and section in AUTO_SECTIONS:
        if choice.options:
            option = next(iter(choice.options))
            where = place(sources, f"{section}.{option}")
            catalog = registry.catalogs[CATALOGS[section]]
            having = [name for name in catalog.of(BUILT_IN) if option in option_fields(catalog.get(name))]
            hint = f"name the {section} too; {option} is an option of {', '.join(having)}"
            raise RequestError(f"{where} is set, but {section} is auto", hint if having else f"name the {section} too")
        return choice
    cls = class_of(key[0], choice.name, registry, place(sources, f"{section}.name"))
    types = option_types(cls)

    def fields(annotation: Any, value: Any) -> Mapping[str, Any]:
        inner = strategy_in(annotation, value, registry)
        return fields_of(annotation, value) if inner is None else option_types(inner)

    options = as_typed(choice.options, written(marks, key, choice.options), cls, fields)
    for name in options.keys() & types.keys():
        if Path in members(types[name]):
            options[name] = _anchored(options[name], marks.get((*key, name)))
    instance = make(cls, options, section, sources, registry)
    return type(choice).model_validate({**_general(choice), **all_options(instance, options)})


def _general(choice: Choice) -> dict[str, Any]:
    """The name, and the options that every part of the section has."""
    return {field: getattr(choice, field) for field in type(choice).model_fields}


def _anchor_top(tree: dict[str, Any], marks: Mapping[Key, Setting]) -> None:
    tree.setdefault("output", Config.model_fields["output"].default)
    tree["output"] = _anchored(tree["output"], marks.get(("output",)))
    if isinstance(tree.get("plugins"), list):
        tree["plugins"] = _anchored(tree["plugins"], marks.get(("plugins",)))
    weights = tree.get("weights")
    if isinstance(weights, str) and is_path(weights):
        tree["weights"] = _anchored(weights, marks.get(("weights",)))
    teacher, setting = tree.get("teacher"), marks.get(("teacher",))
    if isinstance(teacher, str) and Path(_anchored(teacher, setting)).exists():
        tree["teacher"] = _anchored(teacher, setting)


def _anchored(value: Any, setting: Setting | None) -> Any:
    """Text and lists of text as absolute paths, except for URLs; other values are left for validation."""
    base = setting.base if setting else Path.cwd()
    if isinstance(value, str) and "://" in value:
        return value
    if isinstance(value, list):
        return [_anchored(item, setting) for item in value]
    return os.path.normpath(base / Path(value).expanduser()) if isinstance(value, str) else value
