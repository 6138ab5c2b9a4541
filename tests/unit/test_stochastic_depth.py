"""Stochastic depth and dropout of a backbone."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import StochasticDepth

from ftkit.models.regularisation import set_regularisation
from tests import models


@pytest.mark.parametrize("name", ["efficientnet_b0", "swin_t", "convnext_tiny"])
def test_rates_grow_linearly_over_the_blocks(name: str) -> None:
    backbone = models.backbone(name)
    network = backbone.build(2)
    set_regularisation(network, backbone, drop_path=0.3)
    rates = [module.p for module in network.modules() if isinstance(module, StochasticDepth)]
    assert rates == sorted(rates)
    assert (rates[0], rates[-1]) == (0.0, pytest.approx(0.3))


def test_dropout_of_the_head_stays() -> None:
    backbone = models.backbone("vit_b_16")
    with torch.device("meta"):
        network = backbone.build(2)
    set_regularisation(network, backbone, dropout=0.25)
    assert {module.p for module in network.modules() if isinstance(module, torch.nn.Dropout)} == {0.25}
