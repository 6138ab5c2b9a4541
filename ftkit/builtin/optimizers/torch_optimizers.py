"""The optimizers of `torch.optim`, with its defaults. A class's fields are the options that it takes.

Left out are arguments that don't change what is learnt (`foreach`, `capturable`, `differentiable`) and `maximize`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from ftkit.api import Optimizer, RequestError, check_number, hookimpl

if TYPE_CHECKING:
    import torch


class TorchOptimizer(Optimizer):
    """The class of `torch.optim` of the same name. Its options are numbers of 0 or more where it isn't said here.

    Attributes:
        fuses: Whether the fused implementation is used where the device has one; SGD's is no faster on CPUs.
    """

    elementwise: ClassVar[bool] = True
    fuses: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]
            self.check(field.name, getattr(self, field.name))

    def check(self, option: str, value: Any) -> None:
        """Refuse a value out of an option's bounds."""
        if option == "betas":
            for beta in value:
                if not 0 <= beta < 1:
                    raise _bad_pair(option, value, " from 0 to below 1, such as [0.9, 0.999]")
        elif not isinstance(value, bool | None):
            check_number(option, value, 0)

    def build(self, groups: Sequence[dict[str, Any]], lr: float, fused: bool = False) -> torch.optim.Optimizer:
        from torch import optim

        options = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        if fused and self.fuses and options["fused"] is None:
            options["fused"] = True
        optimizer: torch.optim.Optimizer = getattr(optim, type(self).__name__)(groups, lr=lr, **options)
        return optimizer


@dataclass(frozen=True)
class Adadelta(TorchOptimizer):
    """Adadelta (Zeiler, 2012)."""

    rho: float = 0.9
    eps: float = 1e-6
    weight_decay: float = 0.0

    def check(self, option: str, value: Any) -> None:
        check_number(option, value, 0, 1 if option == "rho" else float("inf"))


@dataclass(frozen=True)
class Adafactor(TorchOptimizer):
    """Adafactor (Shazeer and Stern, 2018), which keeps sums over rows and columns in place of second moments."""

    elementwise: ClassVar[bool] = False

    beta2_decay: float = -0.8
    eps: tuple[float | None, float] = (None, 1e-3)
    d: float = 1.0
    weight_decay: float = 0.0

    @property
    def state_values(self) -> int:
        return 0

    def check(self, option: str, value: Any) -> None:
        if option == "beta2_decay":
            check_number(option, value, high=0)
        elif option == "eps":
            for one in value:
                if one is not None and not 0 <= one < float("inf"):
                    raise _bad_pair(option, value, " of 0 or more, such as [null, 0.001]")
        else:
            check_number(option, value, 1 if option == "d" else 0)

    def lr_note(self, highest: float, steps: int) -> str:
        limit = 1 / steps**0.5
        text = f"optimizer adafactor lowers every learning rate to 1/sqrt(step): at the end to {limit:.2g} at most"
        return text if highest > limit else ""


@dataclass(frozen=True)
class Adagrad(TorchOptimizer):
    """Adagrad (Duchi et al., 2011)."""

    elementwise: ClassVar[bool] = False  # DeepSpeed rebuilds it with one learning rate for all groups.

    lr_decay: float = 0.0
    weight_decay: float = 0.0
    initial_accumulator_value: float = 0.0
    eps: float = 1e-10
    fused: bool | None = None

    @property
    def state_values(self) -> int:
        return 1


@dataclass(frozen=True)
class Adam(TorchOptimizer):
    """Adam (Kingma and Ba, 2015)."""

    adam_like: ClassVar[bool] = True
    fuses: ClassVar[bool] = True

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    amsgrad: bool = False
    decoupled_weight_decay: bool = False
    fused: bool | None = None

    @property
    def state_values(self) -> int:
        return 2 + self.amsgrad


@dataclass(frozen=True)
class Adamax(TorchOptimizer):
    """Adamax, the variant of Adam by the infinity norm (Kingma and Ba, 2015)."""

    adam_like: ClassVar[bool] = True

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0


@dataclass(frozen=True)
class AdamW(TorchOptimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019)."""

    adam_like: ClassVar[bool] = True
    fuses: ClassVar[bool] = True

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01
    amsgrad: bool = False
    fused: bool | None = None

    @property
    def state_values(self) -> int:
        return 2 + self.amsgrad


@dataclass(frozen=True)
class ASGD(TorchOptimizer):
    """Averaged stochastic gradient descent (Polyak and Juditsky, 1992)."""

    lambd: float = 1e-4
    alpha: float = 0.75
    t0: float = 1e6
    weight_decay: float = 0.0

    def check(self, option: str, value: Any) -> None:
        check_number(option, value, float("-inf") if option == "t0" else 0)


@dataclass(frozen=True)
class NAdam(TorchOptimizer):
    """Adam with Nesterov momentum (Dozat, 2016)."""

    adam_like: ClassVar[bool] = True

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum_decay: float = 4e-3
    decoupled_weight_decay: bool = False


@dataclass(frozen=True)
class RAdam(TorchOptimizer):
    """Adam with a rectified variance (Liu et al., 2020)."""

    adam_like: ClassVar[bool] = True

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    decoupled_weight_decay: bool = False


@dataclass(frozen=True)
class RMSprop(TorchOptimizer):
    """RMSprop (Hinton, 2012)."""

    alpha: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum: float = 0.0
    centered: bool = False

    @property
    def state_values(self) -> int:
        return 1 + bool(self.momentum) + self.centered


@dataclass(frozen=True)
class Rprop(TorchOptimizer):
    """Resilient backpropagation (Riedmiller and Braun, 1993)."""

    uses_curve: ClassVar[bool] = False

    etas: tuple[float, float] = (0.5, 1.2)
    step_sizes: tuple[float, float] = (1e-6, 50.0)

    def check(self, option: str, value: Any) -> None:
        low, high = value
        if option == "etas" and not 0 < low < 1 < high < float("inf"):
            raise _bad_pair(option, value, ", one between 0 and 1 and one above 1, such as [0.5, 1.2]")
        if option == "step_sizes" and not 0 < low <= high < float("inf"):
            raise _bad_pair(option, value, " above 0, the smaller first, such as [1e-6, 50]")


@dataclass(frozen=True)
class SGD(TorchOptimizer):
    """Stochastic gradient descent."""

    momentum: float = 0.0
    dampening: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False
    fused: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and (not self.momentum or self.dampening):
            raise RequestError("nesterov needs a momentum above 0 and no dampening", "set optimizer.momentum=0.9 too")

    @property
    def state_values(self) -> int:
        return int(bool(self.momentum))

    def check(self, option: str, value: Any) -> None:
        if option == "dampening":
            check_number(option, value)
        else:
            super().check(option, value)


@hookimpl
def ftkit_optimizers() -> Mapping[str, type[Optimizer]]:
    classes = (Adadelta, Adafactor, Adagrad, Adam, Adamax, AdamW, ASGD, NAdam, RAdam, RMSprop, Rprop, SGD)
    return {cls.__name__.lower(): cls for cls in classes}


def _bad_pair(option: str, value: tuple[float | None, ...], wanted: str) -> RequestError:
    shown = ", ".join("null" if one is None else f"{one:g}" for one in value)
    return RequestError(f"{option} is [{shown}]", f"give two numbers{wanted}")
