"""Whatever is a name keeps its text: classes, label maps, options, paths; from every source, there and back."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal, TypedDict

import pytest
import yaml

import ftkit
from ftkit.config.load import resolve, to_yaml
from ftkit.config.source_text import as_typed
from ftkit.config.yaml_file import Setting, read_text
from ftkit.errors import RequestError
from tests.conftest import MakeFolder, typed

NAMES = (
    "01", "1", "1.0", "no", "No", "on", "off", "yes", "y", "n", "null", "Null", "~", "1e3", "0x10", "0o7", "1_000",
    "12:30:00", "1:30", "2026-01-01", "0.5", "+1", "-1", "NaN", "true", "FALSE", "=", "<<", "a: b", "#1", "a #b", "- a",
    "x y", "caf\u00e9", "[x]", "{y}", "'q'", '"d"', "!t", "&a", "*a", "%x", "@x", "`x", "a,b", "|", ">", "?",
    "infinity", "\U0001f41c", "a.b", "None",
)  # fmt: skip
PLAIN = (
    "01", "1", "1.0", "no", "on", "null", "~", "1e3", "0x10", "0o7", "1_000", "12:30:00", "2026-01-01", ".5", "NaN",
    ".nan", "true", "yes", "-1", "+1", ".inf",
)  # fmt: skip
"""Names that people write without quotes."""


def images(root: Path, names: Sequence[str], image_folder: MakeFolder) -> Path:
    image_folder(root, {"train": dict.fromkeys(names, 2), "val": dict.fromkeys(names, 1)}, (8, 8))
    return root


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_scalar_is_a_name_in_lists_and_maps_by_file_flag_and_environment(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "c.yaml"
    file.write_text(f"classes: [{name}, b]\nlabel_map: {{{name}: {name}, b: c}}\nname: x{name}\n")
    block = tmp_path / "b.yaml"
    block.write_text(f"classes:\n- {name}\n- b\nlabel_map:\n  {name}: {name}\n  b: c\nname: x{name}\n")
    sets = [f"classes=[{name}, b]", f"label_map={{{name}: {name}, b: c}}"]
    env = {"FTKIT_CLASSES": f"[{name}, b]", "FTKIT_LABEL_MAP": f"{{{name}: {name}, b: c}}"}
    one_by_one = [f"classes=[{name},b]", f"label_map.{name}={name}", "label_map.b=c"]
    given: tuple[dict[str, Any], ...] = (
        {"file": file}, {"file": block}, {"sets": sets}, {"env": env}, {"sets": one_by_one},
    )  # fmt: skip
    for source in given:
        config = resolve(**source).config
        assert (config.classes, config.label_map) == ((name, "b"), {name: name, "b": "c"}), source


def test_a_name_in_the_environment_keeps_its_case() -> None:
    assert resolve(env={"FTKIT_LABEL_MAP__Ants": "001"}).config.label_map == {"Ants": "001"}


def test_where_null_is_a_value_it_is_one_and_an_empty_place_is_no_name() -> None:
    assert resolve(sets=["classes=null", "name=~", "weights=null"]).config.classes is None
    assert resolve(sets=["name='null'"]).config.name == "null"
    with pytest.raises(RequestError, match=r"--set label_map: label_map.a: must be text, not null"):
        resolve(sets=["label_map={a: , b: c}"])


@pytest.mark.parametrize("key", ["name", "output", "cache.dir", "backbone"])
@pytest.mark.parametrize("text", ["007", "1e3", "2026-01-01", "true"])
def test_single_values_that_are_text_keep_it_in_sections_too(key: str, text: str) -> None:
    if key == "backbone":
        with pytest.raises(RequestError, match=re.escape(f"unknown backbone {text!r}")):
            resolve(sets=[f"{key}={text}"])
        return
    config = resolve(sets=[f"{key}={text}"]).config
    value = config.cache.dir if key == "cache.dir" else getattr(config, key)
    assert Path(str(value)).name == text


class _Colour(Enum):
    ONE = "01"


class _Typed(TypedDict):
    a: str
    b: int


@dataclass(frozen=True)
class _Inner:
    x: str
    y: float = 0.0


@dataclass(frozen=True)
class _Options:
    one: str = ""
    some: Sequence[str] = ()
    pairs: tuple[str, int] = ("", 0)
    table: Mapping[str, str] = field(default_factory=dict)
    lists: Mapping[str, list[str]] = field(default_factory=dict)
    deep: list[list[str]] = field(default_factory=list)
    maps: list[dict[str, str]] = field(default_factory=list)
    literal: Literal["1", "no"] = "1"
    mixed: Literal["1", 2] = "1"
    number: int = 0
    either: int | str = 0
    path: Path | None = None
    enum: _Colour = _Colour.ONE
    typed: _Typed | None = None
    inner: tuple[_Inner, ...] = ()


@pytest.mark.parametrize(
    ("option", "text", "expected"),
    [
        ("one", "01", "01"),
        ("one", "~", "~"),
        ("some", "[01, no, 1e3, null]", ["01", "no", "1e3", "null"]),
        ("pairs", "[01, 01]", ["01", 1]),
        ("table", "{1: 001, on: 0x10}", {"1": "001", "on": "0x10"}),
        ("lists", "{a: [01, 2]}", {"a": ["01", "2"]}),
        ("deep", "[[01], [1.0, ~]]", [["01"], ["1.0", "~"]]),
        ("maps", "[{1: 02}]", [{"1": "02"}]),
        ("literal", "1", "1"),
        ("mixed", "2", 2),
        ("mixed", "1", "1"),
        ("number", "01", 1),
        ("either", "01", 1),
        ("path", "01", "01"),
        ("path", "null", None),
        ("enum", "01", "01"),
        ("typed", "{a: 01, b: 02}", {"a": "01", "b": 2}),
        ("inner", "[{x: 01, y: 1e3}]", [{"x": "01", "y": 1000.0}]),
    ],
)
def test_the_type_of_an_option_decides(option: str, text: str, expected: object) -> None:
    """Of an option of a plugin, whatever its annotation is made of."""

    def tree(settings: list[Setting]) -> tuple[Any, Any]:
        value: dict[str, Any] = {}
        texts: dict[str, Any] = {}
        for one in settings:
            at, text_at = value, texts
            for part in one.key[:-1]:
                at, text_at = at.setdefault(part, {}), text_at.setdefault(part, {})
            at[one.key[-1]], text_at[one.key[-1]] = one.value, one.text
        return value, texts

    value, texts = tree(read_text(text, (option,), "--set", Path()))
    assert as_typed(value, texts, _Options) == {option: expected}


def test_a_key_twice_is_reported_inside_a_list_too() -> None:
    with pytest.raises(RequestError, match="a: given twice"):
        resolve(sets=["tracker=[{a: 1, a: 2}]"])


def test_nasty_class_names_survive_init_train_its_config_and_training_again(
    tmp_path: Path, image_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = images(tmp_path / "2026-01-01", NAMES, image_folder)
    assert typed("init", "p", "--data", str(data), cwd=tmp_path).returncode == 0
    kept = yaml.safe_load((tmp_path / "p" / "ftkit.yaml").read_text(encoding="utf-8"))
    assert kept["dataset"]["root"] == str(data), "other readers of YAML see the same path"
    used, targets = NAMES[:20], {name: f"{number:03}" for number, name in enumerate(NAMES[:20])}
    common: dict[str, Any] = {
        "backbone": "lenet",
        "weights": "none",
        "strategy": "scratch",
        "epochs": 0,
        "device": "cpu",
    }
    plan = ftkit.plan(dataset={"name": "folder", "root": str(data)}, name="007", classes=used, **common)
    run = ftkit.train(plan).run
    assert run.path.name == "007"
    assert ftkit.load(run.model).classes == used
    for loader in (yaml.SafeLoader, yaml.BaseLoader):
        assert tuple(yaml.load(run.config.read_text(encoding="utf-8"), loader)["classes"]) == used
    assert resolve(run.config).config.model_dump(exclude={"name"}) == plan.config.model_dump(exclude={"name"})
    shutil.copy(run.config, tmp_path / "again.yaml")
    again = typed("train", "-c", "again.yaml", "--name", "1e3", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert resolve(tmp_path / "runs" / "1e3" / "config.yaml").config.classes == used
    mapped = ftkit.plan(dataset={"name": "folder", "root": str(data)}, classes=used, label_map=targets, **common)
    (tmp_path / "mapped.yaml").write_text(to_yaml(mapped.config), encoding="utf-8")
    assert resolve(tmp_path / "mapped.yaml").config == mapped.config
    assert yaml.safe_load(to_yaml(mapped.config))["label_map"] == targets


def test_written_names_are_the_same_for_readers_of_either_yaml() -> None:
    names = {name: name for name in NAMES}
    text = to_yaml(resolve(flags={"label_map": ("label_map", names)}).config)
    assert yaml.safe_load(text)["label_map"] == names, "YAML 1.1"
    block = text.partition("label_map:\n")[2].partition("\nbackbone:")[0]
    plain = {word.strip() for line in block.splitlines() for word in line.split(": ", 1)}
    assert not plain & {"01", "no", "y", "0o7", "1e3", "1_000", "12:30:00", "2026-01-01", "~", "null", "true"}
