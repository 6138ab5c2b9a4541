"""A metric of a plugin, by its name: in training, evaluate, compare and the listing of runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftkit.cli.main import main
from tests.conftest import MakeFolder
from tests.runs import card, records

PLUGIN = '''
from dataclasses import dataclass

from ftkit.api import MeanMetric, Metric, hookimpl


@dataclass(frozen=True)
class Kappa(Metric):
    """Cohen's kappa."""

    label = "Cohen's kappa"
    weights: str | None = None

    def value(self, outputs):
        from sklearn.metrics import cohen_kappa_score

        labels = range(len(outputs.classes))
        return cohen_kappa_score(outputs.targets, outputs.predicted, labels=labels, weights=self.weights)


class Doubt(MeanMetric):
    """Mean of one less the confidence."""

    label = "doubt"
    lower_is_better = True

    def per_image(self, outputs):
        return 1 - outputs.confidence


class Never(Metric):
    label = "never"

    def undefined(self, support, images, classes):
        return "it is defined for no images"

    def value(self, outputs):
        raise AssertionError


@hookimpl
def ftkit_metrics():
    return {"kappa": Kappa, "doubt": Doubt, "never": Never}
'''
CONFIG = """
plugins: [my.py]
dataset: {name: folder, root: data}
backbone: cifar_resnet20
weights: none
preprocessing: {size: 32}
strategy: full
workers: 0
device: cpu
epochs: 2
"""
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> Path:
    work = tmp_path_factory.mktemp("metrics")
    image_folder(work / "data", {split: {"ants": 6, "bees": 6} for split in ("train", "val", "test")})
    (work / "my.py").write_text(PLUGIN)
    (work / "ftkit.yaml").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        for name, metrics in (("one", ["--metric", "my/kappa", "--tracker", "tensorboard"]), ("two", [])):
            assert main(["train", "--name", name, "--monitor", "my/doubt", *metrics, "--quiet"]) == 0
    return work


@pytest.fixture(autouse=True)
def folder(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)


def printed(capsys: Capture, *arguments: str) -> str:
    capsys.readouterr()
    assert main(list(arguments)) == 0
    return capsys.readouterr().out


def refused(capsys: Capture, *arguments: str) -> str:
    capsys.readouterr()
    assert main(list(arguments)) == 2
    return capsys.readouterr().err


def test_it_selects_the_best_epoch_and_is_recorded(capsys: Capture) -> None:
    found = records("one")
    best = min(found, key=lambda record: record["val_my/doubt"])
    shown = json.loads(printed(capsys, "runs", "show", "one", "--json"))
    assert shown["best"]["epoch"] == best["epoch"]
    assert all("val_my/kappa" in record for record in found)
    assert not any("val_my/kappa" in record for record in records("two"))
    assert f"doubt {best['val_my/doubt']:.4f}" in printed(capsys, "runs", "list")
    assert json.loads(Path("runs/one/plan.json").read_text())["metrics"]["my/doubt"] == {
        "label": "doubt",
        "lower_is_better": True,
    }


def test_trackers_and_the_model_card_have_it() -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator("runs/one/tensorboard").Reload()
    assert {"val/my/kappa", "val/my/doubt"} <= set(read.Tags()["scalars"])
    best = min(records("one"), key=lambda record: record["val_my/doubt"])
    assert card(Path("runs/one/model"))["metrics"]["val_my/kappa"] == best["val_my/kappa"]


def test_runs_are_listed_without_the_plugin(tmp_path: Path, work: Path, capsys: Capture) -> None:
    (work / "my.py").rename(tmp_path / "my.py")
    try:
        assert "doubt 0." in printed(capsys, "runs", "list", "--output", "runs")
    finally:
        (tmp_path / "my.py").rename(work / "my.py")


@pytest.mark.long
def test_evaluate_has_the_metrics_of_the_run_and_others_by_name(capsys: Capture) -> None:
    found = json.loads(printed(capsys, "evaluate", "runs/one", "--json"))
    assert found["intervals"]["my/kappa"]["low"] <= found["my/kappa"] <= found["intervals"]["my/kappa"]["high"]
    assert found["intervals"]["my/doubt"]["low"] < found["my/doubt"] < found["intervals"]["my/doubt"]["high"]
    assert "my/kappa" not in json.loads(printed(capsys, "evaluate", "runs/two", "--json"))
    added = json.loads(printed(capsys, "evaluate", "runs/two", "--metric", "my/kappa", "--json"))
    assert -1 <= added["my/kappa"] <= 1
    assert "Cohen's kappa" in printed(capsys, "evaluate", "runs/one")
    text = printed(capsys, "evaluate", "runs/one", "--metric", "my/never")
    assert "no never: it is defined for no images" in text
    val = json.loads(printed(capsys, "evaluate", "runs/one", "--split", "val", "--json"))
    best = min(records("one"), key=lambda record: record["val_my/doubt"])
    assert val["my/doubt"] == pytest.approx(best["val_my/doubt"], abs=1e-6)


@pytest.mark.long
def test_compare_pairs_the_resamples(capsys: Capture) -> None:
    found = json.loads(
        printed(capsys, "compare", "one", "two", "--metric", "my/kappa", "--metric", "my/doubt", "--json")
    )
    first, second = found["runs"]
    assert set(first["metrics"]) == {"my/kappa", "my/doubt"}
    difference = second["against_baseline"]["differences"]["my/doubt"]
    assert difference["value"] == pytest.approx(
        second["metrics"]["my/doubt"]["value"] - first["metrics"]["my/doubt"]["value"]
    )
    assert difference["low"] <= difference["value"] <= difference["high"]
    assert "Cohen's kappa" in printed(capsys, "compare", "one", "two", "--metric", "my/kappa")


def test_strategies_are_compared_by_it(capsys: Capture) -> None:
    arguments = ("compare", "--strategies", "freeze", "--seeds", "1", "--epochs", "1", "--output", "trials", "--json")
    found = json.loads(printed(capsys, *arguments, "--metric", "my/kappa"))
    assert set(found["runs"][0]["test"]) == {"my/kappa"}
    again = json.loads(printed(capsys, *arguments, "--metric", "my/doubt"))
    assert 0 < again["runs"][0]["val"]["my/doubt"] < 1, "which the run didn't record"


def test_options_of_a_metric_come_from_the_config(capsys: Capture) -> None:
    flags = ("--name", "linear", "--set", "metrics=[{name: my/kappa, weights: linear}]", "--quiet")
    printed(capsys, "train", *flags)
    assert "my/kappa" in json.loads(printed(capsys, "evaluate", "linear", "--json"))


def test_names_and_undefined_metrics_are_refused_before_the_run(capsys: Capture) -> None:
    assert "--monitor: unknown metric 'my/kapa'" in refused(capsys, "plan", "--monitor", "my/kapa")
    assert "did you mean 'my/kappa'?" in refused(capsys, "plan", "--metric", "my/kapa")
    assert "unknown metric 'acuracy'" in refused(capsys, "evaluate", "one", "--metric", "acuracy")
    assert "metric 'map' isn't defined for task multiclass" in refused(capsys, "evaluate", "one", "--metric", "map")
    assert "metric 'map' isn't defined for task multiclass" in refused(capsys, "plan", "--metric", "map")
    assert "metric 'map' isn't defined for task multiclass" in refused(
        capsys, "compare", "one", "two", "--metric", "map"
    )
    text = refused(capsys, "plan", "--monitor", "my/never")
    assert "my/never is undefined for the validation images: it is defined for no images" in " ".join(text.split())
