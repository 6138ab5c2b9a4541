"""Memory that runs out: recognised, released, and for inference met with smaller batches."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ftkit.models.compute.devices import Compute
from ftkit.plugin_errors import is_out_of_memory


def release_memory(device: torch.device) -> None:
    """Return memory that nothing uses any more to the device, once the error that ran out of it is gone.

    Blocks that are kept for tensors of the earlier sizes would be in the way of those of other sizes.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


class InferenceInParts:
    """Computes a network's outputs for images, in smaller parts once memory has run out.

    Rows don't depend on each other in inference, so only their last digits can change, where the device computes other
    sizes by other algorithms.

    Args:
        network: Returns a tensor or several, with a row per image.
    """

    def __init__(self, compute: Compute, network: Callable[[Tensor], Any]) -> None:
        self._compute = compute
        self._network = network
        self._most: int | None = None

    def __call__(self, images: Tensor) -> list[Any]:
        """The network's outputs for consecutive parts of the images.

        Args:
            images: `(b, ...)`, on any device.

        Raises:
            RuntimeError: Memory ran out for a single image.
        """
        outputs, start = list[Any](), 0
        while start < len(images):
            part = images[start:] if self._most is None else images[start : start + self._most]
            found = self._try(part)
            if found is None:
                # Not where the error is caught: it refers to the tensors of the pass that failed.
                release_memory(self._compute.device)
                self._most = (len(part) + 1) // 2
                continue
            outputs += found
            start += len(part)
        return outputs

    def _try(self, images: Tensor) -> list[Any] | None:
        """The outputs, or None where memory ran out for several images."""
        try:
            return [self._network(part) for part in self._compute.inference_batches(images)]
        except Exception as error:
            if len(images) == 1 or not is_out_of_memory(error):
                raise
            return None
