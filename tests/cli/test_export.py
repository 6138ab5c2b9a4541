"""`ftkit export`: what is written computes what the model computes, whatever the network, the format and the plugin."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ftkit
from tests import models
from tests.conftest import MakeFolder, RunFtkit
from tests.models import save_model
from tests.transformed import evaluation_input

CLASSES = ("ants", "bees", "wasps")
ONNX = ("onnx", "onnxscript", "onnxruntime")
needs_onnx = pytest.mark.skipif(
    any(find_spec(package) is None for package in ONNX), reason="needs onnx, onnxscript and onnxruntime: ftkit[onnx]"
)
each_format = pytest.mark.parametrize("form", ["torch-export", pytest.param("onnx", marks=needs_onnx)])

PLUGIN = '''
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ftkit.api import Backbone, Exporter, LayerGroup, Preprocessing, hookimpl
from tests.transformed import transformed

NETWORKS = {}


@dataclass(frozen=True)
class Kept(Exporter):
    """Keeps a copy of the network in memory, and its classes in a file.

    Attributes:
        fault: What to do wrong.
        scale: A factor for the logits.
    """

    fault: str = ""
    scale: float = 1.0

    def export(self, model, images, folder):
        assert not list(folder.iterdir())
        assert images.shape == (2, model.preprocessing.channels, 16, 16)
        assert not model.network.training
        NETWORKS["last"] = deepcopy(model.network)
        file = folder / "inner" / "kept.txt"
        file.parent.mkdir()
        file.write_text("\\n".join(model.classes))
        if self.fault == "raises":
            raise RuntimeError("no converter\\nfor this layer")
        if self.fault == "exits":
            raise SystemExit(3)
        if self.fault == "link":
            (folder / "link.txt").symlink_to(Path.cwd())
        if self.fault == "name":
            (folder / "export.json").write_text("{}")
        returned = {
            "none": None,
            "nothing": (),
            "text": "kept.txt",
            "missing": (folder / "other.bin",),
            "outside": (folder.parent / "kept.bin",),
            "number": (3,),
        }
        return returned.get(self.fault, (file,))

    def load(self, folder):
        assert (folder / "inner" / "kept.txt").is_file()
        if self.fault == "load":
            raise KeyError("inputs")
        network = NETWORKS["last"]

        def logits(images):
            found = network(images) * self.scale
            if self.fault == "traced" and len(images) != 2:
                raise ValueError("expected 2 images")
            if self.fault == "shape":
                return found[:, :-1]
            if self.fault == "type":
                return found.tolist()
            if self.fault == "nan":
                found[-1, 0] = float("nan")
            return found

        return logits


@dataclass(frozen=True)
class Absent(Exporter):
    """Needs a package that isn't there."""

    packages: ClassVar = ("a_package_that_is_not_there",)
    install: ClassVar = "not-there[all]"

    def export(self, model, images, folder):
        raise AssertionError

    def load(self, folder):
        raise AssertionError


@hookimpl
def ftkit_exporters():
    return {"kept": Kept, "absent": Absent}


def transformer(num_classes):
    from torchvision.models import VisionTransformer

    return VisionTransformer(16, 8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=num_classes)


def pairwise(num_classes):
    from torch import nn

    class Pairwise(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(3, num_classes)

        def forward(self, images):
            if len(images) > 7:
                return self.head(images.mean(dim=(2, 3))) + 1
            return self.head(images.mean(dim=(2, 3)))

    return Pairwise()


LOOK = Preprocessing(size=16, crop_pct=1.0)


@hookimpl
def ftkit_backbones():
    groups = (LayerGroup("body", r"(conv_proj|class_token|encoder)"), LayerGroup("head", r"heads\\."))
    return {
        "transformer": Backbone("lab/transformer", groups, ("heads.head",), transformer, LOOK),
        "pairwise": Backbone("lab/pairwise", (LayerGroup("head", r"head\\."),), ("head",), pairwise, LOOK),
    }
'''


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder, run_ftkit: RunFtkit) -> Path:
    """A working folder with a plugin `lab`, images in `data`, and a trained run `runs/mine`."""
    folder = tmp_path_factory.mktemp("work")
    image_folder(folder / "data", {"train": dict.fromkeys(CLASSES, 8), "test": dict.fromkeys(CLASSES, 4)})
    (folder / "lab.py").write_text(PLUGIN)
    (folder / "ftkit.yaml").write_text("plugins: [lab.py]\n")
    arguments = ["train", "--data", "data", "--backbone", "lab/transformer", "--weights", "none", "--epochs", "1"]
    done = run_ftkit(*arguments, "--strategy", "scratch", "--name", "mine", "--workers", "0", "--quiet", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def export(work: Path, run_ftkit: RunFtkit) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `ftkit export` in the working folder."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run_ftkit("export", *arguments, cwd=work)

    return run


Run = Callable[..., subprocess.CompletedProcess[str]]


def computed(form: str, folder: Path, images: Tensor) -> Tensor:
    """Logits of an exported model, without any code of ftkit."""
    if form == "torch-export":
        program: Any = torch.export.load(folder / "model.pt2").module()
        found: Tensor = program(images)
        return found
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def noise(images: int, channels: int, size: int) -> Tensor:
    """Noise images as `ftkit export` compares outputs for, normalized: networks may amplify others without limit."""
    return (torch.rand(images, channels, size, size) - 0.5) / 0.25


def bundle_of(name: str, size: int, folder: Path) -> nn.Module:
    """A bundle of a built-in backbone with random weights whose logits differ from image to image; its network."""
    backbone = models.backbone(name).for_size(size)
    torch.manual_seed(0)
    network = backbone.build(len(CLASSES))
    pre = replace(backbone.preprocessing, size=size)
    with torch.no_grad():
        for parameter in network.get_submodule(backbone.head[-1]).parameters():
            nn.init.normal_(parameter, std=0.5)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # its statistics become means over all batches
        for _ in range(3):
            network.train()(noise(8, pre.channels, size))
    save_model(folder, CLASSES, name, network, pre)
    return network.eval()


@each_format
def test_a_trained_run_computes_the_same_in_another_format(
    work: Path, export: Run, run_ftkit: RunFtkit, tmp_path: Path, form: str
) -> None:
    done = export("mine", "--format", form, "--to", str(tmp_path / "new" / "out"), "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    file = {"torch-export": "model.pt2", "onnx": "model.onnx"}[form]
    assert found["files"] == [file, "export.json"]
    assert sorted(path.name for path in (tmp_path / "new" / "out").iterdir()) == ["export.json", file]
    parity = found["parity"]
    assert (parity["images"], parity["batch_sizes"]) == (24, [1, 3, 8])
    assert parity["data"] == "dataset folder, test split"
    assert parity["largest_difference"] <= 1e-5 < parity["tolerance"]
    about = json.loads((tmp_path / "new" / "out" / "export.json").read_text(encoding="utf-8"))
    model = ftkit.load(
        work / "runs" / "mine", registry=models.Registry([work / "lab.py"]), device="cpu", precision="fp32"
    )
    pre = model.preprocessing
    assert about["classes"] == list(CLASSES)
    assert about["task"]["name"] == "multiclass"
    assert about["preprocessing"]["mean"] == list(pre.mean)
    assert about["preprocessing"]["size"] == about["preprocessing"]["resize"] == about["input"]["shape"][2] == 16
    files = sorted((work / "data" / "test").rglob("*.*"))
    images = torch.stack([evaluation_input(pre, path) for path in files])
    ours = {line["file"]: line for line in map(json.loads, predicted(run_ftkit, work))}
    for batch in (images, images[:1], images[:5]):
        chances = computed(form, tmp_path / "new" / "out", batch).softmax(1)
        for path, row in zip(files, chances.tolist(), strict=False):
            top = {t["label"]: t["probability"] for t in ours[str(path.relative_to(work))]["top"]}
            assert dict(zip(CLASSES, row, strict=True)) == pytest.approx(top, abs=1e-5)


def predicted(run_ftkit: RunFtkit, work: Path) -> list[str]:
    arguments = ["predict", "data/test", "--model", "mine", "--json", "--top-k", "3", "--precision", "fp32"]
    return run_ftkit(*arguments, cwd=work).stdout.splitlines()


@each_format
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("lenet", 28),
        ("resnet18", 32),
        pytest.param("mobilenet_v3_small", 32, marks=pytest.mark.long),
        pytest.param("vit_b_16", 32, marks=pytest.mark.long),
        pytest.param("efficientnet_b0", 64, marks=pytest.mark.long),
        pytest.param("swin_t", 32, marks=pytest.mark.long),
        pytest.param("googlenet", 64, marks=pytest.mark.long),
    ],
)
def test_built_in_networks(tmp_path: Path, run_ftkit: RunFtkit, name: str, size: int, form: str) -> None:
    network = bundle_of(name, size, tmp_path / "model")
    done = run_ftkit("export", "model", "--format", form, "--to", "out", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["parity"]["data"] is None
    channels = json.loads((tmp_path / "out" / "export.json").read_text())["preprocessing"]["channels"]
    images = noise(5, channels, size)
    with torch.no_grad():
        expected = network(images)
    assert expected.std(dim=0).min() > 1e-3, "logits of all images are alike, and a comparison means nothing"
    apart = (computed(form, tmp_path / "out", images) - expected).abs().max()
    assert apart <= 1e-4 * max(1.0, expected.abs().max().item())


@pytest.mark.shared
@pytest.mark.long
@each_format
def test_real_weights_on_real_images(tmp_path: Path, shared: Path, run_ftkit: RunFtkit, form: str) -> None:
    data, weights = shared / "data" / "cifar10-subset.tar", shared / "weights" / "resnet20-12fca82f.th"
    arguments = ["--data", str(data), "--backbone", "cifar_resnet20", "--weights", str(weights)]
    quick = ["--strategy", "freeze", "--epochs", "1", "--train-samples", "100", "--workers", "0", "--quiet"]
    trained = run_ftkit("train", *arguments, *quick, "--name", "real", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    done = run_ftkit("export", "real", "--format", form, "--to", "out", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    parity = json.loads(done.stdout)["parity"]
    assert parity["data"] == "dataset archive, test split"
    assert parity["largest_difference"] < parity["tolerance"]
    assert parity["largest_logit"] > 1


def test_an_exported_file_names_no_folder_of_this_machine(work: Path, export: Run, tmp_path: Path) -> None:
    forms = ["torch-export"] + ["onnx"] * all(find_spec(package) for package in ONNX)
    for form in forms:
        assert export("mine", "--format", form, "--to", str(tmp_path / form)).returncode == 0
        for path in (tmp_path / form).iterdir():
            content = path.read_bytes()
            for place in (work, Path(torch.__file__).parent, Path(ftkit.__file__).parent):
                assert str(place).encode() not in content, path


def test_onnx_in_another_opset_and_options_that_are_wrong(export: Run, tmp_path: Path) -> None:
    target = tmp_path / "out"
    for option, message in (
        ("opset=17", "opset is 17"),
        ("opset=x", "--set opset: must be a whole number"),
        ("opsets=18", "--set opsets: unknown key, did you mean 'opset'?"),
    ):
        done = export("mine", "--format", "onnx", "--to", str(target), "--set", option)
        assert done.returncode == 2
        assert message in done.stderr
    done = export("mine", "--format", "onnx", "--to", str(target), "--set", "opset=18")
    if any(find_spec(package) is None for package in ONNX):
        assert done.returncode == 2
        assert "--format onnx needs onnx" in done.stderr
        assert "pip install 'ftkit[onnx]'" in done.stderr
        assert not target.exists()
        return
    import onnx

    assert done.returncode == 0, done.stderr
    assert [opset.version for opset in onnx.load(target / "model.onnx").opset_import if not opset.domain] == [18]
    assert json.loads((target / "export.json").read_text())["exporter"] == {"name": "onnx", "options": {"opset": 18}}


def test_a_plugins_exporter_by_name(export: Run, tmp_path: Path) -> None:
    done = export("mine", "--format", "lab/kept", "--to", str(tmp_path / "out"), "--set", "scale=1.00001")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "inner" / "kept.txt").read_text().split() == list(CLASSES)
    first, second = done.stdout.splitlines()
    assert first == f"runs/mine/model as lab/kept in {tmp_path / 'out'}: inner/kept.txt, export.json"
    assert second.startswith("largest difference in logits: ")
    assert second.endswith("24 images in batches of 1, 3, 8: random images and images of dataset folder, test split")
    assert "0 (tolerance" not in second
    options = json.loads((tmp_path / "out" / "export.json").read_text())["exporter"]["options"]
    assert options == {"fault": "", "scale": 1.00001}


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("fault=raises", "failed in export() of exporter 'lab/kept': RuntimeError: no converter for this layer"),
        ("fault=exits", "failed in export() of exporter 'lab/kept': SystemExit: 3"),
        ("fault=load", "failed in load() of exporter 'lab/kept': KeyError: 'inputs'"),
        ("fault=traced", "failed in load() of exporter 'lab/kept': ValueError: expected 2 images"),
        ("fault=number", "failed in export() of exporter 'lab/kept': TypeError"),
        ("fault=none", "exporter 'lab/kept': it returned NoneType, not a list of paths"),
        ("fault=text", "exporter 'lab/kept': it returned str, not a list of paths"),
        ("fault=nothing", "exporter 'lab/kept': it returned no file"),
        ("fault=missing", "exporter 'lab/kept': it returned other.bin, which it didn't write"),
        ("fault=outside", "kept.bin, which is outside of the folder that it was given"),
        ("fault=link", "exporter 'lab/kept': it wrote the symbolic link link.txt"),
        ("fault=name", "exporter 'lab/kept': it wrote export.json, which is the name of ftkit's own file"),
        ("fault=shape", "the exported model returns logits of shape (1, 2) for 1 image, not (1, 3)"),
        ("fault=type", "the exported model returns list, not a tensor"),
        ("fault=nan", "the exported model returns logits that are not finite"),
        ("scale=1.01", "exporter 'lab/kept': a logit of the exported model differs by 0.0"),
    ],
)
def test_what_an_exporter_does_wrong_is_one_line_and_leaves_nothing(
    export: Run, tmp_path: Path, option: str, message: str
) -> None:
    done = export("mine", "--format", "lab/kept", "--to", str(tmp_path / "new" / "out"), "--set", option)
    assert done.returncode == 1, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "plugin 'lab'" in errors[0]
    assert message in errors[0]
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_leaves_the_earlier_one(export: Run, tmp_path: Path) -> None:
    target = str(tmp_path / "out")
    assert export("mine", "--format", "lab/kept", "--to", target).returncode == 0
    before = (tmp_path / "out" / "export.json").read_bytes()
    again = export("mine", "--format", "lab/kept", "--to", target)
    assert again.returncode == 2
    assert "give --force to replace it" in again.stderr
    failed = export("mine", "--format", "lab/kept", "--to", target, "--force", "--set", "scale=2")
    assert failed.returncode == 1
    assert (tmp_path / "out" / "export.json").read_bytes() == before
    assert export("mine", "--format", "torch-export", "--to", target, "--force").returncode == 0
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["export.json", "model.pt2", "out"]


def test_no_other_folder_is_written_over(export: Run, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    for name, message in (
        ("photos", "the folder has other files"),
        ("file", "it is not a folder"),
        ("link", "it is not a folder"),
    ):
        done = export("mine", "--format", "lab/kept", "--to", str(tmp_path / name), "--force")
        assert done.returncode == 2
        assert message in done.stderr
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["a.jpg"]
    (tmp_path / "empty").mkdir()
    assert export("mine", "--format", "lab/kept", "--to", str(tmp_path / "empty")).returncode == 0


def test_names_and_packages_that_are_not_there(export: Run, tmp_path: Path) -> None:
    for form, message in (
        ("onx", "unknown exporter 'onx'"),
        ("kept", "did you mean 'lab/kept'?"),
        ("lab/absent", "--format lab/absent needs a_package_that_is_not_there, which is not installed"),
        ("lab/absent", "pip install 'not-there[all]'"),
    ):
        done = export("mine", "--format", form, "--to", str(tmp_path / "out"))
        assert done.returncode == 2
        assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_model_whose_outputs_are_not_finite(tmp_path: Path, run_ftkit: RunFtkit) -> None:
    network = models.backbone("lenet").build(len(CLASSES))
    with torch.no_grad():
        next(iter(network.parameters())).fill_(float("nan"))
    save_model(tmp_path / "model", CLASSES, "lenet", network)
    done = run_ftkit("export", "model", "--format", "torch-export", "--to", "out", cwd=tmp_path)
    assert done.returncode == 1
    assert "the model's outputs are not finite for 12 of 12 images" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_without_the_runs_data_random_images_are_compared(work: Path, run_ftkit: RunFtkit, tmp_path: Path) -> None:
    shutil.copytree(work / "runs", tmp_path / "runs")
    (tmp_path / "ftkit.yaml").write_text(f"plugins: [{work / 'lab.py'}]\n")
    config = tmp_path / "runs" / "mine" / "config.yaml"
    config.write_text(config.read_text().replace(str(work / "data"), str(tmp_path / "gone")))
    done = run_ftkit("export", "mine", "--format", "lab/kept", "--to", "out", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "warning: compared on random images alone: the run's data can't be used: " in done.stderr
    parity = json.loads(done.stdout)["parity"]
    assert (parity["images"], parity["data"]) == (12, None)
    config.write_text("epochs: many\n")
    done = run_ftkit("export", "mine", "--format", "lab/kept", "--to", "out2", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "warning: compared on random images alone: " in done.stderr


def test_a_network_that_computes_otherwise_for_large_batches_is_refused(
    work: Path, run_ftkit: RunFtkit, tmp_path: Path
) -> None:
    save_model(tmp_path / "model", CLASSES, "lab/pairwise", plugins=[work / "lab.py"])
    (tmp_path / "ftkit.yaml").write_text(f"plugins: [{work / 'lab.py'}]\n")
    done = run_ftkit("export", "model", "--format", "torch-export", "--to", "out", cwd=tmp_path)
    assert done.returncode == 1, done.stdout
    assert "exporter 'torch-export'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.long
@each_format
def test_the_program_in_the_docs_predicts_as_ftkit_does(
    export: Run, run_ftkit: RunFtkit, work: Path, tmp_path: Path, form: str
) -> None:
    guide = (Path(__file__).resolve().parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    reading, onnx, pytorch = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    assert export("mine", "--format", form, "--to", str(tmp_path / "ants-onnx")).returncode == 0
    ending = "\nshifted = np.exp(logits[0] - logits[0].max())\nprint(*(shifted / shifted.sum()))\n"
    program = "import sys\nsys.modules['ftkit'] = None\n" + reading + (onnx if form == "onnx" else pytorch) + ending
    for line in map(json.loads, predicted(run_ftkit, work)[::4]):
        shutil.copy(work / line["file"], tmp_path / "ant.jpg")
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        label, chances = done.stdout.splitlines()
        assert label in CLASSES
        found = dict(zip(CLASSES, map(float, chances.split()), strict=True))
        assert found == pytest.approx({t["label"]: t["probability"] for t in line["top"]}, abs=0.01)


def test_the_library_exports_as_the_command_does(
    export: Run, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(work)
    done = ftkit.export("mine", "torch-export", tmp_path / "library")
    assert export("mine", "--format", "torch-export", "--to", str(tmp_path / "command")).returncode == 0
    assert done.files == ("model.pt2", "export.json")
    by_library, by_command = (json.loads((tmp_path / n / "export.json").read_text()) for n in ("library", "command"))
    assert by_library == by_command
    with pytest.raises(ftkit.RequestError, match="there is an exported model"):
        ftkit.export("mine", "torch-export", tmp_path / "library")
    with pytest.raises(ftkit.RequestError, match="colour"):
        ftkit.export("mine", "torch-export", tmp_path / "library", replace=True, colour=3)
    assert ftkit.export("mine", "torch-export", tmp_path / "library", replace=True).parity.holds


def test_nothing_of_ftkit_is_needed_to_use_an_export(export: Run, tmp_path: Path) -> None:
    assert export("mine", "--format", "torch-export", "--to", str(tmp_path / "out")).returncode == 0
    code = """
import json, sys
sys.modules["ftkit"] = sys.modules["torchvision"] = None
import torch
about = json.load(open("export.json"))
network = torch.export.load("model.pt2").module()
shape = about["input"]["shape"][1:]
print(tuple(network(torch.zeros(4, *shape)).shape), len(about["classes"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "out", capture_output=True, text=True, check=False
    )
    assert done.stdout == "(4, 3) 3\n", done.stderr
