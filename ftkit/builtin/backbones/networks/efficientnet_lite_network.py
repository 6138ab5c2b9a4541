"""EfficientNet-Lite (Google, 2020): EfficientNet-B without squeeze-and-excitation, with ReLU6 in place of swish.

Modules have timm's names, so that timm's files of weights fit.
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional

STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
"""Of each stage: expansion, kernel size, stride, channels and number of blocks, before scaling."""
STEM, FEATURES = 32, 1280
"""Channels of the first and the last convolution, which aren't scaled."""


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's `SAME`: where the padding is uneven, the larger part is at the end."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        padding = 0 if stride == 2 else kernel // 2
        super().__init__(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride[0] == 2:
            # By index, so that the network can be traced.
            x = functional.pad(x, (*self._padding(x.shape[3]), *self._padding(x.shape[2])))
        return super().forward(x)

    def _padding(self, size: int) -> tuple[int, int]:
        """Padding before and after, at stride 2 and an odd kernel."""
        total = self.kernel_size[0] - 2 + size % 2
        return total // 2, total - total // 2


class DepthwiseSeparable(nn.Module):
    """A depthwise and a pointwise convolution."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv_dw = SameConv2d(inputs, inputs, kernel, stride, inputs)
        self.bn1 = _norm(inputs)
        self.conv_pw = SameConv2d(inputs, outputs, 1)
        self.bn2 = _norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn2(self.conv_pw(functional.relu6(self.bn1(self.conv_dw(x)))))
        return y


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution and projection, with a shortcut where the shape stays the same."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        middle = inputs * expansion
        self.conv_pw = SameConv2d(inputs, middle, 1)
        self.bn1 = _norm(middle)
        self.conv_dw = SameConv2d(middle, middle, kernel, stride, middle)
        self.bn2 = _norm(middle)
        self.conv_pwl = SameConv2d(middle, outputs, 1)
        self.bn3 = _norm(outputs)
        self.has_shortcut = stride == 1 and inputs == outputs
        self.drop_path = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x_expanded = functional.relu6(self.bn1(self.conv_pw(x)))
        x_filtered = functional.relu6(self.bn2(self.conv_dw(x_expanded)))
        y: Tensor = self.bn3(self.conv_pwl(x_filtered))
        if self.has_shortcut:
            y = x + self.drop_path(y)
        return y


class EfficientNetLite(nn.Module):
    """Takes `(batch, 3, size, size)`.

    Args:
        width: Factor of the stages' channels, which are rounded to multiples of 8.
        depth: Factor of the stages' blocks, rounded up; the first and last stage keep one block.
        dropout: Rate before the classifier.
    """

    def __init__(self, width: float, depth: float, dropout: float, num_classes: int) -> None:
        super().__init__()
        self.conv_stem = SameConv2d(3, STEM, 3, 2)
        self.bn1 = _norm(STEM)
        self.blocks = nn.Sequential()
        inputs = STEM
        for number, (expansion, kernel, stride, channels, blocks) in enumerate(STAGES):
            outputs = scaled_channels(channels, width)
            count = blocks if number in (0, len(STAGES) - 1) else math.ceil(depth * blocks)
            self.blocks.append(_stage(inputs, outputs, kernel, stride, expansion, count))
            inputs = outputs
        self.conv_head = SameConv2d(inputs, FEATURES, 1)
        self.bn2 = _norm(FEATURES)
        self.drop = nn.Dropout(dropout)
        self.classifier = nn.Linear(FEATURES, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(functional.relu6(self.bn1(self.conv_stem(x))))
        x = functional.relu6(self.bn2(self.conv_head(x)))
        logits: Tensor = self.classifier(self.drop(x.mean((2, 3))))
        return logits


def scaled_channels(channels: int, width: float) -> int:
    """The multiple of 8 next to the scaled number, at least 90 % of it."""
    wanted = channels * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded


def _stage(inputs: int, outputs: int, kernel: int, stride: int, expansion: int, count: int) -> nn.Sequential:
    if expansion == 1:
        return nn.Sequential(DepthwiseSeparable(inputs, outputs, kernel, stride))
    first = InvertedResidual(inputs, outputs, kernel, stride, expansion)
    return nn.Sequential(first, *(InvertedResidual(outputs, outputs, kernel, 1, expansion) for _ in range(count - 1)))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)
