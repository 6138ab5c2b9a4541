"""Hugging Face's datasets and networks in ftkit, all of it from files of this test, and a hub of its own."""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from ftkit_hf import ftkit_backbones
from ftkit_hf.dataset import HubDataset
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import ConvNextConfig, ResNetConfig, ViTConfig
from transformers.models.auto.modeling_auto import AutoModelForImageClassification

import ftkit
from ftkit.api import FtkitError, RequestError
from ftkit.testing import check_backbone, check_dataset, draw_image
from ftkit.testing.project import Project

sys.path.insert(0, str(Path(__file__).parent))
from hub import serving

CONFIGS = {
    "vit": ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8
    ),
    "resnet": ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"),
    "convnext": ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, image_size=32),
}
PREPROCESSING = {
    "size": {"shortest_edge": 40},
    "do_center_crop": True,
    "crop_size": {"height": 32, "width": 32},
    "resample": 3,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.2, 0.2],
}


@pytest.fixture
def network(tmp_path: Path) -> Callable[[str], Path]:
    """A small network of a kind, as `save_pretrained` leaves it."""

    def save(kind: str) -> Path:
        torch.manual_seed(1)
        folder = tmp_path / kind
        AutoModelForImageClassification.from_config(CONFIGS[kind]).save_pretrained(folder)
        (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSING))
        return folder

    return save


def rows(count: int, seed: str, label: str = "label") -> datasets.Dataset:
    features = datasets.Features({"picture": datasets.Image(), label: datasets.ClassLabel(names=["ants", "bees"])})
    pictures = [draw_image(i % 2, (32, 32), f"{seed}{i}") for i in range(count)]
    return datasets.Dataset.from_dict({"picture": pictures, label: [i % 2 for i in range(count)]}, features)


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    rows(16, "a").to_parquet(tmp_path / "photos.parquet")
    return tmp_path / "photos.parquet"


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_network_keeps_the_contract(kind: str, network: Callable[[str], Path]) -> None:
    check_backbone(ftkit_backbones()[str(network(kind))], 32)


def test_groups_weights_and_preprocessing_are_its_own(network: Callable[[str], Path]) -> None:
    folder = network("vit")
    described = ftkit_backbones()[str(folder)]
    assert described.group_names == ("stem", "block1", "block2", "head")
    preprocessing = described.preprocessing
    assert (preprocessing.size, preprocessing.resize, preprocessing.interpolation, preprocessing.fit) == (
        32,
        40,
        "bicubic",
        "crop",
    )
    assert preprocessing.mean == (0.5, 0.4, 0.3)
    state = described.weights[0].load()
    kept = AutoModelForImageClassification.from_pretrained(folder).state_dict()
    assert all(torch.equal(state[f"model.{name}"], tensor) for name, tensor in kept.items())
    assert set(state) == set(described.build(2).state_dict())


def test_what_transformers_would_draw_at_random_is_refused(
    network: Callable[[str], Path], parquet: Path, tmp_path: Path
) -> None:
    folder = network("vit")
    state = load_file(folder / "model.safetensors")
    lacking = {name: value for name, value in state.items() if ".0.attention" in name or "layers.0.self_attn" in name}
    assert lacking
    kept = {name: value for name, value in state.items() if name not in lacking}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    data = {"name": "hf/dataset", "path": str(parquet)}
    plan = ftkit.plan(dataset=data, backbone=f"hf/{folder}", epochs=1, output=str(tmp_path), device="cpu")
    with pytest.raises(RequestError, match=rf"don't fit: block1 lacks {len(lacking)} of \d+ tensors"):
        ftkit.train(plan)


def test_parquet_keeps_the_contract(parquet: Path) -> None:
    check_dataset(HubDataset(str(parquet)))
    splits = HubDataset(str(parquet)).load()
    assert splits.classes == ("ants", "bees")
    assert splits.train is not None
    assert list(splits.train.labels) == [0, 1] * 8
    assert splits.train[0][0].size == (32, 32)


def test_what_stands_for_the_images_changes_with_them(parquet: Path) -> None:
    """So that the activation cache needn't open every one to know that they are the same."""
    before, again = (HubDataset(str(parquet)).load().train for _ in range(2))
    assert before is not None
    assert again is not None
    assert None is not before.stamp == again.stamp
    rows(16, "b").to_parquet(parquet)
    after = HubDataset(str(parquet)).load().train
    assert after is not None
    assert before.stamp != after.stamp


def test_a_file_that_is_replaced_and_keeps_its_time_is_read_anew(parquet: Path) -> None:
    """The `datasets` library itself goes by path and modification time."""
    before, was = HubDataset(str(parquet)).load().train, parquet.stat()
    rows(16, "b").to_parquet(parquet)
    os.utime(parquet, ns=(was.st_mtime_ns, was.st_mtime_ns))
    for streaming in (False, True):
        after = HubDataset(str(parquet), streaming=streaming).load().train
        assert before is not None
        assert after is not None
        assert before.stamp != after.stamp
        assert before[0][0].tobytes() != after[0][0].tobytes()


def test_a_folder_of_images_that_are_replaced_and_keep_their_time(tmp_path: Path) -> None:
    for name, label in (("ants", 0), ("bees", 1)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        draw_image(label, (32, 32), "a").save(tmp_path / "photos" / name / "1.png")
    before = HubDataset(str(tmp_path / "photos")).load().train
    file = tmp_path / "photos" / "ants" / "1.png"
    was = file.stat()
    draw_image(0, (32, 32), "b").save(file)
    os.utime(file, ns=(was.st_mtime_ns, was.st_mtime_ns))
    after = HubDataset(str(tmp_path / "photos")).load().train
    assert before is not None
    assert after is not None
    assert before.stamp != after.stamp


def test_images_are_read_as_those_of_files_are(tmp_path: Path) -> None:
    """Upright by metadata that the library itself stumbles over: a resolution below zero beside an orientation."""
    tags = struct.pack("<HHHIHHHHII", 2, 0x0112, 3, 1, 6, 0, 0x011A, 10, 1, 62)
    exif = b"Exif\0\0II" + struct.pack("<HI", 42, 8) + tags + bytes(28) + struct.pack("<ii", -1, 1)
    written = BytesIO()
    Image.new("RGB", (32, 16)).save(written, "JPEG")
    content = written.getvalue()
    content = content[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + content[2:]
    (tmp_path / "turned.jpg").write_bytes(content)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    values = [{"path": None, "bytes": content}, {"path": str(tmp_path / "turned.jpg"), "bytes": None}]
    table = datasets.Dataset.from_dict({"image": values, "label": [0, 1]}, features)
    datasets.DatasetDict({"train": table}).save_to_disk(str(tmp_path / "saved"))
    train = HubDataset(str(tmp_path / "saved")).load().train
    assert train is not None
    assert [train.open(index).size for index in range(2)] == [(16, 32)] * 2


def test_splits_of_a_saved_dataset(tmp_path: Path) -> None:
    saved = datasets.DatasetDict({"train": rows(8, "a"), "validation": rows(4, "b"), "test": rows(2, "c")})
    saved.save_to_disk(tmp_path / "saved")
    splits = HubDataset(str(tmp_path / "saved")).load()
    assert {name: len(split) for name, split in splits.present()} == {"train": 8, "val": 4, "test": 2}


def test_splits_that_are_passed_over_are_named(tmp_path: Path) -> None:
    saved = datasets.DatasetDict({"train": rows(8, "a"), "extra": rows(4, "b"), "validation": rows(2, "c")})
    saved.save_to_disk(str(tmp_path / "saved"))
    assert HubDataset(str(tmp_path / "saved")).load().notes == ("splits passed over beside train, validation: extra",)


def test_columns_are_found_or_named(tmp_path: Path) -> None:
    rows(4, "a", "species").to_parquet(tmp_path / "one.parquet")
    assert HubDataset(str(tmp_path / "one.parquet")).load().classes == ("ants", "bees")
    with pytest.raises(RequestError, match=r"dataset.label_column: .* has no such column 'specie'"):
        HubDataset(str(tmp_path / "one.parquet"), label_column="specie").load()
    plain = datasets.Dataset.from_dict({"a": [1, 2]})
    plain.to_parquet(tmp_path / "plain.parquet")
    with pytest.raises(RequestError, match="has 0 columns of images"):
        HubDataset(str(tmp_path / "plain.parquet")).load()


def test_text_labels_are_ordered_as_everywhere(tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    pictures = [Image.new("RGB", (8, 8))] * 3
    datasets.Dataset.from_dict({"image": pictures, "label": ["10", "9", "9"]}, features).to_parquet(
        tmp_path / "t.parquet"
    )
    assert HubDataset(str(tmp_path / "t.parquet")).load().classes == ("9", "10")


def test_a_dataset_that_is_nowhere_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(FtkitError, match=r"dataset.path: .*nowhere.parquet can't be loaded"):
        HubDataset(str(tmp_path / "nowhere.parquet")).load()


@pytest.mark.long
def test_a_network_that_is_nowhere_is_one_line(ftkit_project: Callable[..., Project]) -> None:
    project = ftkit_project({})
    line = ("train", "--dataset", "digits", "--backbone", "hf/nobody/nowhere", "--epochs", "1")
    done = project.run(*line, env={"HF_HUB_OFFLINE": "1"})
    assert done.returncode == 1
    assert "hf/nobody/nowhere: its configuration isn't available" in done.stderr
    assert "hf download nobody/nowhere" in done.stderr
    assert "Traceback" not in done.stderr


def picture_of(what: str) -> bytes:
    draw_image(0, (32, 32), what).save(out := BytesIO(), format="PNG")
    return out.getvalue()


def test_a_run_with_both_is_pushed_pulled_and_predicts(
    parquet: Path, network: Callable[[str], Path], ftkit_project: Callable[..., Project], tmp_path: Path
) -> None:
    project = ftkit_project({})
    line = ("--dataset", "hf/dataset", "--set", f"dataset.path={parquet}", "--backbone", f"hf/{network('vit')}")
    options = ("--epochs", "1", "--batch-size", "4", "--budget", "none", "--name", "run", "--workers", "2")
    done = project.run("train", *line, *options, "--no-report", "-q")
    assert done.returncode == 0, done.stderr
    with serving() as hub:
        env = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "hf_test"}
        pushed = project.run("hf", "push", "runs/run", "me/bees", env=env)
        assert pushed.returncode == 0, pushed.stderr
        card = hub.files["me/bees", "README.md"].decode()
        assert "ants, bees" in card
        assert "--model hf/me/bees" in card
        pulled = project.run("hf", "pull", "me/bees", env=env)
        assert pulled.returncode == 0, pulled.stderr
        (project.path / "x.png").write_bytes(picture_of("x"))
        there = project.run("predict", "x.png", "--model", "hf/me/bees", "--json", env=env)
        assert there.returncode == 0, there.stderr
    for name in ("model.json", "model.safetensors"):
        assert (project.path / "bees" / name).read_bytes() == (project.path / "runs/run/model" / name).read_bytes()
    ours, theirs = (ftkit.load(project.path / folder) for folder in ("runs/run/model", "bees"))
    picture = draw_image(0, (32, 32), "x")
    assert ours.predict(picture) == theirs.predict(picture)
    said, here = json.loads(there.stdout), ours.predict(project.path / "x.png")[0]
    assert (said["label"], said["probability"]) == (here.label, pytest.approx(here.probability, abs=0.01))


@pytest.mark.long
def test_a_repository_that_is_not_there_is_one_line(ftkit_project: Callable[..., Project], tmp_path: Path) -> None:
    with serving() as hub:
        env = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home")}
        lines = (("hf", "pull", "me/wasps"), ("predict", ".", "--model", "hf/me/wasps"))
        project = ftkit_project({})
        draw_image(0, (32, 32), "x").save(project.path / "x.png")
        for line in lines:
            missing = project.run(*line, env=env)
            assert missing.returncode == 1
            assert "me/wasps can't be pulled" in missing.stderr


def test_the_rate_of_stochastic_depth_acts_in_training(
    network: Callable[[str], Path], tmp_path: Path, ftkit_images: Callable[..., Path]
) -> None:
    photos = ftkit_images({"train": {"a": 8, "b": 8}, "val": {"a": 1, "b": 1}})
    shared: dict[str, Any] = {"dataset": {"name": "folder", "root": str(photos)}, "weights": "none", "workers": 0}
    shared |= {"strategy": "full", "epochs": 1, "batch_size": 4, "precision": "fp32"}
    losses = []
    for rate in (None, 0.0, 0.9):
        backbone, output = f"hf/{network('convnext')}", str(tmp_path / str(rate))
        losses.append(ftkit.train(ftkit.plan(backbone=backbone, drop_path=rate, output=output, **shared)).records[-1])
    assert losses[0]["train_loss"] == losses[1]["train_loss"] != losses[2]["train_loss"]
    without = ftkit.plan(backbone=f"hf/{network('vit')}", drop_path=0.1, output=str(tmp_path / "vit"), **shared)
    with pytest.raises(RequestError, match="has no stochastic depth"):
        ftkit.train(without)
