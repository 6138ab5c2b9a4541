"""Backbones described as data: layer groups, head, preprocessing and the weights that exist."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from ftkit.errors import RequestError
from ftkit.transforms.preprocessing import Preprocessing

if TYPE_CHECKING:
    from torch import Tensor, nn

Role = Literal["weight", "bias", "norm-weight", "norm-bias"]
"""What a parameter is: weight or bias of a normalisation layer, any other bias, any other weight."""

ROLES: tuple[Role, ...] = ("weight", "bias", "norm-weight", "norm-bias")


@dataclass(frozen=True)
class LayerGroup:
    """Parameters that are frozen, thawed and given a learning rate together.

    Attributes:
        name: How configs, plans and records call it: `stem`, `layer4`, `head`.
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
        """Whether a parameter (or, with `role=None`, a module without parameters) is in the group."""
        if role is None and self.roles != ROLES:
            return False
        return (role is None or role in self.roles) and self._regex.match(parameter) is not None


def group_of(groups: Sequence[LayerGroup], name: str, role: Role | None = None) -> LayerGroup | None:
    """The group that owns a parameter; where several match, the one closest to the head.

    So a strategy may put a narrow group after a wide one, and the narrow one takes its share.
    """
    return next((g for g in reversed(groups) if g.owns(name, role)), None)


@dataclass(frozen=True)
class Head:
    """What the classifier on top of a backbone is made of; by default one linear layer.

    Attributes:
        hidden: Width of a hidden layer with ReLU before the last layer, or None for none.
        dropout: Probability of dropout before the last layer, beside any that the backbone has itself.
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
        load: Returns the state dict, in names and shapes that `Backbone.refit` understands; downloads where
            it must, and raises `FtkitError` that names the file and where to put it when it can't.
        preprocessing: What these weights were trained with.
        file: The file's name in the cache, for plans and messages.
        size_mb: Size of that file in megabytes.
        note: What the weights were trained on and how well they do, one line.
    """

    name: str
    load: Callable[[], Mapping[str, Tensor]]
    preprocessing: Preprocessing
    file: str = ""
    size_mb: float = 0.0
    note: str = ""


@dataclass(frozen=True)
class GroupSize:
    """What one layer group weighs, without the task's own head layers.

    Attributes:
        parameters: Number of parameters by role.
        activations: Elements that training it keeps for the backward pass of one image at the default size.
        entering: Elements of what enters it for one image at that size; 0 where unknown.
    """

    parameters: Mapping[Role, int]
    activations: int = 0
    entering: int = 0


@dataclass(frozen=True)
class Summary:
    """Sizes known without building the model, so that lists and plans need no torch.

    Attributes:
        groups: By the backbone's own group names; the layers named in `Backbone.head` are left out.
        head_inputs: Input features of each layer named in `Backbone.head`, in that order.
        head_bias: Whether those layers have a bias.
        input_weights: Weights that the first convolution has for each channel of the image; 0 where unknown.
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
        groups: Layer groups from the input to the head; the last one is the head. Together they own
            every parameter exactly once. A `LazySequence` where only building the network tells them.
        head: Dotted names of the layers that put out one value a class: the classifier first, then
            those of auxiliary classifiers. They are built anew for each task.
        build: `build(num_classes)` returns the network with fresh weights, drawn from torch's global
            generator. It takes `(batch, channels, size, size)` and returns `(batch, num_classes)`
            logits, or while training a tuple of them, the auxiliary ones last.
        preprocessing: For training without pretrained weights; otherwise those of the weights hold.
        weights: The pretrained weights that exist; the first is the default.
        summary: Sizes, or None where only building the model tells.
        family: For lists: `resnet`, `vit`.
        min_size: The smallest image side that the network can take, in pixels.
        fixed_size: Whether the network takes only images of `preprocessing.size`.
        aux_weight: Weight of the auxiliary classifiers' losses.
        resized: `resized(size)` returns the backbone whose network is made for images of that size, where
            the size is fixed but can be chosen.
        size_step: The sizes that can be chosen are the multiples of this, in pixels.
        refit: Brings the tensors of weights made for another size, or by an older version, into the names
            and shapes of what `build` returns. It leaves what it doesn't know as it is.
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

    @property
    def group_names(self) -> tuple[str, ...]:
        return tuple(g.name for g in self.groups)

    @property
    def sizes(self) -> str:
        """The sizes of images that it takes, for people."""
        if self.fixed_size and self.resized is None:
            return f"{self.preprocessing.size} x {self.preprocessing.size} pixels only"
        step = f", in multiples of {self.size_step}" if self.size_step > 1 else ""
        return f"at least {self.min_size} x {self.min_size} pixels{step}"

    def for_size(self, size: int) -> Backbone:
        """The backbone for images of `size` pixels: itself, or one made for them.

        Raises:
            RequestError: It can't take such images; names the nearest sizes that it can.
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
