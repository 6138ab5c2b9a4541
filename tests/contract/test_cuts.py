"""Where every built-in network can be cut, as its groups thaw from the head down.

That the parts give what the network gives is checked by the cutter itself, on each cut.
"""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from ftkit.activation_cache.cut import Cut, CutFinder
from ftkit.models.parameter_groups import set_trainable
from ftkit.models.surgery import build_network
from ftkit.parts.backbone import Head
from tests.contract.test_backbones import BACKBONES, SMALL
from tests.models import backbone

QUICK = ("lenet", "cifar_resnet20", "resnet18", "mobilenet_v3_small", "googlenet", "vit_b_16")
NEVER = {"inception_v3": 1, "googlenet": 1}
"""Groups from the head down whose thaw moves no cut, since an auxiliary head that trains lies below them."""


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.long) for n in BACKBONES])
def test_a_network_is_cut_below_each_group_that_trains(name: str) -> None:
    described = backbone(name)
    size = SMALL.get(name, max(described.min_size, 32 - 32 % described.size_step))
    described = described.for_size(size)
    network = build_network(described, 3, Head(), described.preprocessing.channels)
    sample = torch.randn(2, described.preprocessing.channels, size, size)
    cut_finder = CutFinder(network, sample, nullcontext)
    groups = [group.name for group in described.groups]
    cuts: list[Cut] = []
    for lowest in range(len(groups) - 1, 0, -1):
        cuts.append(cut_finder.cut(set_trainable(network, described.groups, frozenset(groups[lowest:]))))
        learns = {n for n, p in cuts[-1].train_suffix.named_parameters() if p.requires_grad}
        assert learns == {n for n, p in network.named_parameters() if p.requires_grad}, groups[lowest]
    depths = [cut.depth for cut in cuts]
    assert depths == sorted(depths, reverse=True)
    assert len(set(depths)) == len(depths) - NEVER.get(name, 0)
