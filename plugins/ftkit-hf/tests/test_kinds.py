"""transformers' kinds of image classifiers, small and with random weights: trained, or refused in one line."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ftkit_hf import ftkit_backbones
from transformers import AutoConfig

import ftkit
from ftkit.api import RequestError
from ftkit.testing import check_cuts

VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
SWIN = {"image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}
TEXT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "intermediate_size": 16,
    "vocab_size": 64,
}
TWO = {"hidden_sizes": [8, 16], "depths": [1, 1]}
FOUR = {"hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1]}
LEVIT = {
    "image_size": 64,
    "hidden_sizes": [16, 24, 32],
    "num_attention_heads": [1, 1, 2],
    "depths": [1, 1, 1],
    "key_dim": [8, 8, 8],
}
HGNET = {
    "embedding_size": 8,
    "depths": [1, 1, 1, 1],
    "hidden_sizes": [16, 16, 16, 16],
    "stem_channels": [3, 8, 8],
    "stage_in_channels": [8, 16, 16, 16],
    "stage_mid_channels": [8, 8, 8, 8],
    "stage_out_channels": [16, 16, 16, 16],
    "stage_num_blocks": [1, 1, 1, 1],
    "stage_numb_of_layers": [1, 1, 1, 1],
}
KINDS: dict[str, tuple[int, dict[str, Any]]] = {
    "beit": (32, VIT),
    "bit": (64, {"embedding_size": 32, "hidden_sizes": [128] * 4, "depths": [1, 1, 1, 1]}),
    "clip": (32, {"vision_config": VIT, "text_config": TEXT}),
    "convnext": (32, {**TWO, "num_stages": 2}),
    "convnextv2": (32, {**TWO, "num_stages": 2}),
    "cvt": (64, {"embed_dim": [8, 16, 16], "num_heads": [1, 1, 1], "depth": [1, 2, 3]}),
    "data2vec-vision": (32, VIT),
    "deit": (32, VIT),
    "deit:DeiTForImageClassificationWithTeacher": (32, VIT),
    "dinov2": (32, VIT),
    "dinov2_with_registers": (32, VIT),
    "donut-swin": (32, SWIN),
    "efficientnet": (64, {"width_coefficient": 0.2, "depth_coefficient": 0.2, "hidden_dim": 256, "image_size": 64}),
    "focalnet": (32, {**TWO, "image_size": 32, "patch_size": 2, "embed_dim": 8, "focal_levels": [1, 1],
                      "focal_windows": [3, 3]}),
    "hgnet_v2": (64, HGNET),
    "hiera": (64, {"image_size": [64, 64], "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1]}),
    "ijepa": (32, VIT),
    "levit": (64, LEVIT),
    "levit:LevitForImageClassificationWithTeacher": (64, LEVIT),
    "metaclip_2": (32, {"vision_config": VIT, "text_config": TEXT}),
    "mobilenet_v1": (64, {"depth_multiplier": 0.25, "image_size": 64}),
    "mobilenet_v2": (64, {"depth_multiplier": 0.35, "image_size": 64}),
    "mobilevit": (64, {"hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 24, 24, 32, 32],
                       "image_size": 64}),
    "mobilevitv2": (64, {"width_multiplier": 0.25, "image_size": 64}),
    "poolformer": (64, FOUR),
    "pp_lcnet": (64, {"scale": 0.25}),
    "pvt": (64, {**FOUR, "image_size": 64, "num_attention_heads": [1, 1, 1, 1]}),
    "pvt_v2": (64, {**FOUR, "image_size": 64, "num_attention_heads": [1, 1, 1, 1]}),
    "regnet": (32, {**TWO, "embedding_size": 8, "groups_width": 8}),
    "resnet": (32, {**TWO, "embedding_size": 8, "layer_type": "basic"}),
    "segformer": (64, {**FOUR, "num_attention_heads": [1, 1, 1, 1], "decoder_hidden_size": 16}),
    "siglip": (32, {"vision_config": VIT, "text_config": TEXT}),
    "swiftformer": (64, {"depths": [1, 1, 1, 1], "embed_dims": [16, 16, 32, 32]}),
    "swin": (32, SWIN),
    "swinv2": (32, SWIN),
    "textnet": (64, {}),
    "vit": (32, VIT),
    "vit_msn": (32, VIT),
}  # fmt: skip
"""Size of image and configuration of each; after a colon the architecture that the configuration names."""
QUICK = (
    "deit",
    "deit:DeiTForImageClassificationWithTeacher",
    "levit:LevitForImageClassificationWithTeacher",
    "pp_lcnet",
)
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "dinat": ({}, "can't build this dinat: ImportError: DinatForImageClassification requires the natten library"),
    "imagegpt": ({}, "is a imagegpt, which takes a sequence of colours"),
    "perceiver": ({"num_latents": 8, "d_latents": 16, "num_self_attends_per_block": 1, "image_size": 32,
                   "num_self_attention_heads": 2, "num_cross_attention_heads": 1}, "aren't a list"),
    "siglip2": ({}, "is a siglip2, which takes patches of images with a mask"),
    "timm_wrapper": ({"architecture": "test_resnet"}, "is timm's test_resnet (use --backbone timm/test_resnet)"),
    "vit_mae": ({}, "is a vit_mae, which transformers has no image classifier for"),
}  # fmt: skip


def configured(folder: Path, kind: str, size: int, options: dict[str, Any]) -> str:
    """The name of a backbone whose configuration lies in a folder."""
    model_type, _, architecture = kind.partition(":")
    AutoConfig.for_model(model_type, **options).save_pretrained(folder)
    if architecture:
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "architectures": [architecture]}))
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": {"height": size, "width": size}}))
    return f"hf/{folder}"


@pytest.mark.parametrize("kind", [k if k in QUICK else pytest.param(k, marks=pytest.mark.long) for k in KINDS])
def test_a_kind_of_network_is_trained_and_predicts_what_its_record_says(
    kind: str, tmp_path: Path, ftkit_images: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FTKIT_CACHE_DIR", str(tmp_path / "cache"))
    size, options = KINDS[kind]
    name = configured(tmp_path / "network", kind, size, options)
    photos = ftkit_images({"train": {"a": 2, "b": 2, "c": 2}, "val": {"a": 1, "b": 1, "c": 1}})
    for strategy in ("freeze", "full"):
        plan = ftkit.plan(
            dataset={"name": "folder", "root": str(photos)}, backbone=name, weights="none", strategy=strategy,
            epochs=2, batch_size=3, workers=0, augment="none", precision="fp32", device="cpu",
            output=str(tmp_path / strategy),
        )  # fmt: skip
        run = ftkit.train(plan).run
        recorded = json.loads(run.metrics.read_text().splitlines()[-1])["val_loss"]
        predicted = ftkit.load(run.path / "last", precision="fp32").predict(
            sorted((photos / "val").glob("*/*")), top_k=3
        )
        found = [dict(one.top)[label] for one, label in zip(predicted, "abc", strict=True)]
        assert -sum(map(math.log, found)) / 3 == pytest.approx(recorded, abs=1e-4)


@pytest.mark.parametrize("kind", [k if k in QUICK else pytest.param(k, marks=pytest.mark.long) for k in KINDS])
def test_a_kind_of_network_is_cut_below_each_group_that_trains(kind: str, tmp_path: Path) -> None:
    size, options = KINDS[kind]
    check_cuts(ftkit_backbones()[configured(tmp_path, kind, size, options).removeprefix("hf/")], size)


def test_both_heads_of_a_distilled_network_are_its_head(tmp_path: Path) -> None:
    size, options = KINDS[QUICK[1]]
    name = configured(tmp_path / "network", QUICK[1], size, options)
    described = ftkit_backbones()[name.removeprefix("hf/")]
    assert described.head == ("model.cls_classifier", "model.distillation_classifier")
    assert described.groups[-1].owns("model.cls_classifier.weight")
    network = described.build(3).eval()
    images = torch.randn(2, 3, size, size)
    found = network.get_submodule("model")(pixel_values=images)
    assert torch.equal(network(images), (found.cls_logits + found.distillation_logits) / 2)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_takes_no_images_alone_or_cant_be_made_is_refused(kind: str, tmp_path: Path) -> None:
    options, said = REFUSED[kind]
    name = configured(tmp_path / "network", kind, 32, options).removeprefix("hf/")
    with pytest.raises(ftkit.FtkitError) as refused:
        list(ftkit_backbones()[name].groups)
    assert said in str(refused.value)
    assert name in str(refused.value)
    assert kind == "perceiver" or isinstance(refused.value, RequestError)
