"""`classes` and `label_map`: what is learnt from a dataset, and the same for other data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest

import ftkit
from ftkit.api import Splits
from ftkit.config.load import resolve, to_yaml
from ftkit.errors import RequestError
from ftkit.evaluation.evaluation_data import EvaluationData, split_of_dataset, split_of_run
from ftkit.planning.run_data.run_splits import load_splits
from ftkit.runs.model_card import read_card
from tests.conftest import MakeFolder, RunFtkit
from tests.models import part

DIGITS = {str(digit): 3 for digit in range(6)}
PARITY: dict[object, str] = {0: "even", 1: "odd", 2: "even", 3: "odd", 4: "even", 5: "odd"}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> Path:
    """Folders 0 to 5 with 3 images each to train on, and 2 and 1 in val and test."""
    layout = {"train": DIGITS, "val": dict.fromkeys(DIGITS, 2), "test": dict.fromkeys(DIGITS, 1)}
    return image_folder(tmp_path_factory.mktemp("digits"), layout, (12, 12))


def load(data: Path, **settings: Any) -> tuple[Splits, tuple[str, ...]]:
    flags = {key: (key, value) for key, value in settings.items()}
    return load_splits(resolve(None, {"dataset": ("dataset", {"name": "folder", "root": str(data)}), **flags}))


def from_yaml(text: str, data: Path, folder: Path) -> Splits:
    (folder / "ftkit.yaml").write_text(f"dataset: {{name: folder, root: {data}}}\n{text}", encoding="utf-8")
    return load_splits(resolve(folder / "ftkit.yaml"))[0]


def refused(data: Path, **settings: Any) -> str:
    with pytest.raises(RequestError) as caught:
        load(data, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def kinds(splits: Splits, split: str) -> list[tuple[str, str]]:
    """The folder of each sample, and the class that it counts as."""
    there = dict(splits.present())[split]  # type: ignore[index]
    labels = cast(list[int], there.labels)
    return [(name.split("/")[1], splits.classes[label]) for name, label in zip(there.names, labels, strict=True)]


def test_only_the_classes_named_are_used_and_in_that_order(digits: Path) -> None:
    splits, notes = load(digits, classes=["5", "2"])
    assert splits.classes == ("5", "2")
    assert kinds(splits, "train") == [("2", "2")] * 3 + [("5", "5")] * 3
    assert kinds(splits, "val") == [("2", "2")] * 2 + [("5", "5")] * 2
    assert kinds(splits, "test") == [("2", "2"), ("5", "5")]
    assert notes == ("classes: 2 of 6 are used, 12 of 36 images",)


def test_images_stay_with_their_names(digits: Path) -> None:
    splits, _ = load(digits, classes=["5", "2"])
    everything, _ = load(digits)
    assert splits.train is not None
    assert everything.train is not None
    pixels = {name: everything.train[i][0].tobytes() for i, name in enumerate(everything.train.names)}
    assert all(splits.train[i][0].tobytes() == pixels[name] for i, name in enumerate(splits.train.names))


def test_a_map_names_the_targets_in_the_order_it_names_them_first(digits: Path) -> None:
    splits, notes = load(digits, label_map={1: "odd", 0: "even", **PARITY})
    assert splits.classes == ("odd", "even")
    assert kinds(splits, "test") == [(str(n), "odd" if n % 2 else "even") for n in range(6)]
    assert notes == ("label_map: odd from 1, 3, 5; even from 0, 2, 4",)


def test_a_map_of_the_classes_in_use(digits: Path) -> None:
    splits, notes = load(digits, classes=[3, 4], label_map={3: "low", 4: "high"})
    assert splits.classes == ("low", "high")
    assert kinds(splits, "val") == [("3", "low")] * 2 + [("4", "high")] * 2
    assert notes == ("classes: 2 of 6 are used, 12 of 36 images", "label_map: low from 3; high from 4")


def test_numbers_in_yaml_are_names(digits: Path, tmp_path: Path) -> None:
    parity = "label_map: {" + ", ".join(f"{digit}: {target}" for digit, target in PARITY.items()) + "}"
    assert from_yaml(parity, digits, tmp_path).classes == ("even", "odd")
    assert from_yaml("label_map: {0: 0, 1: 1, 2: 0, 3: 1, 4: 0, 5: 1}", digits, tmp_path).classes == ("0", "1")
    assert from_yaml("classes: [5, '4']", digits, tmp_path).classes == ("5", "4")


def test_a_saved_config_means_the_same(digits: Path, tmp_path: Path) -> None:
    data, used = {"name": "folder", "root": str(digits)}, [1, 0, 2, 3, 4, 5]
    flags = {"dataset": ("--data", data), "label_map": ("label_map", PARITY), "classes": ("classes", used)}
    resolved = resolve(None, flags)
    (tmp_path / "config.yaml").write_text(to_yaml(resolved.config), encoding="utf-8")
    again = resolve(tmp_path / "config.yaml")
    assert again.config == resolved.config
    assert load_splits(again)[0].fingerprint() == load_splits(resolved)[0].fingerprint()


def test_class_names_with_dots_can_be_mapped(tmp_path: Path, image_folder: MakeFolder) -> None:
    data = image_folder(tmp_path / "data", {"St. Bernard": 4, "tabby": 4})
    assert from_yaml("label_map: {St. Bernard: dog, tabby: cat}", data, tmp_path).classes == ("dog", "cat")
    sets = ["label_map.tabby=cat", "label_map.St. Bernard=dog"]
    resolved = resolve(None, {"dataset": ("--data", {"name": "folder", "root": str(data)})}, sets)
    assert load_splits(resolved)[0].classes == ("cat", "dog")


def test_the_fingerprint_follows(digits: Path) -> None:
    shouted = {digit: target.upper() for digit, target in PARITY.items()}
    ways: list[dict[str, Any]] = [
        {},
        {"classes": list("012345")},
        {"classes": list("543210")},
        {"label_map": PARITY},
        {"label_map": shouted},
    ]
    prints = [load(digits, **way)[0].fingerprint() for way in ways]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 4


def test_held_out_and_drawn_images_are_stratified_by_target(tmp_path: Path, image_folder: MakeFolder) -> None:
    data = image_folder(tmp_path / "data", dict.fromkeys(DIGITS, 10), (12, 12))
    splits, notes = load(data, label_map=PARITY, train_samples=20, validation="holdout")
    assert splits.train is not None
    assert splits.val is not None
    assert [splits.train.labels.count(label) for label in (0, 1)] == [10, 10]
    assert [splits.val.labels.count(label) for label in (0, 1)] == [6, 6]
    assert notes[0].startswith("label_map: ")
    assert notes[1] == "no validation split: 12 of 60 training images are held out"


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"classes": ["0", "6"]}, "classes: unknown class '6' (known: 0, 1, 2, 3, 4, 5)"),
        ({"classes": ["0", "00"]}, "classes: unknown class '00' (did you mean '0'?)"),
        ({"classes": ["0"]}, "classes: only class '0' is given (a classifier needs two or more)"),
        ({"classes": []}, "classes: no class is given (a classifier needs two or more)"),
        ({"classes": ["0", "1", "0"]}, "classes: class '0' is given 2 times (give it once)"),
        (
            {"label_map": {k: v for k, v in PARITY.items() if k != 4}},
            "label_map: class '4' has no target (add one, or select the classes to use with classes: [...])",
        ),
        (
            {"label_map": {0: "even", 1: "odd"}},
            "label_map: classes '2', '3', '4', '5' have no target "
            "(add one, or select the classes to use with classes: [...])",
        ),
        ({"label_map": {**PARITY, "05": "odd"}}, "label_map: unknown class '05' (did you mean '5'?)"),
        (
            {"label_map": dict.fromkeys(range(6), "digit")},
            "label_map: the only target is 'digit' (give two or more)",
        ),
        (
            {"classes": ["0", "1"], "label_map": {0: "a", 1: "b", 2: "b"}},
            "label_map: class '2' is not selected by classes (remove it here, or add it there)",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(digits: Path, settings: dict[str, Any], line: str) -> None:
    assert refused(digits, **settings) == line


@pytest.mark.parametrize("text", ["label_map: {0: [even]}", "label_map: [even]", "label_map: even", "classes: {a: b}"])
def test_a_value_of_the_wrong_kind_is_one_line(text: str, digits: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"ftkit\.yaml:2: .*must be "):
        from_yaml(text, digits, tmp_path)


# Other data, with the model of a run


@pytest.fixture(scope="module")
def run(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that learnt odd and even from the digits 1 to 4."""
    plan = ftkit.plan(
        dataset={"name": "folder", "root": str(digits)},
        classes=[1, 2, 3, 4],
        label_map={n: PARITY[n] for n in (1, 2, 3, 4)},
        backbone="lenet",
        weights="none",
        epochs=1,
        workers=0,
        output=str(tmp_path_factory.mktemp("runs")),
    )
    return ftkit.train(plan).run.path


def supports(found: EvaluationData, run: Path) -> dict[str, int]:
    classes = read_card(run / "model").classes
    return {name: found.split.labels.count(label) for label, name in enumerate(classes)}


def others(run: Path, data: Path) -> EvaluationData:
    return split_of_dataset(part("datasets", "folder")(data), str(data), read_card(run / "model"), None)


def test_the_card_says_what_became_of_each_class(run: Path) -> None:
    card = read_card(run / "model")
    assert card.classes == ("odd", "even")
    assert card.origin == {"0": None, "1": "odd", "2": "even", "3": "odd", "4": "even", "5": None}


def test_the_data_of_the_run_is_evaluated_as_it_was_trained_on(run: Path) -> None:
    found = split_of_run(resolve(run / "config.yaml"), read_card(run / "model"), None)
    assert (found.name, found.changed, supports(found, run)) == ("test", False, {"odd": 2, "even": 2})


def test_other_data_with_the_names_of_the_classes_is_mapped(
    run: Path, image_folder: MakeFolder, tmp_path: Path
) -> None:
    found = others(run, image_folder(tmp_path, {"0": 1, "2": 2, "3": 4}, (12, 12)))
    assert supports(found, run) == {"odd": 4, "even": 2}
    assert found.notes == ("classes not used in training are skipped: 0, 6 of 7 images",)


def test_other_data_with_the_names_of_the_targets_is_taken_as_it_is(
    run: Path, image_folder: MakeFolder, tmp_path: Path
) -> None:
    found = others(run, image_folder(tmp_path, {"even": 1, "odd": 3}, (12, 12)))
    assert supports(found, run) == {"odd": 3, "even": 1}
    assert found.notes == ()


def test_other_data_of_other_classes_is_refused(run: Path, image_folder: MakeFolder, tmp_path: Path) -> None:
    left_out = image_folder(tmp_path / "left-out", {"0": 1, "5": 1}, (12, 12))
    with pytest.raises(RequestError, match="no image is of a class that the model was trained on: 1, 2, 3, 4"):
        others(run, left_out)
    unknown = image_folder(tmp_path / "unknown", {"1": 1, "7": 1}, (12, 12))
    with pytest.raises(RequestError, match="class '7' is not among the training classes: odd, even"):
        others(run, unknown)


def test_evaluate_maps_other_data_too(run: Path, run_ftkit: RunFtkit, image_folder: MakeFolder, tmp_path: Path) -> None:
    other = image_folder(tmp_path / "other", {"0": 1, "2": 2, "3": 4}, (12, 12))
    done = run_ftkit("evaluate", str(run), "--json", "--data", str(other))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"] == 6
    assert "note: classes not used in training are skipped: 0, 6 of 7 images" in done.stderr
