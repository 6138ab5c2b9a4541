"""`ftkit calibrate`, and prediction sets and rejection in `predict`, `evaluate` and the library."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import ftkit
from ftkit import RequestError, Uncertainty
from ftkit.testing import draw_image
from tests.conftest import MakeFolder, typed
from tests.models import Calibration, backbone, make_run, save_model

CLASSES = ("ants", "bees", "owls")
EXACT = ("--device", "cpu", "--precision", "fp32")
EACH = 12


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that is often wrong, calibrated on images of a folder; images in another one."""
    work = tmp_path_factory.mktemp("sets")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network: nn.Module = backbone("cifar_resnet20").build(len(CLASSES))
    with torch.no_grad():
        [*network.parameters()][-2].mul_(0.02)
    for name in ("model", "bare"):
        save_model(work / name, CLASSES, network=network, calibration=Calibration("temperature", (3.0,)))
    for folder, start in (("known", 0), ("new", 100)):
        for kind, name in enumerate(CLASSES):
            (work / folder / name).mkdir(parents=True)
            for number in range(EACH):
                draw_image((kind + number % 3) % 3, (50, 52), f"{start + number} {kind}").save(
                    work / folder / name / f"{number:02d}.png"
                )
    done = typed("calibrate", "model", "--data", "known", *EXACT, "--json", cwd=work)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "model": "model", "source": "known, train split", "images": 3 * EACH, "cross_fitted": False
    }  # fmt: skip
    assert "whether it was trained on these images isn't checked" in done.stderr
    return work


@pytest.fixture(autouse=True)
def inside(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)


def images(folder: str = "new") -> list[Path]:
    return sorted(Path(folder).rglob("*.png"))


def probabilities(folder: str) -> tuple[np.ndarray, np.ndarray]:
    """The model's probabilities `(n, classes)` and the labels of the images of a folder."""
    model = ftkit.load("model", device="cpu", precision="fp32")
    found = [dict(one.top) for one in model.predict(images(folder), top_k=3)]
    labels = np.array([CLASSES.index(path.parent.name) for path in images(folder)])
    return np.array([[one[name] for name in CLASSES] for one in found]), labels


def limit(coverage: float) -> float:
    """The largest score of a `lac` set by its definition."""
    known, labels = probabilities("known")
    scores = np.sort(1 - known[np.arange(len(labels)), labels])
    return float(scores[int(np.ceil((len(scores) + 1) * coverage)) - 1])


def refused(*arguments: str) -> str:
    done = typed(*arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def rows(*arguments: str) -> list[Any]:
    done = typed("predict", "new", "--model", "model", *EXACT, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_sets_are_those_of_the_definition() -> None:
    found, (new, _) = rows("--coverage", "0.8"), probabilities("new")
    expected = [{CLASSES[i] for i in np.flatnonzero(1 - own <= limit(0.8) + 1e-6)} for own in new]
    assert [{one["label"] for one in row["set"]} for row in found] == [
        own or {row["label"]} for own, row in zip(expected, found, strict=True)
    ]
    assert len({len(own) for own in expected}) > 1, "of several sizes"
    for row, own in zip(found, new, strict=True):
        shown = [one["probability"] for one in row["set"]]
        assert shown == sorted(shown, reverse=True)
        assert shown[0] == pytest.approx(own.max(), abs=1e-5)
    assert "abstained" not in found[0]


def test_evaluate_counts_the_sets_that_hold_the_true_class() -> None:
    done = typed("evaluate", "model", "--data", "new", "--coverage", "0.8", *EXACT, "--json")
    assert done.returncode == 0, done.stderr
    new, labels = probabilities("new")
    members = 1 - new <= limit(0.8) + 1e-6
    members[np.arange(len(new)), new.argmax(axis=1)] = True
    found = json.loads(done.stdout)
    assert found["sets"]["coverage"] == pytest.approx(members[np.arange(len(new)), labels].mean())
    assert found["sets"]["mean_size"] == pytest.approx(members.sum(axis=1).mean())
    assert sum(part for _, part in found["sets"]["sizes"]) == pytest.approx(1)
    curve = found["risk_coverage"]["points"]
    assert curve[-1]["coverage"] == 1
    assert curve[-1]["risk"] == pytest.approx(1 - found["accuracy"])
    shown = typed("evaluate", "model", "--data", "new", "--coverage", "0.8", *EXACT).stdout
    assert f"sets (lac) at coverage 0.8: {found['sets']['coverage']:.4f} [" in shown
    assert "Error rate of the most confident predictions" in shown


def test_unknown_below_a_confidence() -> None:
    new, _ = probabilities("new")
    least = float(np.median(new.max(axis=1)))
    found = rows("--min-confidence", str(least))
    for row, own in zip(found, new, strict=True):
        is_sure = own.max() >= least
        assert row["label"] == (CLASSES[own.argmax()] if is_sure else None)
        assert row["abstained"] is not is_sure
        assert row["top"][0]["label"] == CLASSES[own.argmax()]
    assert 0 < sum(row["abstained"] for row in found) < len(found)
    done = typed("predict", "new", "--model", "model", *EXACT, "--min-confidence", str(least))
    assert done.stdout.count("(unknown)") == sum(row["abstained"] for row in found)
    assert f"{done.stdout.count('(unknown)')} of 36 images predicted as unknown" in done.stderr


def test_csv_and_a_table_with_sets_and_rejection() -> None:
    flags = ("--coverage", "0.8", "--min-confidence", "0.5")
    done = typed("predict", "new", "--model", "model", *EXACT, *flags, "--format", "csv")
    table = list(csv.DictReader(done.stdout.splitlines()))
    for row, same in zip(table, rows(*flags), strict=True):
        assert row["set"].split("|") == [one["label"] for one in same["set"]]
        assert row["label"] == (same["label"] or "")
        assert row["abstained"] == ("" if same["label"] else same["top"][0]["label"])
    shown = typed("predict", "new", "--model", "model", *EXACT, *flags).stdout.splitlines()
    assert shown[0].split() == ["class", "probability", "file", "set"]
    assert shown[1].endswith("{" + ", ".join(table[0]["set"].split("|")) + "}")
    Path("broken.png").write_bytes(b"no image")
    done = typed("predict", "broken.png", "--model", "model", *flags, "--json")
    assert done.returncode == 1
    broken = json.loads(done.stdout)
    assert (broken["label"], broken["set"], broken["abstained"]) == (None, None, False)


def test_the_library_gives_the_same() -> None:
    model, asked = ftkit.load("model", device="cpu", precision="fp32"), Uncertainty(coverage=0.8, min_confidence=0.5)
    for one, row in zip(
        model.predict(images(), uncertainty=asked), rows("--coverage", "0.8", "--min-confidence", "0.5"), strict=True
    ):
        assert one.prediction_set is not None
        assert [name for name, _ in one.prediction_set] == [own["label"] for own in row["set"]]
        assert (one.label, one.abstained) == (row["label"], row["abstained"])
    assert model.predict(images()[0])[0].prediction_set is None
    with pytest.raises(RequestError, match="min-confidence is 7"):
        model.iter_predict(images(), uncertainty=Uncertainty(min_confidence=7))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--coverage", "1"), "--coverage is 1"),
        (("--coverage", "nan"), "coverage is nan"),
        (("--coverage", "0.99"), "coverage 0.99 needs 99 calibration images, and the model has 36"),
        (("--coverage", "0.8", "--sets", "raps"), "raps is the same as aps with 5 classes or fewer"),
        (("--sets", "aps"), "--sets has no effect without --coverage"),
        (("--by-class",), "--by-class has no effect without --coverage"),
        (("--min-confidence", "0"), "--min-confidence is 0"),
        (("--min-confidence", "0.5", "--reject-risk", "0.1"), "--min-confidence and --reject-risk both set"),
        (("--reject-risk", "0.01"), "can't show an error rate that low"),
        (("--coverage", "0.8", "--to", "p.jsonl", "--resume"), "can't be resumed"),
    ],
)
def test_refused_requests(flags: tuple[str, ...], expected: str) -> None:
    assert expected in refused("predict", "new", "--model", "model", *flags)


def test_an_evaluation_refuses_them_in_the_same_words() -> None:
    assert "--coverage is 2" in refused("evaluate", "model", "--data", "new", "--coverage", "2")
    assert "--sets has no effect without --coverage" in refused("evaluate", "model", "--data", "new", "--sets", "aps")


def test_calibration_images_belong_to_one_model() -> None:
    assert "bare has no calibration images" in refused("predict", "new", "--model", "bare", "--coverage", "0.8")
    shutil.copy("model/conformal.json", "bare")
    save_model(Path("bare"), CLASSES)
    shutil.copy("model/conformal.json", "bare")
    assert "belongs to another model" in refused("predict", "new", "--model", "bare", "--coverage", "0.8")


def test_images_that_the_model_was_made_with_are_refused(
    tmp_path: Path, image_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = dict.fromkeys(CLASSES, 3)
    data = image_folder(tmp_path / "data", {"train": counts, "val": counts, "test": counts})
    run = make_run(tmp_path / "runs" / "mine", data, CLASSES)
    shown: Callable[..., str] = lambda *flags: refused("calibrate", str(run), *flags)  # noqa: E731
    assert "the val images of the run chose its epoch" in shown("--split", "val")
    assert "the train images of the run trained it" in shown("--split", "train")
    shutil.copytree(data / "train", tmp_path / "copy")
    assert "9 images of" in (found := shown("--data", str(tmp_path / "copy")))
    assert "are train images of the run, such as" in found
    done = typed("calibrate", str(run))
    assert done.returncode == 0, done.stderr
    assert "9 calibration images of dataset folder, test split" in done.stdout
