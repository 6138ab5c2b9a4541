"""What docs/plugins.md says of records, plans, the library and `ftkit plugins` is so."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ftkit
from tests.conftest import typed
from tests.foreign_parts import CONFIG, PLUGIN, foreign_project

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "plugins.md"


def listed(heading: str) -> set[str]:
    """The keys in the first column of the table under a heading of the guide."""
    section = GUIDE.read_text().split(f"\n{heading}\n")[1].split("\n#")[0]
    return {key for row in re.findall(r"^\| (`.*?) \|", section, re.M) for key in re.findall(r"`(\w+)[`(]", row)}


class Heard(ftkit.Listener):
    def __init__(self) -> None:
        self.epochs: list[int] = []

    def epoch_done(self, event: object) -> None:
        self.epochs.append(event.record["epoch"])  # type: ignore[attr-defined]


def test_the_keys_of_records_and_plans_are_listed(tmp_path: Path) -> None:
    folder = foreign_project(tmp_path / "p", config=CONFIG + "on_nan: skip\n")
    plan = ftkit.plan(folder / "ftkit.yaml", epochs=1, output=str(tmp_path))
    heard = Heard()
    outcome = ftkit.train(plan, heard)
    assert heard.epochs == [0, 1]
    assert set().union(*outcome.records) == listed("### What a record has") - {"val_top5"}
    assert set(json.loads(outcome.run.plan.read_text())) == listed("### What a plan has")
    assert {m for m in vars(ftkit.Listener) if not m.startswith("_")} == listed("## Watching a run from the library")
    for path in (outcome.run, outcome.run.path, str(outcome.run.path)):
        assert ftkit.load(path, registry=plan.resolved.registry).classes == ("round", "square")
    with pytest.raises(ftkit.RequestError, match="load takes the path or name of a model, not Outcome"):
        ftkit.load(outcome)  # type: ignore[arg-type]


def test_a_plan_can_be_sent_to_another_process(tmp_path: Path) -> None:
    folder = foreign_project(tmp_path / "p")
    plans = {
        "plugin": ftkit.plan(folder / "ftkit.yaml"),
        "built in": ftkit.plan(backbone="vit_b_16", weights="none", preprocessing={"size": 64}),
    }
    script = "import pickle, sys; print(pickle.load(sys.stdin.buffer).fingerprint)"
    for plan in plans.values():
        sent = pickle.dumps(plan)
        assert pickle.loads(sent).to_json() == plan.to_json()
        done = subprocess.run([sys.executable, "-c", script], input=sent, capture_output=True, check=False)
        assert done.stdout.decode().strip() == plan.fingerprint, done.stderr.decode()


WRONG = """
from ftkit.api import hookimpl
from foreign_good import Late

@hookimpl
def ftkit_strategies():
    return {"x": 3, "late": Late}

@hookimpl
def ftkit_datasets():
    return {"d": Late}

@hookimpl
def ftkit_backbones():
    return {"b": "resnet18"}

@hookimpl
def ftkit_commands():
    return {"go": 3}

@hookimpl
def ftkit_templates():
    return {"t": "/nowhere/at/all"}
"""


def test_what_is_offered_with_the_wrong_type_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = foreign_project(tmp_path / "p", WRONG, "plugins: [./foreign.py]\n")
    (folder / "foreign_good.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(folder))
    facts = next(f for f in json.loads(typed("plugins", "list", "--json", cwd=folder).stdout) if f["name"] == "foreign")
    assert facts["state"] == "faulty"
    assert len(facts["faults"]) == 5
    shown = typed("plugins", "list", cwd=folder)
    assert re.search(r"^foreign .* faulty ", shown.stdout, re.M)
    for says in (
        "strategy 'foreign/x'",
        "3 is no strategy",
        "dataset 'foreign/d'",
        "backbone 'foreign/b'",
        "is no folder",
    ):
        assert says in shown.stderr
    doctor = typed("plugins", "doctor", "foreign", cwd=folder)
    assert doctor.returncode == 1
    assert doctor.stdout.count("FAIL ") == 5
    command = typed("foreign", "go", cwd=folder)
    assert (command.returncode, "3, not a function" in command.stderr) == (2, True)


REQUIRED = PLUGIN.replace("    per_class: int = 12\n", "    per_class: int\n")


def test_doctor_asks_for_options_that_must_be_given(tmp_path: Path) -> None:
    only = REQUIRED.replace('return {"net": NET}', "return {}").replace('return {"late": Late}', "return {}")
    folder = foreign_project(tmp_path / "p", only, "plugins: [./foreign.py]\n")
    skipped = typed("plugins", "doctor", "foreign", cwd=folder)
    assert "skip   dataset foreign/drawn" in skipped.stdout
    assert "give --set dataset.per_class=VALUE" in skipped.stdout
    assert "1 of 2 checks was skipped" in skipped.stderr
    facts = json.loads(typed("plugins", "doctor", "foreign", "--json", cwd=folder).stdout)
    assert [fact["ok"] for fact in facts] == [True, None]
    given = typed("plugins", "doctor", "foreign", "--set", "dataset.per_class=4", cwd=folder)
    assert (given.returncode, given.stderr) == (0, "")
    assert "ok     dataset foreign/drawn" in given.stdout
    wrong = typed("plugins", "doctor", "foreign", "--set", "dataset.per_class=x", cwd=folder)
    assert (wrong.returncode, "dataset.per_class" in wrong.stderr) == (2, True)
    strange = typed("plugins", "doctor", "foreign", "--set", "dataset.per_clas=4", cwd=folder)
    assert strange.returncode == 2
    assert "did you mean 'dataset.per_class'?" in strange.stderr
    settings = "plugins: [./foreign.py]\ndataset: {name: foreign/drawn, per_class: 3}\n"
    (folder / "ftkit.yaml").write_text(settings)
    assert "ok     dataset foreign/drawn" in typed("plugins", "doctor", "foreign", cwd=folder).stdout


EVERY_KIND = """
from dataclasses import dataclass
from ftkit.api import BatchTransform, Curve, ImageTransform, Loss, hookimpl

@dataclass(frozen=True)
class Doubling(Curve):
    def shape(self, progress, epoch):
        return 2.0

@dataclass(frozen=True)
class Scaled(Loss):
    factor: float

    def per_image(self, logits, targets, smoothing=0.0):
        from torch.nn.functional import cross_entropy
        return self.factor * cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)

@dataclass(frozen=True)
class Same(BatchTransform):
    def apply(self, images, targets, generator):
        return images, targets

@dataclass(frozen=True)
class Cropped(ImageTransform):
    pixels: int = 1

    def apply(self, image):
        return image[..., self.pixels :]

@hookimpl
def ftkit_curves():
    return {"doubling": Doubling}

@hookimpl
def ftkit_losses():
    return {"scaled": Scaled}

@hookimpl
def ftkit_batch_transforms():
    return {"same": Same}

@hookimpl
def ftkit_image_transforms():
    return {"cropped": Cropped}
"""


def test_doctor_checks_every_kind_of_part(tmp_path: Path) -> None:
    folder = foreign_project(tmp_path / "p", EVERY_KIND, "plugins: [./foreign.py]\n")
    results = {r["check"]: r for r in json.loads(typed("plugins", "doctor", "foreign", "--json", cwd=folder).stdout)}
    assert results["curve foreign/doubling"]["fault"].startswith("its factor at step 0 of 1 is 2.0, not from 0 to 1")
    assert "not uint8 of the same shape" in results["image transform foreign/cropped"]["fault"]
    assert results["batch transform foreign/same"]["ok"]
    assert results["loss foreign/scaled"]["skipped"] == "give --set loss.factor=VALUE"
    options = ("--set", "loss.factor=2", "--set", "image_transforms.pixels=0")
    given = typed("plugins", "doctor", "foreign", *options, cwd=folder)
    assert "ok     loss foreign/scaled" in given.stdout
    assert "ok     image transform foreign/cropped" in given.stdout
    wrong = typed("plugins", "doctor", "foreign", "--set", "loss.factor=much", cwd=folder)
    assert (wrong.returncode, "loss.factor" in wrong.stderr) == (2, True)
