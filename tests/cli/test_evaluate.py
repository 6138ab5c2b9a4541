"""`ftkit evaluate` and the gathering of outputs: every image counts once, and classes are matched by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ftkit.cli.main import main
from tests.conftest import MakeFolder
from tests.models import make_run

CLASSES = ("[b]lue", "crimson", "gold")


@pytest.fixture
def data(tmp_path: Path, image_folder: MakeFolder) -> Path:
    each = dict.fromkeys(CLASSES, 2)
    return image_folder(
        tmp_path / "data", {"train": each, "val": each, "test": dict(zip(CLASSES, (3, 5, 2), strict=True))}
    )


@pytest.fixture
def run(tmp_path: Path, data: Path) -> Path:
    return make_run(tmp_path / "runs" / "mine", data, CLASSES)


def measured(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[dict[str, Any], str]:
    capsys.readouterr()
    assert main(["evaluate", *arguments, "--json"]) == 0
    out, err = capsys.readouterr()
    return json.loads(out), err


def test_the_test_split_is_the_default(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, err = measured(capsys, str(run))
    assert "test split, 10 images" in err
    assert (found["split"], found["images"], found["accuracy"]) == ("test", 10, 0.3)
    assert found["macro_f1"] == pytest.approx(2 * 0.3 / 1.3 / 3)
    assert found["confusion"] == [[3, 0, 0], [5, 0, 0], [2, 0, 0]]
    assert [(c["name"], c["support"], c["recall"]) for c in found["classes"]] == [
        ("[b]lue", 3, 1.0), ("crimson", 5, 0.0), ("gold", 2, 0.0),
    ]  # fmt: skip
    assert found["data_changed"] is False
    assert "warning" not in err


def test_another_split_and_another_batch_size(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, _ = measured(capsys, str(run), "--split", "val", "--batch-size", "4", "--workers", "0")
    assert (found["split"], found["images"], found["accuracy"]) == ("val", 6, pytest.approx(1 / 3))


def test_val_is_the_default_without_a_test_split(
    tmp_path: Path, image_folder: MakeFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    unsplit = image_folder(tmp_path / "unsplit", dict.fromkeys(CLASSES, 5))
    run = make_run(tmp_path / "runs" / "unsplit", unsplit, CLASSES)
    found, _ = measured(capsys, str(run))
    assert (found["split"], found["images"]) == ("val", 3), "the run's own seeded split: one of five a class"
    assert main(["evaluate", str(run), "--split", "test"]) == 2
    assert "has no test split" in capsys.readouterr().err


def test_other_data_is_matched_by_class_name(
    run: Path, tmp_path: Path, image_folder: MakeFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    # In this folder gold is class 1; in the model it is class 2.
    other = image_folder(tmp_path / "other", {"[b]lue": 1, "gold": 3})
    found, err = measured(capsys, str(run), "--data", str(other))
    assert (found["split"], found["images"], found["accuracy"]) == ("train", 4, 0.25)
    assert found["confusion"] == [[1, 0, 0], [0, 0, 0], [3, 0, 0]]
    assert found["macro_f1"] == pytest.approx((2 / 5 + 0) / 2), "crimson has no image here"
    assert str(other) in err


def test_a_model_without_a_run_is_evaluated_on_a_csv(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "model").rename(tmp_path / "bare")
    table = tmp_path / "list.csv"
    table.write_text("path,label\ndata/test/gold/0000.jpg,gold\ndata/test/[b]lue/0000.jpg,[b]lue\n")
    found, _ = measured(capsys, str(tmp_path / "bare"), "--data", str(table))
    assert (found["images"], found["accuracy"]) == (2, 0.5)
    assert main(["evaluate", str(tmp_path / "bare")]) == 2
    assert "give images with --data" in capsys.readouterr().err


def test_a_class_unknown_to_the_model_is_an_error(
    run: Path, tmp_path: Path, image_folder: MakeFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    other = image_folder(tmp_path / "other", {"gold": 1, "violet": 1})
    assert main(["evaluate", str(run), "--data", str(other)]) == 2
    assert "'violet'" in capsys.readouterr().err


def test_evaluation_warns_of_changed_data(run: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "train" / "gold" / "0000.jpg").unlink()
    found, err = measured(capsys, str(run))
    assert found["data_changed"] is True
    assert "has changed since the model was trained" in err


def test_an_unreadable_image_is_an_error(run: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "test" / "gold" / "0000.jpg").write_bytes(b"no image")
    assert main(["evaluate", str(run)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "gold/0000.jpg: not an image" in err


def test_damage_and_invalid_requests_exit_with_2(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        ([str(run), "--data", "nowhere"], "--data nowhere: no such file or folder"),
        (["mien", "--output", str(run.parent)], "unknown run 'mien'"),
        ([str(run), "--split", "trian"], "trian"),
        ([str(run), "--batch-size", "0"], "batch-size"),
    ):
        assert main(["evaluate", *arguments]) == 2
        assert message in capsys.readouterr().err
    (run / "model" / "model.safetensors").write_bytes(b"")
    assert main(["evaluate", str(run)]) == 2
    assert "model.safetensors: the file is damaged" in capsys.readouterr().err


def test_an_undefined_auroc_is_null_with_the_reason(
    run: Path, image_folder: MakeFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = image_folder(tmp_path / "other", {"crimson": 2, "gold": 3})
    found, _ = measured(capsys, str(run), "--data", str(other))
    assert found["auroc"] is None
    assert found["missing"] == {"auroc": "no image is of class '[b]lue'"}
    assert main(["evaluate", str(run), "--data", str(other)]) == 0
    assert "no AUROC: no image is of class '[b]lue'\n" in capsys.readouterr().out


def test_tables_show_class_names_as_they_are(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run)]) == 0
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines()]
    assert out.startswith("test: accuracy 0.30 [0.11, 0.60], macro F1 0.15 [")
    assert ", AUROC 0.50, calibration error 0." in out
    assert ", 10 images\n" in out
    assert "top-5" not in out
    assert ["[b]lue", "3", "0.30", "1.00", "0.46"] in lines
    assert ["[b]lue", "crimson", "gold"] in lines
    assert ["crimson", "5", ".", "."] in lines


def test_many_classes_show_the_most_confused_pairs(
    tmp_path: Path, image_folder: MakeFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    names = tuple(f"kind{i:02d}" for i in range(25))
    counts = dict.fromkeys(names, 2) | {"kind07": 4}
    run = make_run(tmp_path / "runs" / "many", image_folder(tmp_path / "many", counts, (12, 12)), names)
    assert main(["evaluate", str(run), "--split", "train"]) == 0
    out = capsys.readouterr().out
    assert "Most confused" in out
    assert "Confusion:" not in out
    pairs = [line.split() for line in out[out.index("Most confused") :].splitlines() if "kind" in line]
    assert pairs[0] == ["kind07", "kind00", "3"]
    assert len(pairs) == 15
