"""Evaluation with cached activations: the same metrics, no stale activations, and no failure on disk errors."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import ftkit
from ftkit.cli.main import main
from tests import inside
from tests.conftest import MakeFolder
from tests.runs import cached_tables, plan

SETTINGS: dict[str, Any] = {
    "epochs": 3,
    "augment": "none",
    "optimizer": {"name": "adamw", "lr": 0.01},
    "precision": "fp32",
}


@pytest.fixture
def data(tmp_path: Path, image_folder: MakeFolder) -> Path:
    classes = {"a": 40, "b": 30}
    return image_folder(tmp_path / "data", {"train": {"a": 9, "b": 9}, "val": {"a": 6, "b": 5}, "test": classes})


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FTKIT_CACHE_DIR", str(tmp_path / "cache"))


def train(data: Path, name: str, strategy: Any = "freeze", **settings: Any) -> None:
    ftkit.train(plan(data, name, strategy=strategy, **(SETTINGS | settings)))


Capture = pytest.CaptureFixture[str]


def evaluated(capsys: Capture, *arguments: str, precision: str = "fp32") -> tuple[dict[str, Any], str]:
    """All metrics, and the messages."""
    capsys.readouterr()
    assert main(["evaluate", *arguments, "--precision", precision, "--json"]) == 0
    out, err = capsys.readouterr()
    return json.loads(out), err


def kept(images: int, of: int, cut: str = "mean") -> str:
    return f"the cache has the activations after {cut} of {images} of {of} images"


def agree(one: dict[str, Any], other: dict[str, Any]) -> bool:
    metrics = one.get("metrics", one)
    others = other.get("metrics", other)
    numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
    assert numbers
    return all(others[name] == pytest.approx(value, abs=1e-5) for name, value in numbers.items())


def test_metrics_are_those_of_the_whole_network(data: Path, capsys: Capture) -> None:
    train(data, "run")
    with_cache, printed = evaluated(capsys, "runs/run", "--split", "val")
    assert kept(11, 11) in printed
    without, printed = evaluated(capsys, "runs/run", "--split", "val", "--no-cache")
    assert "the cache" not in printed
    assert agree(with_cache, without)
    assert with_cache["confusion"] == without["confusion"]


def test_activations_from_one_evaluation_are_used_by_the_next(data: Path, capsys: Capture) -> None:
    train(data, "one")
    train(data, "two", epochs=2)
    _, printed = evaluated(capsys, "runs/one")
    assert "the cache" not in printed
    _, printed = evaluated(capsys, "runs/two")
    assert kept(70, 70) in printed


def test_a_run_that_trained_everything_finds_nothing(data: Path, capsys: Capture) -> None:
    train(data, "frozen")
    train(data, "full", "full")
    _, printed = evaluated(capsys, "runs/full")
    assert "the cache" not in printed
    assert len(cached_tables()) == 2


def test_the_longest_cached_prefix_is_used(data: Path, capsys: Capture) -> None:
    train(data, "gradual", {"name": "gradual", "every": 2}, epochs=4)
    model = "runs/gradual/last"
    cached, printed = evaluated(capsys, model, "--split", "val")
    assert kept(11, 11, "layer2.2.relu_1") in printed, "layer3 was trained, and mean is no more what it was"
    assert agree(cached, evaluated(capsys, model, "--split", "val", "--no-cache")[0])


def test_a_changed_image_is_computed_again(data: Path, capsys: Capture) -> None:
    train(data, "run")
    evaluated(capsys, "runs/run")
    image = next((data / "test" / "a").iterdir())
    shutil.copy(next((data / "test" / "b").iterdir()), image)
    os.utime(image, ns=(1, 1))
    cached, printed = evaluated(capsys, "runs/run")
    assert "the cache" not in printed, "none of the values are those of these images"
    assert agree(cached, evaluated(capsys, "runs/run", "--no-cache")[0])


def test_other_data_is_cached_too(data: Path, tmp_path: Path, image_folder: MakeFolder, capsys: Capture) -> None:
    train(data, "run")
    other = image_folder(tmp_path / "other", {"a": 4, "b": 4})
    first, printed = evaluated(capsys, "runs/run", "--data", str(other))
    assert "the cache" not in printed
    second, printed = evaluated(capsys, "runs/run", "--data", str(other))
    assert kept(8, 8) in printed
    assert first == second


def test_another_precision_has_another_prefix_key(data: Path, capsys: Capture) -> None:
    train(data, "run")
    _, printed = evaluated(capsys, "runs/run", "--split", "val", precision="bf16")
    assert "the cache" not in printed


def test_a_run_without_the_cache_is_evaluated_without_it(data: Path, capsys: Capture) -> None:
    train(data, "cached")
    train(data, "plain", cache={"use": False})
    _, printed = evaluated(capsys, "runs/plain", "--split", "val")
    assert "the cache" not in printed


def test_an_unreadable_image_is_named_and_stores_nothing(data: Path, capsys: Capture) -> None:
    train(data, "run")
    image = next((data / "test" / "a").iterdir())
    content = image.read_bytes()
    image.write_bytes(b"no image")
    assert main(["evaluate", "runs/run"]) == 1
    assert image.name in capsys.readouterr().err
    image.write_bytes(content)
    assert agree(evaluated(capsys, "runs/run")[0], evaluated(capsys, "runs/run", "--no-cache")[0])


def test_a_damaged_table_is_computed_again(data: Path, capsys: Capture) -> None:
    train(data, "run")
    whole, _ = evaluated(capsys, "runs/run")
    for table in Path("cache", "activations").iterdir():
        with (table / "data").open("r+b") as file:
            file.write(b"\xff" * 64)
    again, printed = evaluated(capsys, "runs/run")
    assert kept(6, 70) in printed, "the second of two blocks is whole"
    assert again == whole


def test_a_folder_that_cant_be_written_is_reported(data: Path, capsys: Capture) -> None:
    train(data, "run")
    config = Path("runs", "run", "config.yaml")
    config.write_text(config.read_text().replace("limit: 20000000000", "limit: 10"))
    metrics, printed = evaluated(capsys, "runs/run")
    assert "no room for" in printed
    assert "nothing is read from the cache" in printed
    assert agree(metrics, evaluated(capsys, "runs/run", "--no-cache")[0])


def test_activations_larger_than_their_images_are_not_cached(
    data: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(data, "run")
    inside.find_all_activations_too_large(monkeypatch)
    evaluated(capsys, "runs/run")
    _, printed = evaluated(capsys, "runs/run")
    assert "the cache" not in printed
    _, printed = evaluated(capsys, "runs/run", "--split", "val")
    assert kept(11, 11) in printed, "a run has"


def test_compare_uses_the_cache(data: Path, capsys: Capture) -> None:
    train(data, "one", precision="auto")
    train(data, "two", precision="auto", epochs=2)
    assert main(["compare", "runs/one", "runs/two", "--json"]) == 0
    out, printed = capsys.readouterr()
    assert printed.count(kept(70, 70)) == 1, "the first has put them there"
    assert main(["compare", "runs/one", "runs/two", "--json", "--no-cache"]) == 0
    plain, printed = capsys.readouterr()
    assert "the cache" not in printed
    first, second = (json.loads(text)["runs"][0]["metrics"]["accuracy"] for text in (out, plain))
    assert first == second


def test_activations_from_a_recommendation_are_used_by_the_run(data: Path, capsys: Capture) -> None:
    asked = ["advise", "--data", str(data), "--backbone", "lenet", "--json"]
    results = []
    for _ in range(2):
        assert main(asked) == 0
        out, printed = capsys.readouterr()
        results.append((json.loads(out), kept(18, 18, "relu_3") in printed))
    assert [there for _, there in results] == [False, True]
    assert results[0][0] == results[1][0]
    assert main([*asked, "--no-cache"]) == 0
    out, printed = capsys.readouterr()
    assert "the cache" not in printed
    assert json.loads(out)["facts"] == results[0][0]["facts"]
    train(data, "run", backbone="lenet", weights="default", precision="auto")
    assert sorted(table["description"] for table in cached_tables()) == [
        "lenet after relu_3: 11 val images, without augmentation",
        "lenet after relu_3: 18 images",
    ]
