"""Cached runs end as uncached ones, never use stale activations, and survive disk errors."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import ftkit
from ftkit import EpochDone, Listener, Outcome, resume
from ftkit.errors import RunInterrupted
from tests import inside
from tests.conftest import MakeFolder, RunFtkit
from tests.runs import Notes, cached_tables, json_lines, plan, records, tensors
from tests.stopping import StopAt

SETTINGS: dict[str, Any] = {
    "strategy": {"name": "gradual", "every": 2},
    "epochs": 6,
    "optimizer": {"name": "adamw", "lr": 0.01},
    "precision": "fp32",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> Path:
    layout = {"train": {"a": 40, "b": 30}, "val": {"a": 4, "b": 4}}
    return image_folder(tmp_path_factory.mktemp("data"), layout)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No `ftkit.yaml` but the test's own, and nothing cached before."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FTKIT_CACHE_DIR", str(tmp_path / "cache"))


def train(data: Path, name: str = "run", listener: Listener | None = None, **settings: Any) -> Outcome:
    return ftkit.train(plan(data, name, **(SETTINGS | settings)), listener)


def same(one: Path, other: Path) -> bool:
    pair = tensors(one), tensors(other)
    return all(torch.equal(pair[0][name], pair[1][name]) for name in pair[0]) and records(one) == records(other)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of rows written to tables, by call."""
    counts: list[int] = []
    inside.watch_cached_rows(monkeypatch, counts.append)
    return counts


QUICK, LONG = ("freeze", "gradual"), ("full", "freeze-unfreeze", "norms", "bias")
REFROZEN = {"name": "then", "first": "gradual", "second": "freeze", "at": 3}


@pytest.mark.parametrize(
    "strategy",
    [
        *QUICK,
        *(pytest.param(name, marks=pytest.mark.long) for name in LONG),
        pytest.param(REFROZEN, id="gradual, then freeze"),
    ],
)
def test_without_augmentation_it_ends_where_a_run_without_the_cache_ends(strategy: Any, data: Path) -> None:
    cached = train(data, "cached", strategy=strategy, augment="none")
    plain = train(data, "plain", strategy=strategy, augment="none", cache={"use": False})
    one, other = tensors(cached.run.path), tensors(plain.run.path)
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=1e-5, msg=name)
    for before, after in zip(records(cached.run.path), records(plain.run.path), strict=True):
        assert before["val_loss"] == pytest.approx(after["val_loss"], abs=1e-5)
        assert before["train_loss"] == pytest.approx(after["train_loss"], abs=1e-5)


TWICE = """
from dataclasses import dataclass
from ftkit.api import Strategy, hookimpl

@dataclass(frozen=True)
class Twice(Strategy):
    def lr_scales(self, epoch, epochs, groups):
        return dict.fromkeys(groups if epoch == 2 else groups[-1:], 1.0)

@hookimpl
def ftkit_strategies():
    return {"twice": Twice}
"""
"""The head, an epoch of everything, and the head again on what has become of the rest."""


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.long)])
def test_layers_frozen_again_after_training_are_computed_again(precision: str, data: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "twice.py"
    plugin.write_text(TWICE)
    settings: dict[str, Any] = {
        "plugins": [str(plugin)],
        "strategy": "twice/twice",
        "augment": "none",
        "epochs": 5,
        "precision": precision,
    }
    cached = train(data, "cached", **settings)
    plain = train(data, "plain", **settings, cache={"use": False})
    tables = [entry["description"] for entry in cached_tables()]
    assert len(tables) == 4, "of two sets of weights"
    one, other = (records(outcome.run.path) for outcome in (cached, plain))
    off = 1e-5 if precision == "fp32" else 0.01
    for before, after in zip(one, other, strict=True):
        assert before["val_loss"] == pytest.approx(after["val_loss"], abs=off)
        assert before["train_loss"] == pytest.approx(after["train_loss"], abs=off)
        assert before["weight_drift"] == pytest.approx(after["weight_drift"], abs=off)
    assert one[2]["weight_drift"]["layer3"] == one[4]["weight_drift"]["layer3"] > 0
    assert one[1]["weight_drift"]["layer3"] == 0


def test_as_many_cached_augmentations_as_epochs_are_the_images_of_a_run_without_the_cache_but_the_first(
    data: Path,
) -> None:
    changes: dict[str, Any] = {"strategy": "freeze", "epochs": 3, "optimizer": {"name": "sgd", "lr": 1e-12}}
    cached = train(data, "cached", cache={"augmentations": 2}, **changes)
    plain = train(data, "plain", cache={"use": False}, **changes)
    one, other = records(cached.run.path), records(plain.run.path)
    assert one[1]["train_loss"] == pytest.approx(other[1]["train_loss"], abs=1e-6)
    assert one[0]["train_loss"] == pytest.approx(one[2]["train_loss"], abs=1e-6)
    assert one[0]["train_loss"] != pytest.approx(other[0]["train_loss"], abs=1e-6)


def test_one_pass_over_each_augmentation_fills_all_phases_and_the_next_run_needs_none(
    data: Path, computed: list[int]
) -> None:
    train(data, "first", cache={"augmentations": 2})
    assert sum(computed) == 2 * 70 * 3 + 8 * 3
    computed.clear()
    train(data, "second", cache={"augmentations": 2})
    assert computed == []
    train(data, "another-strategy", strategy="freeze", cache={"augmentations": 2})
    assert computed == []
    assert same(Path("runs", "first"), Path("runs", "second"))


@pytest.mark.parametrize(
    "change",
    ["image", "weights", *(pytest.param(c, marks=pytest.mark.long) for c in ("preprocessing", "augmentation", "seed"))],
)
def test_changes_are_computed_again(change: str, data: Path, tmp_path: Path, computed: list[int]) -> None:
    own = shutil.copytree(data, tmp_path / "own")
    settings: dict[str, Any] = {"strategy": "freeze", "epochs": 4, "cache": {"augmentations": 2}}
    train(own, "first", **settings)
    computed.clear()
    if change == "image":
        one, other = sorted((own / "train" / "a").iterdir())[:2]
        os.utime(shutil.copyfile(other, one), ns=(1, 1))
    changes: dict[str, dict[str, Any]] = {
        "preprocessing": {"preprocessing": {"mean": [0.4, 0.4, 0.4]}},
        "augmentation": {"augment": "standard"},
        "seed": {"seed": 1},
        "weights": {"weights": "runs/first", "keep_head": True},
    }
    settings |= changes.get(change, {})
    if change == "weights":
        train(own, "other", strategy="full", epochs=1)
        settings["weights"] = "runs/other"
        computed.clear()
    after = train(own, "second", **settings)
    # Of a changed image or augmentation, the validation images are still the same.
    assert sum(computed) == {"image": 140, "augmentation": 70}.get(change, 148)
    shutil.rmtree(tmp_path / "cache")
    train(own, "fresh", **settings)
    assert same(after.run.path, Path("runs", "fresh"))


@pytest.mark.parametrize("step", [14, *(pytest.param(step, marks=pytest.mark.long) for step in (3, 30, 50))])
def test_a_stopped_run_resumes_to_the_same_end_with_or_without_the_cached_tables(
    step: int, data: Path, tmp_path: Path
) -> None:
    whole = train(data, "whole")
    for name in ("kept", "lost"):
        shutil.rmtree(tmp_path / "cache" / "activations")
        with pytest.raises(RunInterrupted):
            train(data, name, StopAt(step))
        if name == "lost":
            shutil.rmtree(tmp_path / "cache" / "activations")
        resume(Path("runs", name))
        assert same(Path("runs", name), whole.run.path)


def test_a_signal_while_it_is_filled_leaves_what_was_computed(
    data: Path, computed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        inside.watch_cached_rows(patch, after=lambda rows: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(RunInterrupted, match="nothing was trained yet"):
            train(data, "run", strategy="freeze")
    resume(Path("runs", "run"))
    train(data, "whole", strategy="freeze")
    assert same(Path("runs", "run"), Path("runs", "whole"))


def test_a_damaged_row_is_computed_again(data: Path, tmp_path: Path, computed: list[int]) -> None:
    first = train(data, "first", strategy="freeze")
    computed.clear()
    for table in (tmp_path / "cache" / "activations").glob("*/data"):
        content = bytearray(table.read_bytes())
        content[7] ^= 1
        table.write_bytes(content)
    second = train(data, "second", strategy="freeze")
    assert same(first.run.path, second.run.path)
    assert computed
    assert set(computed) <= {64, 8}, "only the chunks that were damaged, the first of each table"


def test_if_the_disk_fails_the_run_continues_uncached_and_reports_it_once(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(data, "whole", augment="none")
    shutil.rmtree(tmp_path / "cache" / "activations")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    inside.watch_cached_rows(monkeypatch, full)
    messages = Notes()
    after = train(data, "after", messages, augment="none")
    (line,) = [line for line in messages.notes if "No space left" in line]
    assert str(tmp_path / "cache" / "activations") in line
    assert "computed in each epoch from now on" in line
    one, other = tensors(whole.run.path), tensors(after.run.path)
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=1e-5)


def test_a_cache_folder_that_cant_be_made_is_reported_and_the_run_trains(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    messages = Notes()
    train(data, "run", messages, strategy="freeze", epochs=2, cache={"dir": str(tmp_path / "file"), "augmentations": 1})
    assert [line for line in messages.notes if f"{tmp_path / 'file'}: Not a directory" in line]


def test_a_network_that_cant_be_cut_is_reported_and_trains(
    data: Path, monkeypatch: pytest.MonkeyPatch, computed: list[int]
) -> None:
    inside.refuse_every_cut(monkeypatch, "the parts don't give what the network gives")
    messages = Notes()
    train(data, "run", messages, strategy="freeze", epochs=2)
    assert [n for n in messages.notes if "epochs 1 to 2: nothing is cached: the parts don't give" in n]
    assert computed == []


class Breaks(Listener):
    """An image that breaks while the first epoch is evaluated."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def epoch_done(self, event: EpochDone) -> None:
        if event.record["epoch"] == 1:
            self.file.write_bytes(b"broken")


def test_an_image_that_breaks_before_its_augmentation_is_computed_is_skipped_and_listed(
    data: Path, tmp_path: Path
) -> None:
    own = shutil.copytree(data, tmp_path / "own")
    broken = sorted((own / "train" / "a").iterdir())[3]
    outcome = train(
        own, "run", Breaks(broken), strategy="freeze", epochs=4, on_bad_image="skip", cache={"augmentations": 2}
    )
    listed = json_lines(outcome.run.path / "bad-images.jsonl")
    assert [(line["file"], line["during_run"]) for line in listed] == [(str(broken), True)]
    assert len(outcome.records) == 4


def test_an_image_drawn_twice_has_another_augmentation_the_second_time(data: Path) -> None:
    settings: dict[str, Any] = {"balance": "sampler", "strategy": "freeze", "epochs": 4, "cache": {"augmentations": 2}}
    one = train(data, "one", **settings)
    two = train(data, "two", **settings)
    assert same(one.run.path, two.run.path)
    assert len(cached_tables()) == 2 + 1


def test_no_more_than_the_limit_is_cached(data: Path) -> None:
    messages = Notes()
    train(data, "run", messages, cache={"augmentations": 2, "limit": 100_000})
    sizes = [entry["bytes"] for entry in cached_tables()]
    assert 0 < sum(sizes) < 200_000, "with the blocks of the file system"
    assert [line for line in messages.notes if "would exceed the limit" in line]


def test_the_command_lists_and_clears_tables(data: Path, run_ftkit: RunFtkit, tmp_path: Path) -> None:
    environment = {"FTKIT_CACHE_DIR": str(tmp_path / "cache")}
    train(data, "run", strategy="freeze", epochs=2, cache={"augmentations": 1})
    found = json.loads(run_ftkit("cache", "list", "--json", env=environment).stdout)
    assert len(found) == 2
    assert {row["description"].partition(":")[0] for row in found} == {"cifar_resnet20 after mean"}
    assert "2 tables" in run_ftkit("cache", "list", env=environment).stdout
    assert "removed" in run_ftkit("cache", "clear", env=environment).stdout
    assert json.loads(run_ftkit("cache", "list", "--json", env=environment).stdout) == []


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--no-cache"], "nothing is cached: --no-cache"),
        (["--augment", "none"], "they would all be the same"),
        (["--strategy", "full"], "every layer group trains"),
        (["--set", "train_bn=true"], "train_bn"),
    ],
)
def test_cached_augmentations_without_effect_are_refused(
    flags: list[str], says: str, data: Path, run_ftkit: RunFtkit
) -> None:
    done = run_ftkit("plan", "--data", str(data), "--backbone", "lenet", "--cached-augmentations", "2", *flags)
    assert done.returncode == 2
    assert "--cached-augmentations has no effect" in done.stderr
    assert says in done.stderr


def test_the_plan_shows_what_is_cached_and_how_much_is_saved(data: Path, run_ftkit: RunFtkit) -> None:
    flags = [
        "--data",
        str(data),
        "--backbone",
        "resnet18",
        "--strategy",
        "freeze",
        "--cached-augmentations",
        "2",
        "--cache-dir",
        "x",
    ]
    shown = run_ftkit("plan", *flags).stdout
    assert "2 cached augmentations per image; frozen layers are computed 2 times instead of 11" in shown
    assert (
        run_ftkit("plan", *flags[:-4], "--no-cache").stdout.count(
            "off (--no-cache): frozen layers are computed in each epoch"
        )
        == 1
    )
