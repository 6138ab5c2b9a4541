"""`ftkit plan` refuses what training could not use, in one line and without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import RunFtkit

LINE = ("plan", "--dataset", "digits", "--backbone", "lenet", "--weights", "none", "--epochs", "3")


def planned(run_ftkit: RunFtkit, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return run_ftkit(*LINE, *options, cwd=folder)


@pytest.mark.parametrize(
    ("options", "printed"),
    [
        (
            ("adamw", "betas=[0.9, 1.0]"),
            "optimizer.betas is [0.9, 1]\nhint: give two numbers from 0 to below 1, such",
        ),
        (("adamw", "eps=-1"), "optimizer.eps is -1.0\nhint: give a number of 0 or more"),
        (("adamw", "amsgrad=1"), "optimizer.amsgrad: must be true or false, not 1"),
        (("adamw", "weight_decay=much"), "optimizer.weight_decay: must be a number, not 'much'"),
        (("sgd", "nesterov=true"), "optimizer.nesterov needs a momentum above 0 and no dampening"),
        (("sgd", "momentum=.inf"), "optimizer.momentum is inf\nhint: give a number of 0 or more"),
        (("adafactor", "eps=0.1"), "optimizer.eps: must be a list, not 0.1"),
        (("adafactor", "beta2_decay=0.8"), "optimizer.beta2_decay is 0.8\nhint: give a number of 0 or less"),
        (("rprop", "etas=[1.2, 0.5]"), "optimizer.etas is [1.2, 0.5]\nhint: give two numbers, one between"),
        (("rmsprop", "centered=yes please"), "optimizer.centered: must be true or false"),
        (("sgd", "betas=[0.9, 0.99]"), "optimizer.betas"),
        (("adamw", "lr=-1"), "optimizer.lr"),
        (("lbfgs", "lr=1"), "optimizer 'lbfgs' isn't supported: it computes the loss several times in a step"),
        (("muon", "lr=1"), "optimizer 'muon' isn't supported: it trains matrices only"),
        (("sparseadam", "lr=1"), "optimizer 'sparseadam' isn't supported: it takes sparse gradients only"),
        (("sdg", "lr=1"), "did you mean 'sgd'?"),
    ],
)
def test_invalid_optimizer_options_are_refused(
    options: tuple[str, str], printed: str, tmp_path: Path, run_ftkit: RunFtkit
) -> None:
    done = planned(run_ftkit, tmp_path, "--optimizer", options[0], "--set", f"optimizer.{options[1]}")
    assert done.returncode == 2
    assert printed in done.stderr
    assert "Traceback" not in done.stderr


def test_invalid_options_in_a_file_are_reported_with_their_line(tmp_path: Path, run_ftkit: RunFtkit) -> None:
    (tmp_path / "ftkit.yaml").write_text("optimizer:\n  name: sgd\n  momentum: -0.9\n")
    done = planned(run_ftkit, tmp_path)
    assert done.returncode == 2
    assert "ftkit.yaml:3: optimizer.momentum is -0.9" in done.stderr


def test_a_curve_without_effect_on_the_optimizer_is_refused(tmp_path: Path, run_ftkit: RunFtkit) -> None:
    asked = planned(run_ftkit, tmp_path, "--optimizer", "rprop", "--set", "lr_curve=linear")
    assert asked.returncode == 2
    assert "--set lr_curve has no effect: optimizer rprop uses the learning rate in the first step only" in asked.stderr
    for name, lr, noted in (("rprop", "0.01", True), ("adafactor", "0.9", True), ("adafactor", "0.001", False)):
        done = planned(run_ftkit, tmp_path, "--optimizer", name, "--lr", lr, "--json")
        notes = json.loads(done.stdout)["notes"]
        assert any(f"optimizer {name}" in note for note in notes) == noted, notes


def test_a_folder_named_like_a_tracker_is_not_the_tracker(tmp_path: Path) -> None:
    """Trackers create such folders, and Python imports them as empty packages."""
    (tmp_path / "nowhere").mkdir()
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "__init__.py").touch()
    code = "from ftkit.api import is_installed\n"
    code += "print(*map(is_installed, ('nowhere', 'here', 'json', 'no.where')))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "True", "False"]


@pytest.mark.parametrize("tracker", ["wandb", "mlflow", "tensorboard"])
def test_a_missing_tracker_is_refused_beside_a_folder_of_its_name(
    tracker: str, tmp_path: Path, run_ftkit: RunFtkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ftkit.api import is_installed

    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / tracker).mkdir()
    done = planned(run_ftkit, tmp_path, "--tracker", tracker)
    assert done.returncode == (0 if is_installed(tracker) else 2)
    if done.returncode:
        assert f"tracker '{tracker}' isn't installed" in done.stderr
