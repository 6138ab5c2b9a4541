"""Where a network can be cut into a frozen prefix and a trained suffix, and that training the suffix trains it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftkit.api import Backbone
from ftkit.testing.contract import require
from ftkit.testing.randomness import seeded

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ftkit.activation_cache.cutting.cut import Cut
    from ftkit.models.parameter_groups import Modes

CLASSES = 3
IMAGES = 2


@dataclass(frozen=True)
class CutPlace:
    """Where a network is cut while some of its layer groups train.

    Attributes:
        lowest: The lowest layer group that trains; all above it do too.
        name: The last layer before the cut; empty where there is none.
        reason: Why there is no cut; empty where there is one.
        replayed: The network is replayed; otherwise it is traced.
        nbytes: Bytes of one image's activations.
    """

    lowest: str
    name: str = ""
    reason: str = ""
    replayed: bool = False
    nbytes: int = 0


def check_cuts(backbone: Backbone, size: int | None = None, every: bool = True) -> tuple[CutPlace, ...]:
    """Check that a network can be cut below each of its layer groups.

    At each cut one step of training is made with the whole network and with the suffix; they must end with the same
    bytes.

    Args:
        size: Side of the images in pixels; by default the backbone's own. Small images are faster.
        every: Try all layer groups; otherwise the lowest but one and the head.

    Returns:
        The places, from the one where the head alone trains to the lowest.

    Raises:
        ContractError: There is no cut below a group, or training differs.
    """
    places = tuple(find_cuts(backbone, size, every))
    for place in places:
        require(not place.reason, f"it can't be cut below {place.lowest}: {place.reason}")
    return places


def find_cuts(backbone: Backbone, size: int | None = None, every: bool = True) -> Iterator[CutPlace]:
    """The same, with the reasons where there is no cut.

    Raises:
        ContractError: Training differs.
    """
    import torch

    from ftkit.activation_cache.cutting.cut import NoCutError
    from ftkit.activation_cache.cutting.finder import CutFinder, is_replayed
    from ftkit.models.parameter_groups import set_trainable
    from ftkit.models.surgery import build_network
    from ftkit.parts.backbone import Head

    described = backbone.for_size(size or backbone.preprocessing.size)
    side = described.preprocessing.size if described.fixed_size else (size or described.preprocessing.size)
    channels = described.preprocessing.channels
    with seeded(0):
        network = build_network(described, CLASSES, Head(), channels)
        images = torch.randn(IMAGES, channels, side, side)
        finder = CutFinder(network, images, nullcontext)
        groups = [group.name for group in described.groups]
        for lowest in range(len(groups) - 1, 0, -1 if every else min(-1, 2 - len(groups))):
            modes = set_trainable(network, described.groups, frozenset(groups[lowest:]))
            if all(parameter.requires_grad for parameter in network.parameters()):
                # The groups below have no parameters.
                continue
            try:
                cut = finder.cut(modes)
            except NoCutError as error:
                yield CutPlace(groups[lowest], reason=str(error))
                continue
            # With gradients enabled, as in the step: some kernels (LSTM of oneDNN with AVX2) round differently without.
            (rows,) = finder.prefix([cut.name])(images)
            _check_step(network, cut, images, rows.detach(), modes)
            yield CutPlace(groups[lowest], cut.name, "", is_replayed(cut.name), cut.nbytes)


def _check_step(network: nn.Module, cut: Cut, images: Tensor, rows: Tensor, modes: Modes) -> None:
    """One step of SGD with the whole network and with the suffix, from the same weights, gives the same bytes."""
    import torch

    from ftkit.models.weights.pretrained import restore_weights

    before = {name: value.clone() for name, value in network.state_dict().items()}
    after: list[dict[str, Tensor]] = []
    for module, value in ((network, images), (cut.train_suffix, rows.clone())):
        restore_weights(network, before)
        modes.apply()
        _step(module, value)
        after.append({name: value.clone() for name, value in network.state_dict().items()})
    restore_weights(network, before)
    for name, whole in after[0].items():
        equal = torch.allclose(whole, after[1][name], rtol=0, atol=0, equal_nan=True)
        require(equal, f"with the cut after {cut.name} training gives another {name}")


def _step(module: nn.Module, value: Tensor) -> None:
    import torch

    from ftkit.models.logits import split_outputs

    torch.manual_seed(0)
    logits, auxiliary = split_outputs(module(value))
    targets = torch.arange(len(value)) % CLASSES
    loss = sum(torch.nn.functional.cross_entropy(each, targets) for each in (logits, *auxiliary))
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(torch.as_tensor(loss), trainable, allow_unused=True)
    with torch.no_grad():
        for parameter, gradient in zip(trainable, gradients, strict=True):
            if gradient is not None:
                parameter.sub_(0.1 * gradient)
