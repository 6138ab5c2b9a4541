"""Weights files changed at random: whole under other names, or refused in one line; never half a network unsaid."""

from __future__ import annotations

import random

import pytest
import torch

from ftkit.errors import RequestError
from tests.models import backbone
from tests.soak.readers import load_weights

pytestmark = pytest.mark.soak

BACKBONE = backbone("cifar_resnet20")
OUTER = ("module", "model", "backbone", "encoder", "net", "_orig_mod", "student", "a")
INNER = ("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


@pytest.mark.parametrize("seed", range(300))
def test_changed_files(seed: int) -> None:
    dice = random.Random(seed)
    state = dict(BACKBONE.build(10).state_dict())
    outer = [dice.choice(OUTER) for _ in range(dice.randrange(4))]
    wrapped = dice.sample(["layer1", "layer2.0", "layer3.1.bn1"], dice.randrange(3))
    wrapper = dice.choice(INNER)

    def renamed(name: str) -> str:
        for module in wrapped:
            if name.startswith(f"{module}."):
                name = name.replace(f"{module}.", f"{module}.{wrapper}.", 1)
        return ".".join([*outer, name])

    body = [name for name, value in state.items() if value.is_floating_point() and not name.startswith("linear")]
    gone = set(dice.sample(body, dice.choice((0, 0, 1, 5, len(body) // 2))))
    changed = {renamed(name): value for name, value in state.items() if name not in gone}
    changed |= {f"{dice.choice(('projector', 'optimizer', 'fc'))}.{n}.weight": torch.zeros(2, 2) for n in range(3)}
    network = BACKBONE.build(3)
    if gone:
        with pytest.raises(RequestError) as error:
            load_weights(network, BACKBONE, changed)
        assert "\n" not in str(error.value)
        return
    load_weights(network, BACKBONE, changed)
    assert all(torch.equal(network.state_dict()[name], state[name]) for name in body)
