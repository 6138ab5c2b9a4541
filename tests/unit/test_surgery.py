"""Changes of a network for a task: its head, and the channels and size of its images."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision import models

import ftkit
from ftkit.api import Backbone
from ftkit.errors import RequestError
from ftkit.models.build import build_model, with_parameter_counts
from ftkit.models.model_size import build_on_meta, measure
from ftkit.models.parameter_groups import assign_parameters
from ftkit.models.surgery import build_network, first_convolution, refit
from ftkit.parts.backbone import Head
from ftkit.planning.cost import count_parameters
from ftkit.runs.model_card import read_card
from ftkit.testing import draw_image
from ftkit.transforms.pipeline import evaluation
from tests.conftest import MakeFolder
from tests.families import QUICK
from tests.models import REGISTRY
from tests.transformed import transformed

SAMPLE = ("resnet18", "densenet121", "inception_v3", "squeezenet1_1", "vit_b_16", "maxvit_t", "cifar_resnet20")


def backbone(name: str, size: int | None = None) -> Backbone:
    described = REGISTRY.backbones.get(name)
    return described.for_size(size) if size else described


@pytest.fixture(scope="module")
def data(image_folder: MakeFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    return image_folder(root, {"train": {"ants": 4, "bees": 4, "wasps": 4}, "val": {"ants": 2, "bees": 2, "wasps": 2}})


@pytest.fixture
def keys(data: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "dataset": {"name": "folder", "root": str(data)},
        "backbone": "cifar_resnet20",
        "weights": "none",
        "strategy": "full",
        "epochs": 1,
        "batch_size": 4,
        "workers": 0,
        "device": "cpu",
        "output": str(tmp_path / "runs"),
    }


def trained(keys: Mapping[str, Any], **changes: Any) -> Path:
    return ftkit.train(ftkit.plan(**{**keys, **changes})).run.path


class TestHead:
    @pytest.mark.parametrize("name", SAMPLE)
    def test_two_layers_take_the_place_of_one(self, name: str) -> None:
        described = backbone(name)
        model = build_on_meta(described, 3, Head(hidden=7, dropout=0.25))
        first, relu, dropout, last = model.get_submodule(described.head[0]).children()
        assert tuple(first.get_parameter("weight").shape[:1]) == (7,)
        assert tuple(last.get_parameter("weight").shape[:2]) == (3, 7)
        assert isinstance(relu, nn.ReLU)
        assert isinstance(dropout, nn.Dropout)
        assert dropout.p == 0.25
        for auxiliary in described.head[1:]:
            assert model.get_parameter(f"{auxiliary}.weight").shape[0] == 3
        in_head = assign_parameters(model, described.groups)["head"]
        assert {f"{described.head[0]}.0.weight", f"{described.head[0]}.3.weight"} <= set(in_head)

    def test_the_sum_is_done_by_hand(self) -> None:
        model = build_network(backbone("cifar_resnet20"), 3, Head(hidden=5), 3).eval()
        head = model.get_submodule("linear")
        assert isinstance(head, nn.Sequential)
        transformed: list[Tensor] = []
        head.register_forward_pre_hook(lambda _, inputs: transformed.append(inputs[0]))
        logits = model(torch.randn(2, 3, 32, 32))
        state = head.state_dict()
        hidden = (transformed[0] @ state["0.weight"].T + state["0.bias"]).clamp(min=0)
        assert torch.allclose(logits, hidden @ state["3.weight"].T + state["3.bias"], atol=1e-6)

    def test_dropout_alone_leaves_layer_and_names_as_they_were(self) -> None:
        torch.manual_seed(1)
        plain = backbone("resnet18").build(3)
        torch.manual_seed(1)
        model = build_network(backbone("resnet18"), 3, Head(dropout=0.9), 3)
        assert list(model.state_dict()) == list(plain.state_dict())
        assert torch.equal(model.get_parameter("fc.weight"), plain.get_parameter("fc.weight"))
        layer, features = model.get_submodule("fc"), torch.ones(1, 512)
        assert torch.equal(layer.eval()(features), plain.get_submodule("fc")(features))
        assert not torch.equal(layer.train()(features), plain.get_submodule("fc")(features))

    def test_a_head_that_is_no_layer_is_refused(self) -> None:
        def build(num_classes: int) -> nn.Module:
            model: nn.Module = backbone("cifar_resnet20").build(num_classes)
            model.register_module("linear", nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes)))
            return model

        odd = replace(backbone("cifar_resnet20"), build=build)
        with pytest.raises(RequestError, match=r"the head of cifar_resnet20 is a Sequential.*leave out head.hidden"):
            build_network(odd, 3, Head(hidden=5), 3)
        with pytest.raises(RequestError, match="is a Sequential"):
            build_network(odd, 3, Head(dropout=0.5), 3)

    def test_a_run_keeps_it_and_the_next_run_may(self, keys: dict[str, Any]) -> None:
        head = {"hidden": 16, "dropout": 0.3}
        run = trained(keys, head=head)
        assert read_card(run / "model").head == Head(16, 0.3)
        assert json.loads((run / "plan.json").read_text())["head"] == head
        saved = load_file(run / "model" / "model.safetensors")
        assert [n for n in saved if n.startswith("linear")] == [
            "linear.0.bias", "linear.0.weight", "linear.3.bias", "linear.3.weight",
        ]  # fmt: skip
        assert ftkit.load(run).predict(draw_image(0, (40, 32), "x"))[0].label in ("ants", "bees", "wasps")

        dropped = build_model(ftkit.plan(**{**keys, "weights": str(run)})).report
        assert dropped is not None
        assert sorted(dropped.dropped) == [
            "linear.0.bias 16", "linear.0.weight 16x64", "linear.3.bias 3", "linear.3.weight 3x16",
        ]  # fmt: skip
        kept = build_model(ftkit.plan(**{**keys, "weights": str(run), "keep_head": True, "head": {"hidden": 16}}))
        assert torch.equal(kept.network.get_parameter("linear.3.weight"), saved["linear.3.weight"])

    def test_a_kept_head_must_be_made_alike(self, keys: dict[str, Any], tmp_path: Path) -> None:
        run = trained(keys, head={"hidden": 16})
        for head, message in (
            ({}, r"has a hidden layer of 16, and head.hidden is unset \(give --head-hidden 16, or drop --keep-head\)"),
            ({"hidden": 8}, r"has a hidden layer of 16, and head.hidden is 8"),
        ):
            with pytest.raises(RequestError, match=message):
                ftkit.plan(**{**keys, "weights": str(run), "keep_head": True, "head": head})
        with pytest.raises(RequestError, match=r"the head of IMAGENET1K_V1 has no hidden layer.*drop --head-hidden"):
            ftkit.plan(
                **{**keys, "backbone": "resnet18", "weights": "default", "keep_head": True, "head": {"hidden": 8}}
            )
        plain = backbone("cifar_resnet20").build(3)
        save_file(plain.state_dict(), tmp_path / "w.safetensors")
        plan = ftkit.plan(
            **{**keys, "weights": str(tmp_path / "w.safetensors"), "keep_head": True, "head": {"hidden": 8}}
        )
        with pytest.raises(
            RequestError, match=r"the head of .*w.safetensors.* can't be kept: linear.0.weight is missing"
        ):
            build_model(plan)


class TestGreyImages:
    @pytest.mark.parametrize("name", ["resnet18", "densenet121", "squeezenet1_1", "swin_t", "cifar_resnet20"])
    def test_the_summed_convolution_does_what_it_did_on_three_equal_channels(self, name: str) -> None:
        torch.manual_seed(0)
        colour = backbone(name).build(3).eval()
        grey = build_network(backbone(name), 3, Head(), channels=1).eval()
        grey.load_state_dict(refit(backbone(name), grey, 1, "w", colour.state_dict()))
        image = torch.randn(1, 1, 64, 64)
        with torch.inference_mode():
            assert torch.allclose(grey(image), colour(image.expand(1, 3, 64, 64)), atol=1e-5)

    def test_so_does_the_whole_way_from_a_grey_file(self) -> None:
        preprocessing = replace(backbone("resnet18").preprocessing, size=64, mean=(0.4, 0.4, 0.4), std=(0.2, 0.2, 0.2))
        colour = backbone("resnet18").build(3).eval()
        grey = build_network(backbone("resnet18"), 3, Head(), channels=1).eval()
        grey.load_state_dict(refit(backbone("resnet18"), grey, 1, "w", colour.state_dict()))
        picture = draw_image(1, (80, 70), "grey").convert("L")
        assert preprocessing.grey().mean == pytest.approx((0.4,))
        with torch.inference_mode():
            there, here = (
                colour(transformed(evaluation(preprocessing), picture)[None]),
                grey(transformed(evaluation(preprocessing.grey()), picture)[None]),
            )
        assert torch.allclose(there, here, atol=1e-5)

    def test_fresh_weights_are_summed_too(self) -> None:
        torch.manual_seed(4)
        colour = backbone("resnet18").build(3)
        torch.manual_seed(4)
        grey = build_network(backbone("resnet18"), 3, Head(), channels=1)
        assert torch.equal(grey.get_parameter("conv1.weight"), colour.get_parameter("conv1.weight").sum(1, True))

    @pytest.mark.parametrize(
        "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.long) for n in REGISTRY.backbones]
    )
    def test_every_backbone_takes_them(self, name: str) -> None:
        described = backbone(name)
        model = build_on_meta(described, 3, channels=1).eval()
        found = first_convolution(model, 1)
        assert found is not None
        assert described.groups[0].owns(f"{found[0]}.weight")
        side = described.preprocessing.size
        assert model(torch.empty(1, 1, side, side, device="meta")).shape == (1, 3)

    def test_a_run_is_grey_and_stays_so(self, keys: dict[str, Any]) -> None:
        run = trained(keys, preprocessing={"channels": 1})
        card = read_card(run / "model")
        assert card.preprocessing.mean == pytest.approx((0.449,))
        assert card.preprocessing.std == pytest.approx((0.226,))
        assert ftkit.load(run).predict(draw_image(0, (40, 32), "x"))[0].label in ("ants", "bees", "wasps")
        following = ftkit.plan(**{**keys, "weights": str(run)})
        assert following.preprocessing.channels == 1
        built = build_model(following)
        assert torch.equal(
            built.network.get_parameter("conv1.weight"), load_file(run / "model" / "model.safetensors")["conv1.weight"]
        )
        assert built.report is not None
        assert built.report.adapted == ()
        with pytest.raises(RequestError, match=r"the weights are those of a network for grey images.*drop --channels"):
            ftkit.plan(**{**keys, "weights": str(run), "preprocessing": {"channels": 3}})
        alone = shutil.copy(run / "model" / "model.safetensors", run.with_name("grey.safetensors"))
        file = ftkit.plan(**{**keys, "weights": str(alone)})
        with pytest.raises(
            RequestError, match=r"safetensors: the weights are those .* grey images \(give --channels 1"
        ):
            build_model(file)

    def test_the_report_says_what_was_summed(self, keys: dict[str, Any], tmp_path: Path) -> None:
        state = backbone("cifar_resnet20").build(10).state_dict()
        save_file({f"module.{n}": t for n, t in state.items()}, tmp_path / "w.safetensors")
        plan = ftkit.plan(**{**keys, "weights": str(tmp_path / "w.safetensors"), "preprocessing": {"channels": 1}})
        built = build_model(plan)
        assert built.report is not None
        assert "; adapted: conv1.weight 16x3x3x3 to 16x1x3x3; head not loaded" in built.report.summary()
        assert torch.equal(built.network.get_parameter("conv1.weight"), state["conv1.weight"].sum(1, True))

    def test_means_are_means_unless_they_are_given(self, keys: dict[str, Any]) -> None:
        given = ftkit.plan(**{**keys, "preprocessing": {"channels": 1, "mean": [0.5]}}).preprocessing
        assert given.mean == (0.5,)
        assert given.std == pytest.approx((0.226,))

    @pytest.mark.parametrize(
        ("name", "preprocessing", "message"),
        [
            ("lenet", {"channels": 3}, r"lenet takes grey images only, .*channels is 3 \(drop --channels"),
            ("resnet18", {"mean": [0.5]}, r"mean has 1 value, .*3-channel.*or --channels 1 for grey images"),
            ("resnet18", {"channels": 1, "std": [0.2] * 3}, r"std has 3 values, .*1-channel.*give 1 value each"),
        ],
    )
    def test_what_cant_be_is_refused(self, keys: dict[str, Any], name: str, preprocessing: Any, message: str) -> None:
        with pytest.raises(RequestError, match=message):
            ftkit.plan(**{**keys, "backbone": name, "preprocessing": preprocessing})

    @pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
    def test_networks_built_without_their_change_of_input_see_the_same(self, name: str) -> None:
        """torchvision's builder normalises as for ImageNet and then changes that to 0.5 in the network."""
        own = backbone(name)
        torch.manual_seed(0)
        theirs = models.get_model(name, weights=None, num_classes=3, transform_input=True, init_weights=True).eval()
        ours = own.build(3).eval()
        ours.load_state_dict(theirs.state_dict())
        picture = draw_image(2, (120, 100), "colour")
        preprocessing = replace(own.preprocessing, size=128)
        published = replace(preprocessing, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
        with torch.inference_mode():
            there, here = (
                theirs(transformed(evaluation(published), picture)[None]),
                ours(transformed(evaluation(preprocessing), picture)[None]),
            )
        assert torch.allclose(there, here, rtol=0, atol=1e-4 * float(there.abs().max()))


class TestImageSize:
    def test_positions_are_resampled_as_torchvision_does(self) -> None:
        state = models.vit_b_32(num_classes=3).state_dict()
        state["encoder.pos_embedding"].normal_()
        expected = models.vision_transformer.interpolate_embeddings(96, 32, dict(state))["encoder.pos_embedding"]
        model = backbone("vit_b_32", 96).build(3)
        fitted = refit(backbone("vit_b_32", 96), model, 3, "w", state)
        assert tuple(fitted["encoder.pos_embedding"].shape) == (1, 10, 768)
        assert torch.equal(fitted["encoder.pos_embedding"], expected)
        assert tuple(state["encoder.pos_embedding"].shape) == (1, 50, 768), "what was given stays as it was"
        model.load_state_dict(fitted)
        assert model(torch.randn(1, 3, 96, 96)).shape == (1, 3)

    @pytest.mark.long
    def test_a_run_is_taken_up_at_another_size(self, keys: dict[str, Any]) -> None:
        vit = {**keys, "backbone": "vit_b_32", "strategy": "freeze", "batch_size": 12}
        run = trained(vit, preprocessing={"size": 64})
        card = read_card(run / "model")
        assert card.preprocessing.size == 64
        assert ftkit.load(run).predict(draw_image(0, (40, 32), "x"))[0].label in ("ants", "bees", "wasps")
        assert ftkit.plan(**{**vit, "weights": str(run)}).preprocessing.size == 64
        built = build_model(ftkit.plan(**{**vit, "weights": str(run), "preprocessing": {"size": 96}}))
        assert built.report is not None
        assert built.report.adapted == ("encoder.pos_embedding 1x5x768 to 1x10x768",)

    @pytest.mark.parametrize(
        ("name", "size", "message"),
        [
            ("vit_b_16", 100, r"vit_b_16 takes .* multiple of 16 pixels, not 100 \(give --image-size 96 or 112\)"),
            ("vit_b_16", 10, r"multiple of 16 pixels, not 10 \(give --image-size 16\)"),
            ("maxvit_t", 300, r"multiple of 224 pixels, not 300 \(give --image-size 224 or 448\)"),
            ("lenet", 32, r"lenet takes images of 28 pixels only, not 32 \(drop --image-size"),
            ("alexnet", 32, r"alexnet can't take images of 32 pixels \(give --image-size 63 or more\)"),
        ],
    )
    def test_a_size_that_cant_be_is_refused(self, keys: dict[str, Any], name: str, size: int, message: str) -> None:
        with pytest.raises(RequestError, match=message):
            ftkit.plan(**{**keys, "backbone": name, "preprocessing": {"size": size}})

    def test_maxvit_takes_twice_its_size(self) -> None:
        model = build_on_meta(backbone("maxvit_t", 448), 3).eval()
        assert model(torch.empty(1, 3, 448, 448, device="meta")).shape == (1, 3)

    def test_weights_made_for_a_size_are_used_at_it(self, keys: dict[str, Any]) -> None:
        plan = ftkit.plan(**{**keys, "backbone": "vit_b_16", "weights": "IMAGENET1K_SWAG_E2E_V1"})
        assert plan.preprocessing.size == 384
        assert plan.backbone.preprocessing.size == 384


class TestCounts:
    @pytest.mark.parametrize("name", SAMPLE)
    @pytest.mark.parametrize(
        ("head", "channels"), [(Head(), 3), (Head(hidden=9, dropout=0.5), 1), (Head(None, 0.5), 1)]
    )
    def test_counts_are_those_of_the_built_network(self, name: str, head: Head, channels: int) -> None:
        sizes = {"vit_b_16": 96, "maxvit_t": 448}
        described = backbone(name, sizes.get(name))
        model = build_on_meta(described, 3, head, channels)
        parameters = dict(model.named_parameters())
        built = {
            group: sum(parameters[n].numel() for n in names)
            for group, names in assign_parameters(model, described.groups).items()
        }
        assert count_parameters(described, tuple(described.groups), 3, head, channels) == built

    def test_groups_by_name_are_counted_on_the_network(self, keys: dict[str, Any]) -> None:
        named = {"name": "freezer", "name_starts_with": ["conv1"], "until_epoch": None}
        changes = {"head": {"hidden": 10}, "preprocessing": {"channels": 1}}
        plan = ftkit.plan(**{**keys, "strategy": named, **changes})
        assert plan.group_parameters is None
        assert with_parameter_counts(plan).group_parameters == {
            "conv1": 16 * 3 * 3,
            "rest": 269_722 - 16 * 3 * 3 * 3 - (64 * 10 + 10),
            "head": (64 * 10 + 10) + (10 * 3 + 3),
        }

    @pytest.mark.parametrize("name", ["vit_b_16", "vit_b_32"])
    def test_a_resized_summary_is_near_what_is_measured(self, name: str) -> None:
        described = backbone(name, 96)
        assert described.summary is not None
        measured = measure(described)
        for group, size in described.summary.groups.items():
            assert dict(measured.groups[group].parameters) == dict(size.parameters)
            assert measured.groups[group].activations == pytest.approx(size.activations, rel=0.2)
