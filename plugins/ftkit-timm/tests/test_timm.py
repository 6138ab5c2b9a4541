"""timm's models as ftkit backbones: described rightly, loaded from the hub's cache, trained by name."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from ftkit_timm import ftkit_backbones
from ftkit_timm.models import preprocessing
from safetensors.torch import load_file, save_file

import ftkit
from ftkit.api import Backbone, RequestError
from ftkit.testing import check_backbone, check_cuts
from ftkit.testing.project import Project

TINY = {"test_resnet": 32, "test_convnext": 32, "test_vit": 160}
"""Networks that timm keeps for tests, and a size of image for each."""

LARGEST = 150_000_000
"""Parameters of the largest network whose cuts are tried."""

PARTS = ("_enc",)
"""Endings of the names of networks that are parts of other models, without a classifier."""

SAMPLE = {
    "beit_base_patch16_224": 224,
    "cait_xxs24_224": 224,
    "coat_tiny": 224,
    "coatnet_nano_rw_224": 224,
    "convit_tiny": 224,
    "convmixer_768_32": 32,
    "convnext_atto": 32,
    "convnextv2_atto": 32,
    "crossvit_tiny_240": 240,
    "cspresnet50": 64,
    "davit_tiny": 64,
    "deit_tiny_distilled_patch16_224": 224,
    "densenet121": 64,
    "dla34": 64,
    "dpn48b": 64,
    "edgenext_xx_small": 64,
    "efficientnet_b0": 64,
    "efficientformer_l1": 224,
    "eva02_tiny_patch14_224": 224,
    "fastvit_t8": 64,
    "focalnet_tiny_srf": 64,
    "gcresnet33ts": 64,
    "ghostnet_100": 64,
    "gmlp_s16_224": 224,
    "hrnet_w18_small": 64,
    "inception_v3": 128,
    "inception_next_tiny": 64,
    "levit_128s": 224,
    "maxvit_rmlp_pico_rw_256": 256,
    "mixer_s32_224": 224,
    "mobilenetv3_small_050": 64,
    "mobilevit_xxs": 64,
    "mvitv2_tiny": 224,
    "nfnet_l0": 64,
    "pit_ti_224": 224,
    "poolformer_s12": 64,
    "pvt_v2_b0": 64,
    "regnety_002": 64,
    "repvgg_a0": 64,
    "resmlp_12_224": 224,
    "resnet18": 64,
    "resnetv2_50": 64,
    "rexnet_100": 64,
    "sequencer2d_s": 224,
    "swin_tiny_patch4_window7_224": 224,
    "swinv2_tiny_window8_256": 256,
    "tiny_vit_5m_224": 224,
    "tnt_s_legacy_patch16_224": 224,
    "tresnet_m": 64,
    "twins_svt_small": 224,
    "vgg11": 64,
    "visformer_tiny": 224,
    "vit_tiny_patch16_224": 224,
    "volo_d1_224": 224,
    "xcit_nano_12_p16_224": 224,
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, torch.Tensor]]:
    """A hub's cache of this test's own, without a network; `hub(name)` puts weights into it and returns them."""
    cache = tmp_path / "hub"
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def put(name: str) -> dict[str, torch.Tensor]:
        torch.manual_seed(5)
        state: dict[str, torch.Tensor] = timm.create_model(name).state_dict()
        folder = cache / f"models--{timm.get_pretrained_cfg(name).hf_hub_id.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text("abc")
        (folder / "snapshots" / "abc").mkdir(parents=True)
        save_file(state, folder / "snapshots" / "abc" / "model.safetensors")
        return state

    return put


@pytest.mark.parametrize(("name", "size"), TINY.items())
def test_a_backbone_keeps_the_contract(name: str, size: int) -> None:
    check_backbone(ftkit_backbones()[name], size)


@pytest.mark.long
@pytest.mark.parametrize(("name", "size"), SAMPLE.items())
def test_many_families_keep_the_contract(name: str, size: int) -> None:
    check_backbone(ftkit_backbones()[name], size)


@pytest.mark.long
@pytest.mark.parametrize("name", timm.list_models())
def test_every_architecture_is_cut_into_groups(name: str) -> None:
    if name.endswith(PARTS):
        with pytest.raises(RequestError, match="has no classifier"):
            check_backbone(ftkit_backbones()[name], train=False)
    else:
        check_backbone(ftkit_backbones()[name], train=False)


@pytest.mark.parametrize(
    ("name", "size", "every"),
    [
        ("tf_efficientnet_lite0", 32, False),
        pytest.param("tf_efficientnet_lite0", 32, True, marks=pytest.mark.long),
        *(pytest.param(*each, True, marks=pytest.mark.long) for each in SAMPLE.items()),
    ],
)
def test_a_network_of_each_family_is_cut_below_each_group_that_trains(name: str, size: int, every: bool) -> None:
    """Those with the padding of TensorFlow can't be traced."""
    places = check_cuts(ftkit_backbones()[name], size, every)
    assert all(place.replayed for place in places if name.startswith("tf_"))


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in timm.list_models() if not name.endswith(PARTS)])
def test_every_architecture_is_cut_below_its_head_and_above_its_stem(name: str) -> None:
    described = ftkit_backbones()[name]
    if (described.body_parameters or 0) > LARGEST:
        pytest.skip("large; smaller networks of its family are tried")
    check_cuts(described, smallest(described), every=False)


def smallest(described: Backbone) -> int:
    """The smallest side of images, in pixels, that a network computes outputs for."""
    for size in (32, 64, 96, 128, 160, 192):
        with contextlib.suppress(Exception):  # its code may raise anything
            channels = described.preprocessing.channels
            with torch.no_grad():
                described.for_size(size).build(3).eval()(torch.zeros(1, channels, size, size))
            return size
    return described.preprocessing.size


@pytest.mark.parametrize(
    ("name", "size"),
    [each if each[0] == "levit_128s" else pytest.param(*each, marks=pytest.mark.long) for each in SAMPLE.items()],
)
def test_a_network_of_each_family_is_trained_and_predicts_what_its_record_says(
    name: str, size: int, tmp_path: Path, ftkit_images: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the network keeps something in eval mode, as LeViT does its attention biases."""
    monkeypatch.setenv("FTKIT_CACHE_DIR", str(tmp_path / "cache"))
    photos = ftkit_images({"train": {"a": 2, "b": 2, "c": 2}, "val": {"a": 1, "b": 1, "c": 1}})
    for strategy in ("freeze", "full"):
        plan = ftkit.plan(
            dataset={"name": "folder", "root": str(photos)}, backbone=f"timm/{name}", weights="none",
            strategy=strategy, epochs=2, batch_size=3, workers=0, augment="none", precision="fp32", device="cpu",
            preprocessing={"size": size}, output=str(tmp_path / strategy),
        )  # fmt: skip
        run = ftkit.train(plan).run
        recorded = json.loads(run.metrics.read_text().splitlines()[-1])["val_loss"]
        predicted = ftkit.load(run.path / "last").predict(sorted((photos / "val").glob("*/*")), top_k=3)
        found = [max(dict(one.top)[label], 1e-30) for one, label in zip(predicted, "abc", strict=True)]
        # A network with random weights may be so sure that a probability is 0.
        assert recorded > 20 or -sum(map(math.log, found)) / 3 == pytest.approx(recorded, abs=1e-4)


def test_groups_are_named_as_people_call_them() -> None:
    assert ftkit_backbones()["resnet18"].group_names == ("stem", "layer1", "layer2", "layer3", "layer4", "head")
    assert ftkit_backbones()["vgg11"].group_names[-2:] == ("hidden", "head")
    convnext = ftkit_backbones()["convnext_atto"]
    assert convnext.group_names == ("stem", "stage1", "stage2", "stage3", "stage4", "head")
    assert convnext.head == ("head.fc",)
    assert convnext.groups[-2].owns("head.norm.weight"), "the final norm is the last stage's"


def test_names_with_and_without_a_tag() -> None:
    models = ftkit_backbones()
    assert "convnext_tiny.fb_in22k" in models
    assert "convnext_tiny.of_dreams" not in models
    assert "convnext_of_dreams" not in models
    assert models["convnext_tiny.fb_in22k"].weights[0].name == "fb_in22k"
    names = {weights.name for weights in models["convnext_tiny"].weights}
    assert {"fb_in22k", "in12k_ft_in1k"} <= names


def test_the_middle_is_cut_out_of_as_many_pixels_as_in_timm() -> None:
    for name in timm.list_pretrained():
        config = timm.get_pretrained_cfg(name)
        ours = preprocessing(config)
        if config.crop_pct <= 1:
            assert ours.resize == math.floor(config.input_size[-1] / config.crop_pct), name
        assert ours.mean == tuple(config.mean)[: config.input_size[0]], name


def test_a_run_takes_the_tensors_in_the_hubs_cache(
    hub: Callable[[str], dict[str, torch.Tensor]],
    ftkit_project: Callable[..., Project],
    ftkit_images: Callable[..., Path],
) -> None:
    put = hub("test_resnet.r160_in1k")
    images, project = ftkit_images({"ants": 8, "bees": 8}), ftkit_project({})
    options = ("--strategy", "freeze", "--epochs", "1", "--batch-size", "8", "--image-size", "32", "--name", "run")
    short = ("--validation", "holdout", "--no-report", "--set", "novelty_features=false", "-q")
    done = project.run("train", "--data", str(images), "--backbone", "timm/test_resnet", *options, *short)
    assert done.returncode == 0, done.stderr
    kept = load_file(project.path / "runs" / "run" / "model" / "model.safetensors")
    assert {name for name in put if not torch.equal(kept[name], put[name])} == {"fc.weight", "fc.bias"} & put.keys()
    answers = ftkit.load(project.path / "runs" / "run").predict(images / "ants" / "0000.jpg")
    assert answers[0].label in ("ants", "bees")


def test_weights_that_are_not_there_are_one_line(
    hub: Callable[[str], dict[str, torch.Tensor]],
    ftkit_images: Callable[..., Path],
    ftkit_project: Callable[..., Project],
    tmp_path: Path,
) -> None:
    images, project = ftkit_images({"ants": 4, "bees": 4}), ftkit_project({})
    done = project.run("train", "--data", str(images), "--backbone", "timm/test_vit", "--epochs", "1")
    assert done.returncode == 1
    assert "timm/test_vit.r160_in1k" in done.stderr
    assert str(tmp_path / "hub") in done.stderr
    assert "hf download timm/test_vit.r160_in1k" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("timm/levit_128s.fb_dist_in1kk", "did you mean 'timm/levit_128s.fb_dist_in1k'?"),
        ("timm/levit_128.fb_dist_in1", "did you mean 'timm/levit_128.fb_dist_in1k'?"),
        ("levit_128s.fb_dist_in1k", "did you mean 'timm/levit_128s.fb_dist_in1k'?"),
        ("resnet18.a1_in1kk", "did you mean 'timm/resnet18.a1_in1k'?"),
        ("timm/resnett18.a1_in1k", "did you mean 'timm/resnet18.a1_in1k'?"),
        ("timm/resnet18.of_dreams", "known: timm/resnet18.a1_in1k, timm/resnet18."),
        ("timm/resnett18", "did you mean 'timm/resnet18'?"),
        ("resnett18", "did you mean 'resnet18'?"),
        ("levit_128s", "did you mean 'timm/levit_128s'?"),
    ],
)
def test_a_misspelt_name_gets_the_nearest_weights_and_no_others(name: str, meant: str) -> None:
    with pytest.raises(RequestError) as refused:
        ftkit.plan(dataset="digits", backbone=name, weights="none")
    assert refused.value.hint is not None
    assert refused.value.hint.startswith(meant)


@pytest.mark.long
def test_a_name_that_timm_has_not_gets_the_nearest(ftkit_project: Callable[..., Project]) -> None:
    done = ftkit_project({}).run("backbones", "show", "timm/convnext_tinny")
    assert done.returncode == 2
    assert "timm/convnext_tiny" in done.stderr


@pytest.mark.parametrize(("name", "size"), [("test_convnext", 32), ("test_vit", 160)])
def test_the_rate_of_stochastic_depth_acts_in_training(
    name: str, size: int, tmp_path: Path, ftkit_images: Callable[..., Path]
) -> None:
    photos = ftkit_images({"train": {"a": 8, "b": 8}, "val": {"a": 1, "b": 1}})
    losses = []
    for rate in (None, 0.0, 0.9):
        plan = ftkit.plan(
            dataset={"name": "folder", "root": str(photos)}, backbone=f"timm/{name}", weights="none", strategy="full",
            epochs=1, batch_size=4, workers=0, precision="fp32", preprocessing={"size": size}, drop_path=rate,
            output=str(tmp_path / str(rate)),
        )  # fmt: skip
        losses.append(ftkit.train(plan).records[-1]["train_loss"])
    assert losses[0] == losses[1] != losses[2]
