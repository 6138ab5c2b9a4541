"""Reading YAML with the line of each key and the source text of each value, and writing it.

Scalars are read as in YAML 1.2: `1e-3` is a number, and `no`, `off`, `1:30` and `2024-01-01` are text. Only the safe
loader is used.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import yaml

from ftkit.config.choices import LISTS
from ftkit.errors import RequestError
from ftkit.files.file_kinds import HEAD, kind_of_bytes, kind_of_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PLAIN_TYPES = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
)


@dataclass(frozen=True)
class Setting:
    """One value from a file, variable or flag.

    Attributes:
        key: Path to it from the top of the config. Items of a list of parts have their index in it.
        where: Its source: `ftkit.yaml:12`, `FTKIT_EPOCHS`, `--epochs`, `--set epochs`.
        base: Folder that relative paths in the value are relative to.
        text: The source text; for a list, or a mapping in a list, texts in the same shape. None if there is none.
    """

    key: tuple[str, ...]
    value: Any
    where: str
    base: Path
    text: Any = None


_TOML = re.compile(r"^[ \t]*(\[[\w.-]+\]|[\w.-]+[ \t]*=[ \t]*\S.*)[ \t]*$", re.MULTILINE)
_YAML = re.compile(r"^[ \t]*(['\"]?[\w.-]+['\"]?[ \t]*:|[-{])", re.MULTILINE)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(
                problem=f"*{event.anchor} refers to another value; write the value out", problem_mark=event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        return int(node.value, 16 if node.value.startswith("0x") else 10)


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.1 or 1.2 would read as another type."""

    def represent_list(self, data: Any) -> yaml.SequenceNode:
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=True)

    def ignore_aliases(self, data: Any) -> bool:
        return True


# Text that YAML 1.1 (`y`) or 1.2 (`0o7`) reads as another type.
_Dumper.add_implicit_resolver("tag:ftkit,2026:other", re.compile(r"(?:[yYnN]|[-+]?0o[0-7]+)\Z"), list("yYnN-+0"))
for _name, _pattern, _first in _PLAIN_TYPES:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(rf"(?:{_pattern})\Z"), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Dumper.add_representer(list, _Dumper.represent_list)


def read_file(path: Path) -> list[Setting]:
    """The settings of a config file, one per value, in order.

    Raises:
        RequestError: The file can't be read, isn't a YAML mapping, or has a duplicate key.
    """
    name, text = f"{path}:", _text_of(path)
    _require_yaml(path, text)
    root = _compose(text, name)
    if root is None or _is_null(root):
        return []
    if not isinstance(root, yaml.MappingNode):
        raise RequestError(f"{path}: not a mapping of keys to values", "write lines such as `epochs: 10`")
    return list(_settings(root, (), name, path.absolute().parent))


def read_text(text: str, key: tuple[str, ...], where: str, base: Path) -> list[Setting]:
    """The settings of a flag or variable, whose text is YAML: `0.1`, `[0.9, 0.99]`, `{name: csv, path: a.csv}`."""
    try:
        node = _compose(text, where)
    except RequestError:
        if text[:1] in "[{\"'":
            raise
        node = None
    if isinstance(node, yaml.MappingNode) and node.flow_style:
        return [Setting(s.key, s.value, where, base, s.text) for s in _settings(node, key, where, base)]
    if node is None or not _is_inline(node, text.strip()):
        # Other YAML, and what isn't YAML, is plain text: a|b, |, #, - and names with colons.
        return [Setting(key, text or None, where, base, text)]
    value, texts = _value(node, where)
    if isinstance(value, str) and isinstance(node, yaml.ScalarNode) and node.style is None:
        value = text  # including what would be a comment in a file
    return [Setting(key, value, where, base, texts if isinstance(value, list) else text)]


def _is_inline(node: yaml.Node, text: str) -> bool:
    """Whether a value is a flow list, or a scalar that is quoted or written as it is: no block, tag or comment."""
    if isinstance(node, yaml.ScalarNode):
        return text[:1] in ("'", '"') or node.value == text
    return isinstance(node, yaml.SequenceNode) and bool(node.flow_style)


def dump(data: dict[str, Any]) -> str:
    """YAML with block mappings and flow lists, keys in order."""
    return str(yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000))


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        kind = kind_of_file(path)
        told = f"it is {kind}" if kind else "not a text file in UTF-8"
        raise RequestError(
            f"{path}: {told}", "save it as text in UTF-8" if kind == "text in UTF-16" else None
        ) from None
    except FileNotFoundError:
        raise RequestError(f"{path}: no such file", "give the path of a config file, or run `ftkit init`") from None
    except OSError as error:
        raise RequestError(f"{path}: can't be read: {error.strerror}") from None


def _require_yaml(path: Path, text: str) -> None:
    """Refuse files of other formats with a better message than the YAML parser's."""
    kind = kind_of_bytes(text[:HEAD].encode("utf-8", "surrogatepass"))
    if kind in ("an HTML page", "an XML file", "a git-lfs pointer"):
        raise RequestError(f"{path}: it is {kind}, not YAML", "give a config file as `ftkit init` writes it")
    if _TOML.search(text) and not _YAML.search(text):
        raise RequestError(f"{path}: it is TOML by its look, not YAML", "write `key: value` in place of `key = value`")


def _compose(text: str, name: str) -> yaml.Node | None:
    try:
        loader = _Loader(text)
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise RequestError(f"{_at(name, mark)}: not valid YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise RequestError(f"{_at(name, None)}: not valid YAML: {' '.join(str(error).split())}") from None


def _settings(node: yaml.MappingNode, prefix: tuple[str, ...], name: str, base: Path) -> Iterator[Setting]:
    for key, key_node, value_node in _pairs(node, prefix, name):
        yield from _settings_of(value_node, (*prefix, key), name, _at(name, key_node.start_mark), base)


def _settings_of(node: yaml.Node, key: tuple[str, ...], name: str, where: str, base: Path) -> Iterator[Setting]:
    if isinstance(node, yaml.MappingNode):
        yield from _settings(node, key, name, base)
    elif isinstance(node, yaml.SequenceNode) and len(key) == 1 and key[0] in LISTS:
        yield Setting(key, [], where, base)
        for index, item in enumerate(node.value):
            yield from _settings_of(item, (*key, str(index)), name, _at(name, item.start_mark), base)
    else:
        value, text = _value(node, where)
        yield Setting(key, value, where, base, text)


def _pairs(node: yaml.MappingNode, prefix: tuple[str, ...], name: str) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
    """The keys of a mapping as text, with the nodes of keys and values."""
    lines: dict[str, int] = {}
    for key_node, value_node in node.value:
        where = _at(name, key_node.start_mark)
        if not isinstance(key_node, yaml.ScalarNode):
            raise RequestError(f"{where}: a key must be plain text")
        key = str(key_node.value)
        if key in lines:
            dotted = ".".join((*prefix, key))
            raise RequestError(f"{where}: {dotted}: given twice, first in line {lines[key]}", "keep one of them")
        lines[key] = key_node.start_mark.line + 1
        yield key, key_node, value_node


def _value(node: yaml.Node, where: str) -> tuple[Any, Any]:
    """The value of a node, and the source text of its scalars in the same shape."""
    if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
        items = [_value(item, where) for item in node.value]
        return [value for value, _ in items], [text for _, text in items]
    if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
        pairs = {key: _value(value, where) for key, _, value in _pairs(node, (), where)}
        return {key: value for key, (value, _) in pairs.items()}, {key: text for key, (_, text) in pairs.items()}
    try:
        value = _Loader("").construct_document(node)
    except (yaml.YAMLError, ValueError) as error:
        problem = error.problem if isinstance(error, yaml.MarkedYAMLError) else str(error)
        raise RequestError(f"{where}: not a plain value: {problem}") from None
    return value, node.value if isinstance(node, yaml.ScalarNode) else None


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def _at(name: str, mark: yaml.Mark | None) -> str:
    """The source in messages: files are called `name:` and get the line number, flags and variables don't."""
    return f"{name}{mark.line + 1}" if name.endswith(":") and mark else name.rstrip(":")
