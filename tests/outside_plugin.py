"""A plugin from outside the package, with a part of each kind that a training takes, and an exporter."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftkit.api import (
    BatchTransform,
    Curve,
    Exporter,
    ImageTransform,
    Loss,
    Metric,
    Optimizer,
    Outputs,
    TrainedModel,
    hookimpl,
)
from ftkit.api import Callback as CallbackPart


@dataclass(frozen=True)
class Kappa(Metric):
    """Cohen's kappa: agreement of predictions and true classes beyond chance."""

    label = "Cohen's kappa"
    needs = "predictions"

    def value(self, outputs: Outputs) -> float:
        images = len(outputs)
        chance = float((outputs.support * outputs.predicted_counts).sum()) / images**2
        return (float(outputs.right.mean()) - chance) / (1 - chance) if chance < 1 else 0.0


@dataclass(frozen=True)
class Blend(BatchTransform):
    """Blends each image with the next one.

    Attributes:
        most: The largest share of the other image.
    """

    most: float = 0.3

    def apply(self, images: Any, targets: Any, generator: Any) -> tuple[Any, Any]:
        import torch

        share = self.most * float(torch.rand((), generator=generator))
        return torch.lerp(images, images.roll(1, 0), share), torch.lerp(targets, targets.roll(1, 0), share)


@dataclass(frozen=True)
class Stain(ImageTransform):
    """Shifts the brightness of each channel at random.

    Attributes:
        levels: Largest shift, in levels of 255.
    """

    levels: int = 20

    def apply(self, image: Any) -> Any:
        import torch

        shift = torch.randint(-self.levels, self.levels + 1, (len(image), 1, 1))
        return (image.int() + shift).clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class Poly(Loss):
    """Cross-entropy with a linear term (PolyLoss).

    Attributes:
        epsilon: Weight of that term.
    """

    epsilon: float = 1.0

    def per_image(self, logits: Any, targets: Any, smoothing: float = 0.0) -> Any:
        from torch.nn.functional import cross_entropy, one_hot

        soft = targets if targets.is_floating_point() else one_hot(targets, logits.shape[1])
        missing = 1 - (soft * logits.softmax(1)).sum(1)
        return cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing) + self.epsilon * missing


@dataclass(frozen=True)
class Lion(Optimizer):
    """Steps by the sign of an averaged gradient.

    Attributes:
        beta: Decay of the average.
    """

    beta: float = 0.9

    def build(self, groups: Sequence[dict[str, Any]], lr: float, fused: bool = False) -> Any:
        import torch

        class Signed(torch.optim.Optimizer):
            @torch.no_grad()
            def step(self, closure: Any = None) -> None:  # type: ignore[override]
                for group in self.param_groups:
                    for parameter in group["params"]:
                        if parameter.grad is None:
                            continue
                        state = self.state[parameter]
                        mean = state.setdefault("mean", torch.zeros_like(parameter))
                        mean.lerp_(parameter.grad, 1 - group["beta"])
                        parameter.sub_(group["lr"] * mean.sign())

        return Signed(list(groups), {"lr": lr, "beta": self.beta})


@dataclass(frozen=True)
class Saw(Curve):
    """Falls from 1 to `least` within each epoch.

    Attributes:
        least: The factor at the end of an epoch.
    """

    least: float = 0.2

    def shape(self, progress: float, epoch: float) -> float:
        return 1 - (1 - self.least) * math.modf(epoch)[0]


@dataclass
class Wander(CallbackPart):
    """Moves the trainable weights by a walk that all earlier steps have shaped.

    Attributes:
        scale: Length of a step of the walk.
    """

    scale: float = 1e-3
    _steps: int = field(default=0, init=False)
    _place: Any = field(default=None, init=False)

    def on_step_end(self, run: Any) -> None:
        import torch

        generator = torch.Generator().manual_seed(self._steps)
        move = torch.randn(4, generator=generator)
        self._place = move if self._place is None else 0.9 * self._place + move
        self._steps += 1
        with torch.no_grad():
            for parameter in run.network.parameters():
                if parameter.requires_grad:
                    parameter.add_(self.scale * float(self._place.mean()))

    def on_epoch_end(self, run: Any, record: Mapping[str, Any]) -> Mapping[str, float]:
        return {"wander_steps": float(self._steps)}

    def state_dict(self) -> Mapping[str, Any]:
        return {"steps": self._steps, "place": self._place} if self._steps else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state:
            self._steps, self._place = state["steps"], state["place"]


@dataclass(frozen=True)
class Program(Exporter):
    """The network as a program of torch.export, with the class names beside it."""

    def export(self, model: TrainedModel, images: Any, folder: Path) -> Sequence[Path]:
        import torch

        program, names = folder / "model.pt2", folder / "names.json"
        batch = torch.export.Dim("batch")
        torch.export.save(torch.export.export(model.network, (images,), dynamic_shapes=({0: batch},)), program)
        names.write_text(json.dumps(list(model.classes)))
        return program, names

    def load(self, folder: Path) -> Callable[[Any], Any]:
        import torch

        return torch.export.load(folder / "model.pt2").module()


@hookimpl
def ftkit_metrics() -> Mapping[str, type[Metric]]:
    return {"kappa": Kappa}


@hookimpl
def ftkit_batch_transforms() -> Mapping[str, type[BatchTransform]]:
    return {"blend": Blend}


@hookimpl
def ftkit_image_transforms() -> Mapping[str, type[ImageTransform]]:
    return {"stain": Stain}


@hookimpl
def ftkit_losses() -> Mapping[str, type[Loss]]:
    return {"poly": Poly}


@hookimpl
def ftkit_optimizers() -> Mapping[str, type[Optimizer]]:
    return {"lion": Lion}


@hookimpl
def ftkit_curves() -> Mapping[str, type[Curve]]:
    return {"saw": Saw}


@hookimpl
def ftkit_callbacks() -> Mapping[str, type[CallbackPart]]:
    return {"wander": Wander}


@hookimpl
def ftkit_exporters() -> Mapping[str, type[Exporter]]:
    return {"program": Program}
