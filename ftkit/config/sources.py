"""Settings from file, environment and flags, merged; later layers override earlier ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ftkit.config.choices import CHOICES, KEY_PEERS, LISTS
from ftkit.config.problems import place
from ftkit.config.schema import Config, shared_options
from ftkit.config.yaml_file import Setting, read_text
from ftkit.errors import RequestError, nearest

PREFIX = "FTKIT_"
RESERVED = (
    "FTKIT_CACHE_DIR",
    "FTKIT_DEBUG",
    "FTKIT_DISABLE_PLUGINS",
    "FTKIT_MAX_IMAGE_PIXELS",
    "FTKIT_PLUGIN_TIMEOUT",
    "FTKIT_STRICT_PLUGINS",
)
"""Variables that aren't keys of the config."""
TEST_PREFIX = "FTKIT_TEST_"

BY_DATA = ("label_map",)
"""Sections whose keys are class names, which may have dots and capitals."""

_SECTIONS = (*CHOICES, *LISTS, "preprocessing", "group_lr", "checkpoint", "plugins")

Key = tuple[str, ...]


def from_env(env: Mapping[str, str]) -> list[Setting]:
    """`FTKIT_EPOCHS=3`, and `FTKIT_OPTIMIZER__LR=0.1` for a key in a section.

    Raises:
        RequestError: A variable that starts with `FTKIT_` isn't a key of the config.
    """
    found: list[Setting] = []
    for name in sorted(env):
        if not name.startswith(PREFIX) or name in RESERVED or name.startswith(TEST_PREFIX):
            continue
        key = _key_of(name)
        if key[0] not in Config.model_fields:
            raise _unknown_variable(name, key[0])
        found += read_text(env[name], key, name, Path.cwd())
    return found


def from_flags(flags: Mapping[str, tuple[str, Any]], sets: Sequence[str]) -> list[Setting]:
    """Flags by config key, then `--set KEY=VALUE` in order."""
    found: list[Setting] = []
    for dotted, (flag, value) in flags.items():
        found += _spread(tuple(dotted.split(".")), value, flag)
    for item in sets:
        dotted, equals, text = item.partition("=")
        dotted = dotted.strip()
        first, dot, name = dotted.partition(".")
        key = (first, name) if dot and first in BY_DATA else tuple(dotted.split("."))
        if not equals or not all(key):
            raise RequestError(f"--set {item}: not KEY=VALUE", "write it like --set optimizer.lr=0.01")
        found += read_text(text, key, f"--set {dotted}", Path.cwd())
    return found


def merge(layers: Iterable[Sequence[Setting]]) -> tuple[dict[str, Any], dict[Key, Setting]]:
    """The merged config as plain values, and the setting of each leaf.

    A layer that names another part in a section drops the options of earlier layers, except for `shared_options`.
    """
    tree: dict[str, Any] = {name: {"name": Config.model_fields[name].get_default().name} for name in CHOICES}
    marks: dict[Key, Setting] = {}
    for layer in layers:
        latest = _latest(layer)
        for key in sorted(latest, key=_names_first):
            _put(tree, marks, _by_index(tree, key, latest[key]), latest[key])
    for name in LISTS:
        if isinstance(tree.get(name), dict):
            tree[name] = _items(name, tree[name], marks)
    return tree, marks


def _latest(layer: Sequence[Setting]) -> dict[Key, Setting]:
    """The last setting of each key; a list of parts replaces an earlier one whole."""
    latest: dict[Key, Setting] = {}
    for given in layer:
        if _is_empty_section(given):
            continue
        for setting in _expanded(given):
            key = _full_key(setting)
            if len(key) == 1 and key[0] in LISTS:
                latest = {k: s for k, s in latest.items() if k[0] != key[0]}
            latest[key] = setting
    return latest


def _expanded(setting: Setting) -> list[Setting]:
    """A list of parts as a setting for the list and one for each option in it; any other setting as it is."""
    value, text = setting.value, setting.text
    if len(setting.key) != 1 or setting.key[0] not in LISTS or not isinstance(value, str | Mapping | list | tuple):
        return [setting]
    if isinstance(value, str | Mapping):
        value, text = [value], [text]
    texts = text if isinstance(text, list) else [None] * len(value)
    found = [replace(setting, value=[], text=None)]
    for index, (item, written) in enumerate(zip(value, texts, strict=True)):
        key = (*setting.key, str(index))
        if isinstance(item, Mapping):
            inner = written if isinstance(written, Mapping) else {}
            found += [replace(setting, key=(*key, str(k)), value=v, text=inner.get(k)) for k, v in item.items()]
        else:
            found.append(replace(setting, key=key, value=item, text=written))
    return found


def _by_index(tree: Mapping[str, Any], key: Key, setting: Setting) -> Key:
    """The key with an item's name replaced by its index: `batch_transforms.mixup.alpha` names an item of the list."""
    if key[0] not in LISTS or len(key) == 1:
        return key
    if key[1].isascii() and key[1].isdecimal():
        return (key[0], str(int(key[1])), *key[2:])
    items = tree.get(key[0])
    found = [i for i, item in items.items() if item.get("name") == key[1]] if isinstance(items, dict) else []
    if len(found) == 1:
        return (key[0], found[0], *key[2:])
    dotted = ".".join(key[:2])
    raise RequestError(
        f"{place({dotted: setting.where}, dotted)}: {key[0]} has {len(found) or 'no'} items of that name",
        f"write {key[0]} as a list of names, or of mappings of name and options"
        if not found
        else f"give the item's index, from 0: {key[0]}.0",
    )


def _items(section: str, items: Mapping[str, Any], marks: Mapping[Key, Setting]) -> list[Any]:
    sources = {".".join(key): setting.where for key, setting in marks.items()}
    for index in sorted(items, key=int):
        key = f"{section}.{index}"
        if int(index) >= len(items):
            raise RequestError(f"{place(sources, key)}: the list has no such item", "indices start from 0")
        if isinstance(items[index], dict) and "name" not in items[index]:
            raise RequestError(f"{place(sources, key)}: the item has no name", f"give it: {key}.name")
    return [items[str(index)] for index in range(len(items))]


def _key_of(variable: str) -> Key:
    """The key of a variable, in lower case except for class names."""
    first, *rest = variable.removeprefix(PREFIX).split("__")
    first = first.lower()
    return (first, "__".join(rest)) if rest and first in BY_DATA else (first, *map(str.lower, rest))


def _spread(key: Key, value: Any, flag: str) -> list[Setting]:
    if isinstance(value, Mapping) and key[0] not in LISTS:
        return [s for name, item in value.items() for s in _spread((*key, str(name)), item, flag)]
    value = str(value) if isinstance(value, Path) else value
    text = value if isinstance(value, str) else None
    return [Setting(key, value, flag, Path.cwd(), text)]


def _unknown_variable(name: str, key: str) -> RequestError:
    close = nearest(key, [*Config.model_fields, *KEY_PEERS])
    spelled = PREFIX + KEY_PEERS.get(close, close).replace(".", "__").upper() if close else None
    hint = f"did you mean {spelled}?" if spelled else "see `ftkit config show` for the keys"
    return RequestError(f"{name}: unknown variable", hint)


def _full_key(setting: Setting) -> Key:
    first, depth = setting.key[0], len(setting.key)
    bare = ((first in CHOICES and depth == 1) or (first in LISTS and depth == 2)) and isinstance(setting.value, str)
    return (*setting.key, "name") if bare else setting.key


def _is_empty_section(setting: Setting) -> bool:
    """Whether a section is empty, such as `preprocessing:` with every line under it commented out."""
    return setting.value is None and len(setting.key) == 1 and setting.key[0] in _SECTIONS


def _names_first(key: Key) -> tuple[bool, bool, int]:
    return not (key[0] in LISTS and len(key) == 1), not (_names_parts(key) and key[-1] == "name"), len(key)


def _names_parts(key: Key) -> bool:
    return key[0] in CHOICES or key[0] in LISTS


def _put(tree: dict[str, Any], marks: dict[Key, Setting], key: Key, setting: Setting) -> None:
    inside: dict[str, Any] = tree
    for depth, part in enumerate(key[:-1], 1):
        below = inside.get(part)
        if isinstance(below, str) and _names_parts(key):
            inside[part] = {"name": below}
        elif not isinstance(below, dict):
            inside[part] = {}
            marks.pop(key[:depth], None)
        inside = inside[part]
    last = key[-1]
    if last == "name" and _names_parts(key) and _differs(inside.get("name"), setting.value):
        _forget(marks, key[:-1], inside, keep=shared_options(key[0]))
    elif isinstance(inside.get(last), dict):
        _forget(marks, key, {}, keep=())
    is_list = len(key) == 1 and key[0] in LISTS and setting.value == []
    inside[last] = {} if is_list else setting.value
    marks[key] = setting


def _differs(old: object, new: object) -> bool:
    def fold(name: object) -> str:
        return str(name).lower().replace("_", "-")

    return fold(old) != fold(new)


def _forget(marks: dict[Key, Setting], section: Key, place: dict[str, Any], keep: tuple[str, ...]) -> None:
    for name in [n for n in place if n not in keep]:
        del place[name]
    for key in [k for k in marks if k[: len(section)] == section and k[len(section) :][:1] not in [(n,) for n in keep]]:
        del marks[key]
