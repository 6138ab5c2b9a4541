"""A trial of whether the forward and backward pass of a batch fit into the device's memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ftkit.models.compute.devices import Compute
from ftkit.models.compute.memory_format import preserve_state
from ftkit.models.logits import split_outputs
from ftkit.models.parameter_groups import Modes
from ftkit.planning.run_plan import Plan
from ftkit.plugin_errors import is_out_of_memory, memory_error
from ftkit.tasks.training_loss import BatchLoss

FEWEST_FOR_BATCHNORM = 8
"""Images of the smallest batches on which BatchNorm layers train without being asked to: fewer are noisy."""


def fewest_images(modes: Modes) -> int:
    """Images that a batch which is divided to fit into memory must have."""
    return FEWEST_FOR_BATCHNORM if any(isinstance(module, _BatchNorm) for module in modes.training) else 1


@dataclass(frozen=True)
class MemoryTrial:
    """Passes of a network, in the modes and with the trainable parameters that it has, that change nothing of it."""

    network: nn.Module
    plan: Plan
    compute: Compute
    loss: BatchLoss

    def shortage(self, images: int, copies: int) -> str:
        """Why a forward and backward pass doesn't fit into memory; empty where it does.

        Args:
            images: Images of the batch.
            copies: Tensors as large as each trainable parameter that must fit too, such as the optimizer's state.

        Raises:
            Exception: What else the network raises.
        """
        try:
            with preserve_state(self.network):
                self._pass(images, copies)
            return ""
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return memory_error(error)
        finally:
            self.network.zero_grad(set_to_none=True)

    def _pass(self, images: int, copies: int) -> None:
        size, classes = self.plan.preprocessing, self.plan.num_classes
        trained = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        kept = [torch.empty_like(parameter) for parameter in trained for _ in range(copies)]
        inputs = self.compute.to_device(torch.zeros(images, size.channels, size.size, size.size))
        targets = self.plan.task.targets([place % classes for place in range(images)], classes)
        with self.compute.autocast():
            outputs = self.network(inputs)
        logits, auxiliary = split_outputs(outputs)
        loss = self.loss(logits, targets.to(self.compute.device), auxiliary)
        if loss.requires_grad:
            torch.autograd.backward(loss)
        del kept
