"""Batch transforms: what they mix, what the records count, and that a run stays exact."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot

import ftkit
from ftkit import resume
from ftkit.api import BatchTransform
from ftkit.errors import FtkitError, RequestError, RunInterrupted
from tests.conftest import MakeFolder, RunFtkit
from tests.models import part
from tests.runs import planner, records, tensors, weights
from tests.stopping import StopAt

planned = planner(
    backbone="lenet",
    weights="default",
    strategy="full",
    batch_size=5,
    precision="fp32",
    optimizer={"name": "adamw", "lr": 0.01},
)
BOTH = [{"name": "mixup", "alpha": 0.4}, "cutmix"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, image_folder: MakeFolder) -> Path:
    layout = {"train": {"a": 11, "b": 8, "c": 6}, "val": {"a": 3, "b": 3, "c": 3}}
    return image_folder(tmp_path_factory.mktemp("data"), layout)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FTKIT_CACHE_DIR", str(tmp_path / "cache"))


def mixed(name: str, seed: int, alpha: float = 1.0, size: int = 20) -> tuple[torch.Tensor, ...]:
    """Images of one value each, their classes, and both after a transform."""
    transform: BatchTransform = part("batch_transforms", name)(alpha=alpha)
    images = torch.arange(6.0)[:, None, None, None].expand(6, 3, size, size).contiguous()
    targets = one_hot(torch.arange(6), 6).float()
    return images, targets, *transform.apply(images, targets, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_targets_are_mixed_as_the_images_are(name: str) -> None:
    for seed in range(20):
        images, targets, changed, soft = mixed(name, seed)
        assert torch.allclose(soft.sum(1), torch.ones(6))
        expected = (soft * torch.arange(6.0)).sum(1)
        assert torch.allclose(changed.mean(dim=(1, 2, 3)), expected, atol=1e-4), "by values, a mean is a share"
        assert torch.equal(images[:, 0, 0, 0], torch.arange(6.0)), "not in place"
        assert torch.equal(targets, torch.eye(6))


@pytest.mark.long
def test_weights_follow_the_beta_distribution() -> None:
    for alpha in (0.2, 2.0):
        kept = []
        for seed in range(300):
            _, _, _, soft = mixed("mixup", seed, alpha, 2)
            moved = soft.diagonal()[soft.diagonal() != 1]
            kept += moved[:1].tolist()
        variance = torch.tensor(kept).var().item()
        assert variance == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.25)


def test_cutmix_replaces_one_rectangle() -> None:
    for seed in range(20):
        images, _, changed, _ = mixed("cutmix", seed)
        for before, after in zip(images, changed, strict=True):
            rows = (before != after).any(dim=0).any(dim=1).sum()
            columns = (before != after).any(dim=0).any(dim=0).sum()
            assert (before != after)[0].sum() == rows * columns


CASES: dict[str, dict[str, Any]] = {
    "both, accumulated": {"batch_transforms": BOTH, "accumulate": 2, "batch_size": 3},
    "bf16, weights, smoothing, skipped steps": {
        "batch_transforms": ["mixup"],
        "precision": "bf16",
        "balance": "weights",
        "label_smoothing": 0.1,
        "on_nan": "skip",
    },
    "now and then": {"batch_transforms": [{"name": "cutmix", "probability": 0.5}], "augment": "strong"},
}


ONE = "both, accumulated"


@pytest.mark.parametrize(
    "settings",
    [pytest.param(case, id=name, marks=() if name == ONE else pytest.mark.long) for name, case in CASES.items()],
)
def test_a_stopped_run_ends_with_the_same_bytes(settings: dict[str, Any], data: Path) -> None:
    ftkit.train(planned(data, "whole", **settings))
    with pytest.raises(RunInterrupted):
        ftkit.train(planned(data, "cut", **settings), StopAt(3))
    resume(Path("runs", "cut"))
    assert weights("whole") == weights("cut")
    assert records("whole") == records("cut")
    ftkit.train(planned(data, "plain", **{**settings, "batch_transforms": []}))
    assert weights("plain") != weights("whole")


def test_the_record_counts_the_mixed_targets(data: Path) -> None:
    """With a rate of nearly 0 every batch is computed by the first weights."""
    still = {"optimizer": {"name": "sgd", "lr": 1e-12}, "augment": "none", "epochs": 1, "probe": False}
    ftkit.train(planned(data, "plain", **still))
    ftkit.train(planned(data, "mixed", batch_transforms=["mixup"], **still))
    plain, changed = records("plain")[-1], records("mixed")[-1]
    assert changed["val_loss"] == pytest.approx(plain["val_loss"], abs=1e-5)
    assert changed["train_loss"] != plain["train_loss"]
    assert 0 <= changed["train_accuracy"] <= 1
    ftkit.train(planned(data, "never", batch_transforms=[{"name": "mixup", "probability": 0}], **still))
    assert records("never")[-1]["train_loss"] == pytest.approx(plain["train_loss"], abs=1e-5)
    assert records("never")[-1]["train_accuracy"] == plain["train_accuracy"]


def test_the_probe_is_cached_and_the_phases_are_not(data: Path, run_ftkit: RunFtkit) -> None:
    flags = ["--data", str(data), "--backbone", "lenet", "--strategy", "freeze", "--epochs", "3"]
    shown = run_ftkit("plan", *flags, "--mixup", "0.2", "--cutmix", "1")
    assert shown.returncode == 0, shown.stderr
    assert "mixup; cutmix; one of them by chance on each training batch" in shown.stdout
    assert "for the probe only (mixup and cutmix mix whole images)" in shown.stdout
    one = json.loads(run_ftkit("plan", *flags, "--mixup", "0.3", "--json").stdout)
    assert [part["name"] for part in one["batch_transforms"]] == ["mixup"]
    assert one["cache"]["phases"] == [None]
    refused = run_ftkit("plan", *flags, "--mixup", "0.2", "--cached-augmentations", "3")
    assert "mixup mixes whole images" in refused.stderr
    cached = planned(data, "run", strategy="freeze", batch_transforms=["mixup"])
    ftkit.train(cached)
    tables = json.loads(run_ftkit("cache", "list", "--json", cwd=Path.cwd()).stdout)
    assert len(tables) == 2, "training and validation images without augmentation"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--mixup", "0"], "mixup.alpha is 0"),
        (["--mixup", "much"], "mixup"),
        (["--batch-transform", "mixdown"], "mixdown"),
        (["--batch-transform", "mixup", "--set", "batch_transforms.mixup.probability=2"], "probability is 2"),
    ],
)
def test_values_that_cannot_be_are_refused(flags: list[str], says: str, data: Path, run_ftkit: RunFtkit) -> None:
    done = run_ftkit("plan", "--data", str(data), *flags)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2


PLUGIN = """
from dataclasses import dataclass
from ftkit.api import BatchTransform, hookimpl

@dataclass(frozen=True)
class Odd(BatchTransform):
    how: str = "shape"

    def apply(self, images, targets, generator):
        if self.how == "raise":
            raise ValueError("no such batch")
        return images[:1] if self.how == "shape" else images, targets.double()

@hookimpl
def ftkit_batch_transforms():
    return {"odd": Odd}
"""


@pytest.mark.parametrize(("how", "says"), [("shape", "images as"), ("dtype", "targets as"), ("raise", "no such batch")])
def test_a_plugins_faults_are_named(how: str, says: str, data: Path, tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text(PLUGIN)
    settings = {"plugins": [str(tmp_path / "odd.py")], "batch_transforms": [{"name": "odd/odd", "how": how}]}
    with pytest.raises(FtkitError, match="odd") as caught:
        ftkit.train(planned(data, "run", **settings))
    assert says in caught.value.message


@pytest.mark.long
def test_two_processes_draw_their_own_numbers_and_resume_exactly(data: Path, run_ftkit: RunFtkit) -> None:
    flags = ["--data", str(data), "--backbone", "lenet", "--strategy", "full", "--epochs", "2", "--batch-size", "3"]
    flags += ["--mixup", "0.4", "--cutmix", "1", "--workers", "0", "--num-processes", "2", "--device", "cpu"]
    first, second = (run_ftkit("train", *flags, "--name", name, cwd=Path.cwd()) for name in ("one", "two"))
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert weights("one") == weights("two")
    assert all(math.isfinite(value) for tensor in tensors("one").values() for value in tensor.flatten()[:10].tolist())


def test_soft_targets_are_those_of_cross_entropy() -> None:
    logits = torch.randn(4, 3)
    soft = torch.softmax(torch.randn(4, 3), 1)
    loss = part("losses", "cross-entropy")()
    assert torch.allclose(
        loss.per_image(logits, soft, 0.1).sum(), cross_entropy(logits, soft, reduction="sum", label_smoothing=0.1)
    )
    with pytest.raises(RequestError):
        part("batch_transforms", "cutmix")(alpha=-1)
