"""`ftkit advise` and strategy `auto`: measurement, recommendation, and runs that follow it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

import ftkit
from ftkit.cli.main import main
from tests.conftest import MakeFolder
from tests.runs import config, weights

FEW = ["--train-samples", "60", "--workers", "0", "--device", "cpu"]
"""Six digits per class, for a network pretrained on digits."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def advised(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["advise", *arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main([*arguments]) == 2
    return capsys.readouterr().err


def config_of(command: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The config of a printed command."""
    words = shlex.split(command)
    assert words[:2] == ["ftkit", "train"]
    capsys.readouterr()
    assert main(["config", "show", *words[2:], "--json"]) == 0
    config: dict[str, Any] = json.loads(capsys.readouterr().out)["config"]
    return config


# Advice


def test_few_images_like_the_pretraining_data_get_the_probe(capsys: pytest.CaptureFixture[str]) -> None:
    found = advised(capsys, *FEW)
    facts = found["facts"]
    assert (facts["images"], facts["classes"], facts["per_class"], facts["measured_on"]) == (60, 10, 6.0, 60)
    assert facts["chance"] == pytest.approx(0.1, abs=0.02)
    assert facts["probe"] > 0.8
    assert facts["similarity"] > 0.7
    assert facts["weights"].startswith("MNIST")
    assert found["advice"]["strategy"] == "probe"
    assert (
        found["command"] == "ftkit train --train-samples 60 --device cpu --workers 0 --backbone lenet --strategy probe"
    )


def test_the_text_has_facts_advice_reasons_and_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["advise", *FEW]) == 0
    out = capsys.readouterr().out.splitlines()
    heads = [line.split("  ")[0] for line in (text.strip() for text in out) if line]
    assert [
        h for h in ("data", "backbone", "chance", "probe", "nearest mean", "advice", "because") if h not in heads
    ] == []
    assert "60 training images, 6 per class" in out[0]
    assert out[-1].startswith("ftkit train ")
    assert out[-2] == ""


def test_images_unlike_the_pretraining_data_get_one_rate(
    tmp_path: Path, image_folder: MakeFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    # All images are alike and classes are assigned in turn, so nothing can be learned.
    image_folder(tmp_path / "made", {"a": 80}, (12, 12))
    for number, path in enumerate(sorted((tmp_path / "made/a").iterdir())):
        place = tmp_path / "photos" / ("bees", "wasps")[number % 4 // 2]
        place.mkdir(parents=True, exist_ok=True)
        path.rename(place / path.name)
    found = advised(capsys, "--data", "photos", "--backbone", "lenet", "--workers", "0", "--device", "cpu")
    assert found["facts"]["similarity"] < 0.7
    assert found["advice"]["options"] == {"backbone_lr_scale": 1.0}
    config = config_of(found["command"], capsys)
    assert (config["strategy"], config["optimizer"]["lr"]) == ({"name": "full", "backbone_lr_scale": 1.0}, 0.001)
    assert config["dataset"]["root"] == str(tmp_path / "photos")
    assert "--data photos " in found["command"]


def test_advice_overrides_the_config_file_but_not_flags(capsys: pytest.CaptureFixture[str]) -> None:
    Path("long.yaml").write_text(
        "epochs: 77\ntrain_samples: 60\nstrategy: {name: full, backbone_lr_scale: 0.5}\noptimizer: {lr: 0.5}\n"
        "augment: {name: light, scale: [0.1, 1.0]}\nworkers: 0\n"
    )
    found = advised(capsys, "-c", "long.yaml", "--set", "optimizer.weight_decay=0.2", "--epochs", "4")
    assert found["advice"]["strategy"] == "full"
    chosen, *notes = found["notes"]
    assert chosen.startswith("backbone auto chose lenet: the images are grey, about 12 x 12 pixels")
    assert notes == ["epochs: 4 is kept, from --epochs; recommended: 10"]
    config = config_of(found["command"], capsys)
    assert config["epochs"] == 4
    assert [config["optimizer"][k] for k in ("name", "lr", "weight_decay")] == ["adamw", 0.001, 0.2]
    assert config["strategy"] == {"name": "full", "backbone_lr_scale": 0.1}
    assert config["augment"]["scale"] == [0.8, 1.0]
    assert config["train_samples"] == 60


def test_the_command_repeats_parts_that_were_given(capsys: pytest.CaptureFixture[str]) -> None:
    parts = ("--batch-transform", "mixup", "--metric", "macro_f1", "--metric", "loss")
    found = advised(capsys, *FEW, *parts, "--set", "batch_transforms.mixup.alpha=0.3")
    assert " ".join(parts) in found["command"]
    assert "--set batch_transforms.mixup.alpha=0.3" in found["command"]


def test_without_weights_a_note_shows_how_to_get_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["advise", *FEW, "--weights", "none"]) == 0
    out = capsys.readouterr().out
    assert "strategy scratch, learning rate 0.003, 30 epochs" in out
    assert "lenet has pretrained weights: --weights default" in out
    message = refused(capsys, "advise", "--backbone", "cifar_resnet20", *FEW)
    assert "has no pretrained weights of its own" in message


def test_rates_are_recommended_for_measured_optimizers_only(capsys: pytest.CaptureFixture[str]) -> None:
    found = advised(capsys, *FEW, "--optimizer", "sgd")
    assert found["advice"]["strategy"] == "full"
    assert found["notes"][1:] == ["learning rate: 0.003 is kept; recommended rates are for optimizers like adamw"]
    assert config_of(found["command"], capsys)["optimizer"]["lr"] == 0.003


def test_a_head_that_isnt_linear_leaves_similarity_unmeasured(
    tmp_path: Path, image_folder: MakeFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    image_folder(tmp_path / "photos", {"a": 6, "b": 6})
    common: dict[str, Any] = {"dataset": {"name": "folder", "root": "photos"}, "backbone": "squeezenet1_1"}
    sizes: dict[str, Any] = {"preprocessing": {"size": 32}, "workers": 0, "device": "cpu"}
    ftkit.train(ftkit.plan(**common, **sizes, weights="none", strategy="freeze", epochs=1, name="first"))
    squeeze = ["--backbone", "squeezenet1_1", "--image-size", "32", "--weights", "runs/first"]
    found = advised(capsys, "--data", "photos", *squeeze, "--workers", "0", "--device", "cpu")
    assert found["facts"]["probe"] is None
    assert "not a linear layer" in found["facts"]["unmeasured"]
    assert (found["advice"]["strategy"], found["advice"]["lr"]) == ("full", 0.001)


@pytest.mark.long
def test_a_hidden_layer_in_the_head_can_be_measured(capsys: pytest.CaptureFixture[str]) -> None:
    plain, hidden = advised(capsys, *FEW), advised(capsys, *FEW, "--head-hidden", "8")
    assert hidden["facts"]["probe"] == plain["facts"]["probe"]
    assert hidden["advice"]["strategy"] == "freeze", "the probe can't be solved with a hidden layer"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["advise", "--strategy", "full"], "--strategy: ftkit advise chooses the strategy"),
        (["advise", "--epochs", "0"], "--epochs is 0"),
        (["train", "--strategy", "auto", "--epochs", "0"], "--epochs is 0, and strategy auto chooses how to train"),
        (["train", "--strategy", "auto", "--set", "strategy.decay=1"], "--set strategy.decay: unknown key"),
        (["train", "--strategy", "auto", "--keep-head", "--weights", "none"], "there is no head to keep"),
        (
            ["plan", "--set", "strategy={name: then, first: auto, second: full, at: 3}"],
            "auto has no schedule of its own",
        ),
    ],
)
def test_wrong_requests_are_refused_before_anything_is_measured(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output_text = refused(capsys, *arguments)
    assert message in output_text
    assert "measuring" not in output_text


# Strategy auto


@pytest.mark.long
def test_auto_trains_as_recommended_and_saves_its_choice(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--strategy", "auto", "--epochs", "1", "--name", "mine", *FEW, "--json"]) == 0
    assert "measuring the features of lenet on 60 training images" in capsys.readouterr().err
    saved = config("mine")
    assert (saved["strategy"]["name"], saved["optimizer"]["lr"], saved["epochs"]) == ("full", 0.001, 1)
    notes = json.loads(Path("runs/mine/plan.json").read_text())["notes"]
    assert notes[0].startswith("strategy auto chose full: the pretrained features fit the data")
    assert "epochs: 1 is kept, from --epochs; recommended: 10" in notes

    capsys.readouterr()
    assert main(["train", "--config", "runs/mine/config.yaml", "--name", "again", "--json"]) == 0
    assert "measuring" not in capsys.readouterr().err
    assert weights("mine") == weights("again"), "the measurement leaves no trace in the training"


@pytest.mark.long
def test_plan_shows_what_auto_chose(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--strategy", "auto", *FEW]) == 0
    assert "strategy auto chose probe: the pretrained features fit the data" in capsys.readouterr().out
    plan = ftkit.plan(strategy="auto", train_samples=60, workers=0, device="cpu", optimizer={"lr": 0.02})
    assert plan.config.strategy.name == "full", "a rate is for training"
    assert plan.config.optimizer.lr == 0.02
    assert any("learning rate: 0.02 is kept" in note for note in plan.notes)


@pytest.mark.long
def test_quiet_prints_nothing_while_measuring(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--strategy", "auto", *FEW, "--quiet"]) == 0
    assert "measuring" not in capsys.readouterr().err


def test_a_class_with_a_single_image_cant_be_measured(
    image_folder: MakeFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image_folder(tmp_path / "d", {"train": {"a": 4, "b": 1}, "val": {"a": 1, "b": 1}})
    found = advised(capsys, "--data", str(tmp_path / "d"), "--backbone", "lenet")
    assert "a class has only one image" in found["facts"]["unmeasured"]
