"""The outputs of a network: logits, and in training those of auxiliary classifiers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ftkit.errors import FtkitError
from ftkit.models.compute.devices import Compute
from ftkit.models.compute.memory_format import preserve_state
from ftkit.plugin_errors import plugin_suffix

if TYPE_CHECKING:
    from ftkit.planning.run_plan import Plan

_WANTED = (
    "a network returns logits, a float tensor (images, classes); in training it may return a tuple, the classifier's "
    "logits first and those of auxiliary classifiers after them"
)


def split_outputs(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The classifier's logits and those of auxiliary classifiers, float32.

    Raises:
        TypeError: The outputs are of another type.
    """
    if isinstance(outputs, Tensor):
        return outputs.float(), ()
    if not isinstance(outputs, tuple | list) or not outputs or not isinstance(outputs[0], Tensor):
        raise TypeError(f"it returns {_kind(outputs)}")
    main, *auxiliary = outputs
    return main.float(), tuple(a.float() for a in auxiliary if a is not None)


def check_outputs(network: nn.Module, plan: Plan, compute: Compute, training: bool) -> None:
    """Run the network of a plan on two images. Nothing changes but its mode.

    Args:
        training: Run it in training mode too.

    Raises:
        FtkitError: It fails, or doesn't return one value a class for each image.
    """
    name, preprocessing = plan.backbone.name, plan.preprocessing
    shape = (preprocessing.channels, preprocessing.size, preprocessing.size)
    images = compute.to_device(torch.zeros(2, *shape))
    for mode in ("evaluation", "training") if training else ("evaluation",):
        network.train(mode == "training")
        try:
            with preserve_state(network), torch.no_grad(), compute.autocast():
                outputs = network(images)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # the network's own code may raise anything
            reason = " ".join(str(error).split())[:300]
            raise FtkitError(
                f"backbone {name} fails in {mode} on images of {'x'.join(map(str, shape))}: "
                f"{type(error).__name__}{': ' if reason else ''}{reason}{plugin_suffix(error)}",
                "choose another backbone or preprocessing.size; if the backbone is yours, fix its forward",
            ) from error
        wrong = _wrong(outputs, mode == "training", len(images), plan.num_classes)
        if wrong:
            raise FtkitError(f"backbone {name} returns {wrong} in {mode}", _WANTED)


def _wrong(outputs: Any, training: bool, images: int, classes: int) -> str:
    """The fault of a network's outputs; empty where they are valid."""
    if not isinstance(outputs, Tensor) and not (training and isinstance(outputs, tuple | list) and outputs):
        return _kind(outputs)
    every = [outputs] if isinstance(outputs, Tensor) else [one for one in outputs if one is not None]
    for one in every:
        if not isinstance(one, Tensor) or not one.is_floating_point() or one.shape != (images, classes):
            return f"{_kind(one)} for {images} images and {classes} classes"
    return "" if every else _kind(outputs)


def _kind(outputs: Any) -> str:
    """A short description of outputs."""
    if isinstance(outputs, Tensor):
        return f"a tensor {tuple(outputs.shape)} of {str(outputs.dtype).removeprefix('torch.')}"
    if isinstance(outputs, Mapping):
        return f"a {type(outputs).__name__} of {', '.join(map(str, outputs)) or 'nothing'}"
    if isinstance(outputs, tuple | list):
        return f"a {type(outputs).__name__} of {', '.join(type(one).__name__ for one in outputs) or 'nothing'}"
    return "None" if outputs is None else f"a {type(outputs).__name__}"
