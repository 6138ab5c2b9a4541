"""Layer groups of parameters, and freezing in a real network."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from ftkit.api import LayerGroup
from ftkit.errors import RequestError
from ftkit.models.parameter_groups import assign_parameters, set_trainable
from tests.models import backbone

BACKBONE = backbone("cifar_resnet20")
GROUPS = BACKBONE.groups


def step(model: nn.Module) -> None:
    model(torch.randn(4, 3, 32, 32)).square().sum().backward()


def buffers(model: nn.Module, prefix: str) -> dict[str, Tensor]:
    return {name: b.clone() for name, b in model.named_buffers() if name.startswith(prefix)}


def moved(model: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, b in model.named_buffers() if name in before and not torch.equal(b, before[name])}


def test_groups_keep_their_order_and_a_narrow_group_wins() -> None:
    groups = (
        LayerGroup("body", r"(?!linear)"),
        LayerGroup("norms", r"(?!linear)", roles=("norm-weight", "norm-bias")),
        LayerGroup("head", r"linear\."),
    )
    owned = assign_parameters(BACKBONE.build(3), groups)
    assert list(owned) == ["body", "norms", "head"]
    assert owned["head"] == ["linear.weight", "linear.bias"]
    assert len(owned["norms"]) == 2 * 19
    assert len(owned["body"]) == 19


def test_a_parameter_without_a_group_is_an_error() -> None:
    with pytest.raises(RequestError, match=r"'layer2\.0\.conv1\.weight' is in none of the layer groups stem, head"):
        assign_parameters(
            BACKBONE.build(3), (LayerGroup("stem", r"(conv1|bn1|layer1)\."), LayerGroup("head", r"linear\."))
        )


def test_an_unknown_group_is_an_error() -> None:
    with pytest.raises(RequestError, match="unknown layer group 'layer9'"):
        set_trainable(BACKBONE.build(3), GROUPS, {"layer9"})


def test_frozen_parts_stay_byte_identical_in_training() -> None:
    model = BACKBONE.build(3)
    set_trainable(model, GROUPS, {"layer3", "head"})
    before = buffers(model, "")
    step(model)
    with_grad = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert with_grad == {"layer3", "linear"}
    changed = moved(model, before)
    assert {name.split(".")[0] for name in changed} == {"layer3"}
    assert len(changed) == 18


def test_train_bn_lets_frozen_statistics_move() -> None:
    model = BACKBONE.build(3)
    set_trainable(model, GROUPS, {"head"}, train_bn=True)
    before = buffers(model, "bn1.")
    step(model)
    assert moved(model, before) == set(before)
    assert model.get_parameter("bn1.weight").grad is None


def test_modes_are_restored_after_an_evaluation() -> None:
    model = BACKBONE.build(3)
    modes = set_trainable(model, GROUPS, {"layer3", "head"})
    wanted = [module.training for module in model.modules()]
    model.eval()
    modes.apply()
    assert [module.training for module in model.modules()] == wanted
    assert model.training
    assert model.get_submodule("layer3.0.bn1").training
    assert not model.get_submodule("layer2.0.bn1").training


def test_freezing_again_removes_the_gradients() -> None:
    model = BACKBONE.build(3)
    set_trainable(model, GROUPS, {g.name for g in GROUPS})
    step(model)
    set_trainable(model, GROUPS, {"head"})
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {"linear.weight", "linear.bias"}


@pytest.mark.parametrize(
    ("trainable", "dropouts"),
    [(("head",), {"classifier.5"}), (("hidden", "head"), {"classifier.2", "classifier.5"})],
)
def test_dropout_follows_its_group(trainable: Sequence[str], dropouts: set[str]) -> None:
    vgg = backbone("vgg11")
    with torch.device("meta"):
        model = vgg.build(3)
    set_trainable(model, vgg.groups, set(trainable))
    training = {name for name, m in model.named_modules() if isinstance(m, nn.Dropout) and m.training}
    assert training == dropouts


def test_groups_by_role_train_only_those_modules() -> None:
    groups = (LayerGroup("rest", r"", ("weight", "bias")), LayerGroup("norms", r"", ("norm-weight", "norm-bias")))
    model = BACKBONE.build(3)
    set_trainable(model, groups, {"norms"})
    assert model.get_submodule("layer1.0.bn1").training
    assert not model.get_submodule("layer1.0.conv1").training
    assert model.get_submodule("layer1.0").training
