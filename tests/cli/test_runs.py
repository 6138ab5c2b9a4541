"""`ftkit runs`: run folders are listed and shown without torch."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ftkit.cli.main import main
from ftkit.errors import RequestError
from tests.conftest import MakeFolder, RunFtkit
from tests.inside import run_lock
from tests.runs import records, summary


def config(**changes: Any) -> dict[str, Any]:
    return {
        "dataset": {"name": "folder", "root": "/data/ants and bees"},
        "strategy": {"name": "gradual"},
        "optimizer": {"name": "adamw", "lr": 0.003},
        "monitor": "accuracy",
        "epochs": 3,
        "batch_size": 32,
        "accumulate": 1,
        "seed": 7,
    } | changes


def record(epoch: int, accuracy: float, **more: Any) -> dict[str, Any]:
    metrics = {"val_loss": 1 - accuracy, "val_accuracy": accuracy, "val_macro_f1": accuracy}
    trained = {"train_loss": 0.5} if epoch else {}
    return {"epoch": epoch, **trained, **metrics, "weight_drift": {"stem": 0.0, "head": 0.5}, "seconds": 1.5, **more}


def make_run(folder: Path, records: list[dict[str, Any]], done: bool = True, age: int = 0, **changes: Any) -> Path:
    """A run folder as training writes it, without weights."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config(**changes)))
    plan = {"backbone": "resnet18", "weights": "none", "classes": ["ants", "bees"], "data": {"train": 1200, "val": 40}}
    names = ("accuracy", "macro_f1", "auroc", "calibration_error", "loss")
    plan["metrics"] = {n: {"label": n, "lower_is_better": n in ("loss", "calibration_error")} for n in names}
    (folder / "plan.json").write_text(json.dumps(plan))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    if done:
        (folder / "model").mkdir()
        (folder / "last").mkdir()
        layer = {"layer": "fc", "group": "head", "parameters": 1026, "weight_drift": 0.5}
        (folder / "weight_drift.json").write_text(json.dumps({"epoch": 3, "groups": {"head": 0.5}, "layers": [layer]}))
    os.utime(folder / "config.yaml", (1_750_000_000 - age, 1_750_000_000 - age))
    return folder


RECORDS = [record(0, 0.5), record(1, 0.75), record(2, 0.875), record(3, 0.875)]


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main(["runs", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_list_has_a_row_per_run_the_newest_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "old", RECORDS, age=100)
    make_run(tmp_path / "new", RECORDS[:2], done=False, dataset={"name": "digits"})
    (tmp_path / "not-a-run").mkdir()
    code, out, _ = printed(capsys, "list", "--output", str(tmp_path))
    header, *rows = (re.split(" {2,}", line) for line in out.splitlines())
    assert code == 0
    assert header == ["name", "started", "data", "backbone", "strategy", "epochs", "best", "state"]
    assert [[row[0], *row[2:]] for row in rows] == [
        ["new", "digits", "resnet18", "gradual", "1/3", "accuracy 0.7500", "stopped"],
        ["old", "ants and bees", "resnet18", "gradual", "3/3", "accuracy 0.8750", "finished"],
    ]


def test_list_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "one", RECORDS)
    _, out, _ = printed(capsys, "list", "--output", str(tmp_path), "--json")
    (found,) = json.loads(out)
    kept = ("name", "state", "data", "backbone", "epochs", "epochs_planned", "monitor")
    assert {key: found[key] for key in kept} == {
        "name": "one",
        "state": "finished",
        "data": "folder /data/ants and bees",
        "backbone": "resnet18",
        "epochs": 3,
        "epochs_planned": 3,
        "monitor": "accuracy",
    }
    assert found["best"]["epoch"] == 2, "the earlier of equals"


def test_an_empty_list_shows_how_to_start_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = printed(capsys, "list", "--output", str(tmp_path / "none"))
    assert (code, out) == (0, f"no runs in {tmp_path / 'none'}: start one with ftkit train\n")
    assert json.loads(printed(capsys, "list", "--output", str(tmp_path / "none"), "--json")[1]) == []


def test_an_unreadable_run_is_skipped_with_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "good", RECORDS)
    (make_run(tmp_path / "bad", RECORDS) / "plan.json").write_text("{")
    (make_run(tmp_path / "odd", RECORDS) / "metrics.jsonl").write_text('{"epoch"\n')
    code, out, err = printed(capsys, "list", "--output", str(tmp_path))
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1:]] == ["good"]
    assert f"{tmp_path / 'bad' / 'plan.json'} isn't what ftkit wrote" in err
    assert f"{tmp_path / 'odd' / 'metrics.jsonl'} line 1 isn't what ftkit wrote" in err


@pytest.mark.parametrize(
    ("monitor", "values", "best"),
    [("loss", [0.5, 0.25, 0.75], 2), ("auroc", [0.5, 0.25, 0.75], 3), ("calibration_error", [0.1, 0.2, 0.3], 1)],
)
def test_the_best_epoch_is_by_the_monitored_metric(
    monitor: str, values: list[float], best: int, tmp_path: Path
) -> None:
    records = [record(n, 0.5, **{f"val_{monitor}": value}) for n, value in enumerate(values, 1)]
    found = summary(make_run(tmp_path / "run", records, monitor=monitor))["best"]
    assert found is not None
    assert found["epoch"] == best


def test_a_run_that_a_process_trains_is_running(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", RECORDS[:2], done=False)
    code = f"""
import sys
from pathlib import Path
from tests.inside import run_lock
with run_lock(Path({str(folder)!r})):
    print("claimed", flush=True)
    sys.stdin.read()
"""
    repository = Path(__file__).resolve().parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=repository, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"claimed\n"
        assert summary(folder)["state"] == "running"
        with pytest.raises(RequestError, match="another process trains this run"), run_lock(folder):
            pass
        process.kill()
    assert summary(folder)["state"] == "stopped"


def test_show_prints_settings_and_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path / "ants", RECORDS)
    code, out, _ = printed(capsys, "show", "ants", "--output", str(tmp_path))
    lines = out.splitlines()
    assert code == 0
    assert any("2 classes; train 1,200, val 40" in line for line in lines)
    assert any("gradual, 3 of 3 epochs, seed 7" in line for line in lines)
    assert any(line.strip() == "best  epoch 2: accuracy 0.8750" for line in lines)
    assert [line.split()[0] for line in lines if line.endswith("  best")] == ["2"]
    assert [line.split() for line in lines if line.startswith(("  stem", "  head"))] == [
        ["stem", "0", "%"],
        ["head", "50", "%", "█" * 32],
    ]
    assert f"  ftkit evaluate {folder}" in lines
    assert not any("--resume" in line for line in lines)


def test_a_stopped_run_shows_the_command_that_resumes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path / "my run", [], done=False)
    _, out, _ = printed(capsys, "show", str(folder))
    assert f"  ftkit train --resume '{folder}'" in out.splitlines()
    assert "evaluate" not in out


def test_show_as_json_has_the_layers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path / "ants", RECORDS)
    found = json.loads(printed(capsys, "show", str(folder), "--json")[1])
    assert found["config"] == config()
    assert [r["epoch"] for r in found["records"]] == [0, 1, 2, 3]
    assert found["weight_drift"] == {"stem": 0.0, "head": 0.5}
    assert found["layers"] == [{"layer": "fc", "group": "head", "parameters": 1026, "weight_drift": 0.5}]
    assert found["files"] == ["config.yaml", "plan.json", "metrics.jsonl", "weight_drift.json", "model", "last"]
    assert found["next"] == [f"ftkit evaluate {folder}", f"ftkit predict IMAGE_OR_FOLDER --model {folder}"]


def test_an_unknown_run_is_refused_with_the_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "ants", RECORDS)
    code, _, err = printed(capsys, "show", "antz", "--output", str(tmp_path))
    assert code == 2
    assert "unknown run 'antz'" in err
    assert "'ants'" in err
    (tmp_path / "folder").mkdir()
    assert printed(capsys, "show", str(tmp_path / "folder"))[0] == 2


def test_runs_are_read_without_torch(tmp_path: Path) -> None:
    make_run(tmp_path / "ants", RECORDS)
    code = f"""
import sys
from ftkit.cli.main import main
assert main(["runs", "list", "--output", {str(tmp_path)!r}]) == 0
assert main(["runs", "show", {str(tmp_path / "ants")!r}]) == 0
assert not {{"torch", "numpy", "accelerate"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_show_repeats_the_output_of_training(
    run_ftkit: RunFtkit, image_folder: MakeFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = image_folder(tmp_path / "data", {"train": {"a": 6, "b": 6}, "val": {"a": 3, "b": 3}})
    settings = ["--backbone", "cifar_resnet20", "--weights", "none", "--strategy", "freeze", "--epochs", "1"]
    done = run_ftkit(
        "train", "--data", str(data), *settings, "--workers", "0", "--name", "real", "--monitor", "auroc", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    reported = done.stdout.splitlines()
    bars = [line for line in reported if "%" in line]
    assert [line.split()[0] for line in bars] == ["stem", "layer1", "layer2", "layer3", "head"]
    assert [line.split()[1] for line in bars[:4]] == ["0", "0", "0", "0"]
    _, out, _ = printed(capsys, "show", str(tmp_path / "runs" / "real"))
    shown = out.splitlines()
    assert all(bar in shown for bar in bars)
    auroc = records(tmp_path / "runs" / "real")[0]["val_auroc"]
    assert f"AUROC {auroc:.4f}" in done.stdout
    assert any(f"epoch 1: AUROC {auroc:.4f}" in line for line in shown)


def test_quiet_training_draws_no_bars(run_ftkit: RunFtkit, image_folder: MakeFolder, tmp_path: Path) -> None:
    data = image_folder(tmp_path / "data", {"train": {"a": 6, "b": 6}, "val": {"a": 3, "b": 3}})
    settings = ["--backbone", "cifar_resnet20", "--weights", "none", "--epochs", "1", "--workers", "0"]
    done = run_ftkit("train", "--quiet", "--data", str(data), *settings, "--strategy", "freeze", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "%" not in done.stdout
    assert "best epoch 1 of 1" in done.stdout
