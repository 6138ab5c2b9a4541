"""Where every built-in network can be cut, as its groups thaw from the head down."""

from __future__ import annotations

import pytest

from ftkit.testing import check_cuts
from tests.contract.test_backbones import BACKBONES, SMALL
from tests.models import backbone

QUICK = ("lenet", "cifar_resnet20", "resnet18", "mobilenet_v3_small", "googlenet", "vit_b_16")
NEVER = {"inception_v3": 1, "googlenet": 1}
"""Groups from the head down whose thaw moves no cut, since an auxiliary head that trains lies below them."""


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.long) for n in BACKBONES])
def test_a_network_is_cut_below_each_group_that_trains(name: str) -> None:
    described = backbone(name)
    places = check_cuts(described, SMALL.get(name, max(described.min_size, 32 - 32 % described.size_step)))
    # A value has one name where it is traced, and another where it is replayed.
    values = {(place.name.partition("(")[0].removesuffix(".cat"), place.nbytes) for place in places}
    assert len(values) == len(places) - NEVER.get(name, 0)
