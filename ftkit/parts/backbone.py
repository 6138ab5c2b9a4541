"""Backbones described as data: layer groups, head, preprocessing and the weights that exist."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ftkit.errors import RequestError
from ftkit.transforms.preprocessing import Preprocessing

if TYPE_CHECKING:
    from torch import Tensor, nn

Role = Literal["weight", "bias", "norm-weight", "norm-bias"]
"""The role of a parameter: weight or bias of a normalisation layer, any other bias, or any other weight."""

ROLES: tuple[Role, ...] = ("weight", "bias", "norm-weight", "norm-bias")


@dataclass(frozen=True)
class LayerGroup:
    """Parameters that are frozen, trained and given a learning rate together.

    Attributes:
        name: The name in configs, plans and records: `stem`, `layer4`, `head`.
        pattern: Regular expression, matched from the start of a parameter's name.
        roles: Only parameters with one of these roles belong to the group.
    """

    name: str
    pattern: str
    roles: tuple[Role, ...] = ROLES

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        return re.compile(self.pattern)

    def owns(self, parameter: str, role: Role | None = None) -> bool:
        """Whether the group owns a parameter or, with `role=None`, a module without parameters."""
        if role is None and self.roles != ROLES:
            return False
        return (role is None or role in self.roles) and self._regex.match(parameter) is not None


def group_of(groups: Sequence[LayerGroup], name: str, role: Role | None = None) -> LayerGroup | None:
    """The group that owns a parameter; where several match, the one closest to the head.

    So a strategy may add a narrow group after a wide one.
    """
    return next((g for g in reversed(groups) if g.owns(name, role)), None)


@dataclass(frozen=True)
class Head:
    """The classifier on top of a backbone; by default one linear layer.

    Attributes:
        hidden: Width of a hidden layer with ReLU before the last layer; None for no hidden layer.
        dropout: Dropout rate before the last layer, in addition to the backbone's own dropout.
    """

    hidden: int | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.hidden is not None and self.hidden < 1:
            raise RequestError(f"head.hidden is {self.hidden}", "give a width of 1 or more, or leave it out")
        if not 0 <= self.dropout < 1:
            raise RequestError(f"head.dropout is {self.dropout}", "give 0 or more, and less than 1")

    def describe(self) -> str:
        """For people: `hidden layer of 512, dropout 0.3`; empty for one linear layer."""
        hidden = [f"hidden layer of {self.hidden}"] if self.hidden else []
        return ", ".join(hidden + ([f"dropout {self.dropout:g}"] if self.dropout else []))


@dataclass(frozen=True)
class Pretrained:
    """One set of pretrained weights of a backbone.

    Attributes:
        name: `IMAGENET1K_V2`, `MNIST`: what `--weights` takes.
        load: Returns the state dict, in names and shapes that `Backbone.refit` accepts, downloading it if necessary;
            raises an `FtkitError` that names the file and where to put it if that fails.
        preprocessing: The preprocessing that the weights were trained with.
        file: Name of the file in the cache, for plans and messages.
        size_mb: Size of the file in megabytes.
        note: Training data and accuracy of the weights, in one line.
        stored: `stored()` returns the file on this machine that `load` reads, or None where `load` has to get it first.
            It is called by plans, so it imports no torch. None where that can't be known.
    """

    name: str
    load: Callable[[], Mapping[str, Tensor]]
    preprocessing: Preprocessing
    file: str = ""
    size_mb: float = 0.0
    note: str = ""
    stored: Callable[[], Path | None] | None = None


@dataclass(frozen=True)
class GroupSize:
    """Sizes of one layer group, without the head layers of a task.

    Attributes:
        parameters: Number of parameters by role.
        activations: Elements kept for the backward pass of one image at the default size.
        entering: Elements of its input for one image at that size; 0 where unknown.
    """

    parameters: Mapping[Role, int]
    activations: int = 0
    entering: int = 0


@dataclass(frozen=True)
class Summary:
    """Sizes that are known without building the model, for lists and plans without torch.

    Attributes:
        groups: The sizes by the backbone's group names, without the layers in `Backbone.head`.
        head_inputs: Input features of each layer named in `Backbone.head`, in that order.
        head_bias: Whether those layers have a bias.
        input_weights: Weights of the first convolution per input channel; 0 where unknown.
    """

    groups: Mapping[str, GroupSize]
    head_inputs: tuple[int, ...]
    head_bias: bool = True
    input_weights: int = 0

    def parameters(self, num_classes: int) -> int:
        """Total number of parameters with a head for `num_classes` classes."""
        body = sum(sum(g.parameters.values()) for g in self.groups.values())
        return body + sum((inputs + self.head_bias) * num_classes for inputs in self.head_inputs)


@dataclass(frozen=True)
class Backbone:
    """A network that can be fine-tuned.

    Attributes:
        name: What `--backbone` takes.
        groups: Layer groups from the input to the head, which is the last. Together they own every parameter exactly
            once. A `LazySequence` where the network must be built to know them.
        head: Dotted names of the layers with one output a class: the classifier first, then auxiliary classifiers. They
            are new for each task.
        build: `build(num_classes)` returns the network with fresh weights, drawn from torch's global generator. It
            takes `(batch, channels, size, size)` and returns logits `(batch, num_classes)`, or in training a tuple of
            them, the auxiliary ones last.
        preprocessing: The preprocessing without pretrained weights; pretrained weights have their own.
        weights: The pretrained weights; the first is the default.
        summary: Sizes; None where the network must be built to know them.
        family: The group of networks it belongs to in lists: `resnet`, `vit`.
        min_size: Smallest side of the images, in pixels.
        fixed_size: Whether all images must have `preprocessing.size`.
        aux_weight: Weight of the auxiliary classifiers' losses.
        resized: `resized(size)` returns the backbone for images of another size, where the size is fixed when the
            network is built.
        size_step: Sizes must be multiples of this, in pixels.
        refit: Converts tensors of weights for another size, or of an older version, to the names and shapes of the
            network; leaves unknown ones unchanged.
        parameters: Number of parameters without the layers in `head`, for lists, where it is known without building
            the network; not needed with a summary.
    """

    name: str
    groups: Sequence[LayerGroup]
    head: Sequence[str]
    build: Callable[[int], nn.Module] = field(repr=False)
    preprocessing: Preprocessing
    weights: tuple[Pretrained, ...] = ()
    summary: Summary | None = None
    family: str = ""
    min_size: int = 1
    fixed_size: bool = False
    aux_weight: float = 0.0
    resized: Callable[[int], Backbone] | None = field(default=None, repr=False)
    size_step: int = 1
    refit: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] | None = field(default=None, repr=False)
    parameters: int | None = None

    @property
    def body_parameters(self) -> int | None:
        """Number of parameters without the layers in `head`; None where the network must be built to know it."""
        return self.parameters if self.summary is None else self.summary.parameters(0)

    @property
    def group_names(self) -> tuple[str, ...]:
        return tuple(g.name for g in self.groups)

    @property
    def sizes(self) -> str:
        """The supported image sizes, for people."""
        if self.fixed_size and self.resized is None:
            return f"{self.preprocessing.size} x {self.preprocessing.size} pixels only"
        step = f", in multiples of {self.size_step}" if self.size_step > 1 else ""
        return f"at least {self.min_size} x {self.min_size} pixels{step}"

    def for_size(self, size: int) -> Backbone:
        """The backbone for images of `size` pixels.

        Raises:
            RequestError: The size isn't supported; names the nearest sizes that are.
        """
        if self.fixed_size and size == self.preprocessing.size:
            return self
        if self.fixed_size and self.resized is None:
            raise RequestError(
                f"{self.name} takes images of {self.preprocessing.size} pixels only, not {size}",
                "drop --image-size, or choose another backbone",
            )
        if size % self.size_step:
            below = size - size % self.size_step
            nearest = " or ".join(str(s) for s in (below, below + self.size_step) if s >= self.min_size)
            raise RequestError(
                f"{self.name} takes images whose side is a multiple of {self.size_step} pixels, not {size}",
                f"give --image-size {nearest}",
            )
        if size < self.min_size:
            raise RequestError(
                f"{self.name} can't take images of {size} pixels", f"give --image-size {self.min_size} or more"
            )
        return self.resized(size) if self.resized is not None else self
