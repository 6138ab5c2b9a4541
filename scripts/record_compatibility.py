"""Records the public API and the files of this version of ftkit, for the compatibility tests of later versions.

    python scripts/record_compatibility.py api        the public names and signatures, after an intended change
    python scripts/record_compatibility.py files      a model, a project and a run of this version, at a release

The tests compare the first with the code, and read the second with it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import ftkit
from ftkit.testing import draw_image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.unit.test_compatibility import API, FIXTURES, public  # noqa: E402 - the path is set first

SETTINGS = """\
# The most common keys, in the form of this version.
backbone: lenet
weights: default
strategy: {name: gradual, decay: 0.4}
epochs: 1
batch_size: 8
optimizer: {name: adamw, lr: 0.002, weight_decay: 0.01}
lr_curve: cosine
augment: {name: light, rotate: 5}
label_smoothing: 0.1
head: {hidden: null, dropout: 0.1}
checkpoint: {every_steps: 100, keep: 2}
cache: {use: false}
monitor: macro_f1
seed: 3
"""


def record_api() -> None:
    API.write_text(json.dumps(public(), indent=2) + "\n", encoding="utf-8")


def record_files() -> None:
    target = FIXTURES / ftkit.__version__
    shutil.rmtree(target, ignore_errors=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for kind, name in enumerate(("ants", "bees")):
            (folder / "data" / name).mkdir(parents=True)
            for number in range(10):
                draw_image(kind, (28, 28), f"{name}{number}").save(folder / "data" / name / f"{number}.png")
        (folder / "ftkit.yaml").write_text(SETTINGS, encoding="utf-8")
        line = ["train", "--data", "data", "--name", "run", "--no-probe", "--workers", "0", "-q"]
        subprocess.run([sys.executable, "-m", "ftkit", *line], cwd=folder, check=True)
        shutil.copytree(folder / "runs" / "run" / "model", target / "model")
        saved = (folder / "runs" / "run" / "config.yaml").read_text(encoding="utf-8")
        (target / "config.yaml").write_text(saved.replace(scratch, "/home/ann"), encoding="utf-8")
        shutil.copy(folder / "ftkit.yaml", target / "ftkit.yaml")
        subprocess.run([sys.executable, "-m", "ftkit", "init", "kiosk"], cwd=folder, check=True)
        shutil.copytree(folder / "kiosk", target / "project")
    model = ftkit.load(target / "model", precision="fp32")
    predicted = model.predict([draw_image(kind, (28, 28), "x") for kind in range(2)], top_k=2)
    tops = [prediction.top for prediction in predicted]
    (target / "predictions.json").write_text(json.dumps(tops, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    {"api": record_api, "files": record_files}[sys.argv[1]]()
