"""A network whose outputs are calibrated logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ftkit.uncertainty.calibration import Calibration, applies


class CalibratedNetwork(nn.Module):
    """A network followed by a calibration: `logits * scale + bias`, float32 `(b, classes)`."""

    scale: Tensor
    bias: Tensor | None

    def __init__(self, network: nn.Module, calibration: Calibration) -> None:
        super().__init__()
        self.network = network
        scale, bias = tensors_of(calibration, torch.float32)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images).float() * self.scale
        return logits if self.bias is None else logits + self.bias


def calibrated_network(network: nn.Module, calibration: Calibration | None, device: torch.device) -> nn.Module:
    """The network itself where the calibration changes nothing."""
    if calibration is None or not applies(calibration):
        return network
    return CalibratedNetwork(network, calibration).to(device).train(network.training)


def calibrated_logits(logits: Tensor, calibration: Calibration | None) -> Tensor:
    """Calibrated logits, of the shape of the logits."""
    if calibration is None or not applies(calibration):
        return logits
    scale, bias = tensors_of(calibration, logits.dtype, logits.device)
    return logits * scale if bias is None else logits * scale + bias


def uncalibrated_logits(logits: Tensor, calibration: Calibration | None) -> Tensor:
    """The logits that calibration turned into these."""
    if calibration is None or not applies(calibration):
        return logits
    scale, bias = tensors_of(calibration, logits.dtype, logits.device)
    return logits / scale if bias is None else (logits - bias) / scale


def tensors_of(
    calibration: Calibration, dtype: torch.dtype, device: torch.device | None = None
) -> tuple[Tensor, Tensor | None]:
    """The factors `(1,)` or `(classes,)`, and the summands `(classes,)` or None."""
    bias = torch.tensor(calibration.bias, dtype=dtype, device=device) if calibration.bias else None
    return torch.tensor(calibration.scale, dtype=dtype, device=device), bias
