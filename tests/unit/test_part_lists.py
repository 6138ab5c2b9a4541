"""Sections of the config that list parts: items by name, with options, from every source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest

from ftkit.config.json_schema import json_schema
from ftkit.config.load import Resolved, build, resolve, to_yaml
from ftkit.errors import RequestError
from tests.models import Registry

PLUGIN = '''
from dataclasses import dataclass
from pathlib import Path

from ftkit.api import BatchTransform, RequestError, hookimpl


@dataclass(frozen=True, kw_only=True)
class Mix(BatchTransform):
    """A mixture of two images."""

    alpha: float
    kind: str = "beta"

    def apply(self, images, targets, generator):
        return images, targets


@dataclass(frozen=True)
class Cut(BatchTransform):
    size: int = 3
    masks: Path | None = None

    def __post_init__(self):
        if self.size < 1:
            raise RequestError("size is too small")

    def apply(self, images, targets, generator):
        return images, targets


@hookimpl
def ftkit_batch_transforms():
    return {"mix": Mix, "cut": Cut}
'''
FILE = "plugins: [my.py]\nbatch_transforms:\n  - my/cut\n  - name: my/mix\n    alpha: 2\n    kind: 007\n"
CUT = {"name": "my/cut", "size": 3, "masks": None}
MIX = {"name": "my/mix", "alpha": 2.0, "kind": "007"}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.py").write_text(PLUGIN)
    (tmp_path / "ftkit.yaml").write_text(FILE)
    return tmp_path


def listed(resolved: Resolved) -> list[dict[str, Any]]:
    """The options of each item, without those that every batch transform has."""
    own = {"name", "size", "masks", "alpha", "kind"}
    return [choice.model_dump(mode="json", include=own) for choice in resolved.config.batch_transforms]


def test_items_get_every_option_and_keep_their_order_and_place() -> None:
    resolved = resolve()
    assert listed(resolved) == [CUT, MIX]
    assert resolved.sources["batch_transforms.1.alpha"] == "ftkit.yaml:5"
    cut, mix = build(resolved, "batch_transforms")
    assert (cut.size, mix.alpha, mix.kind) == (3, 2.0, "007")


def test_a_written_config_is_read_back_equal(folder: Path) -> None:
    resolved = resolve()
    (folder / "again.yaml").write_text(to_yaml(resolved.config))
    assert resolve(folder / "again.yaml").config == resolved.config


@pytest.mark.parametrize(
    ("sets", "now"),
    [
        (["batch_transforms=[]"], []),
        (["batch_transforms=my/cut"], [CUT]),
        (["batch_transforms=[my/cut, {name: my/cut, size: 5}]"], [CUT, {**CUT, "size": 5}]),
        (["batch_transforms.1.alpha=0.5"], [CUT, {**MIX, "alpha": 0.5}]),
        (["batch_transforms.my/mix.alpha=0.5"], [CUT, {**MIX, "alpha": 0.5}]),
        (["batch_transforms.1=my/cut"], [CUT, CUT]),
        (["batch_transforms.2=my/cut", "batch_transforms.2.size=7"], [CUT, MIX, {**CUT, "size": 7}]),
        (["batch_transforms=[my/cut, my/cut]", "batch_transforms=[my/cut]"], [CUT]),
    ],
)
def test_set_replaces_the_list_or_reaches_into_it(sets: list[str], now: list[dict[str, Any]]) -> None:
    assert listed(resolve(sets=sets)) == now


def test_flags_environment_and_python_values_give_lists_too(folder: Path) -> None:
    flags = {"batch_transforms": ("--batch-transform", ["my/cut"])}
    assert listed(resolve(None, flags, ["batch_transforms.0.size=9"])) == [{**CUT, "size": 9}]
    assert listed(resolve(env={"FTKIT_BATCH_TRANSFORMS__0__SIZE": "4"})) == [{**CUT, "size": 4}, MIX]
    given = {"batch_transforms": ("batch_transforms", ({"name": "my/cut", "masks": Path("m")},))}
    assert listed(resolve(None, given)) == [{**CUT, "masks": str(folder / "m")}]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("batch_transforms.1.alpha=x", "--set batch_transforms.1.alpha: must be a number, not 'x'"),
        ("batch_transforms.0.sise=1", "--set batch_transforms.0.sise: unknown key, did you mean 'size'?"),
        (
            "batch_transforms=[my/mix]",
            "batch_transforms.0.alpha: missing, give it with --set batch_transforms.0.alpha=",
        ),
        (
            "batch_transforms=[my/mx]",
            "--set batch_transforms: unknown batch transform 'my/mx' (did you mean 'my/mix'?)",
        ),
        ("batch_transforms=[{size: 3}]", "--set batch_transforms: batch_transforms.0: the item has no name"),
        ("batch_transforms.5.size=1", "--set batch_transforms.5.size: the list has no such item"),
        ("batch_transforms.my/mx.alpha=1", "--set batch_transforms.my/mx.alpha: batch_transforms has no items of that"),
        ("batch_transforms=5", "--set batch_transforms: must be a list, not 5"),
        ("batch_transforms=[5]", "--set batch_transforms: batch_transforms.0: must be a mapping, not 5"),
        ("batch_transforms.0.size=0", "size is too small"),
    ],
)
def test_a_wrong_item_is_named_in_one_line(given: str, says: str) -> None:
    with pytest.raises(RequestError) as caught:
        resolve(sets=[given])
    assert says in str(caught.value)


def test_the_schema_has_the_names_and_options_of_items(folder: Path) -> None:
    schema = json_schema(Registry((folder / "my.py",)))
    for good in (["my/cut"], [{"name": "my/mix", "alpha": 1}, "my/cut"], []):
        jsonschema.validate({"batch_transforms": good}, schema)
    for bad in (["my/mix"], ["cut"], [{"name": "my/cut", "alpha": 1}]):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"batch_transforms": bad}, schema)
