"""DeepSpeed's ZeRO, stages 1 and 2: optimizer state, and gradients, sharded over the processes.

The weights are whole in each process, so that all but the steps is as in any other run: activation cache, evaluation,
models. Between phases the state is in the plain optimizer, and checkpoints are the same. (Stage 3 shards the weights
too, as `steppers.fsdp` does with torch alone.)
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ftkit.config.schema import Config
from ftkit.errors import FtkitError, RequestError
from ftkit.parts.optimizer import Optimizer
from ftkit.plugins.optional_packages import is_installed
from ftkit.training.steppers.fsdp import check_can_shard


def require_zero(config: Config, optimizer: Optimizer, processes: int, precision: str) -> None:
    """Refuse settings that ZeRO can't be combined with.

    Raises:
        RequestError: Names the flags that don't go together, or DeepSpeed isn't installed; and as `check_can_shard`.
    """
    asked = f"--zero-stage {config.zero_stage}"
    check_can_shard(asked, "shards optimizer state", processes, precision, config.compile)
    reasons = {
        f"{asked} can't be combined with --fsdp, which shards all of it": config.fsdp,
        f"{asked} can't be combined with --on-nan skip: gradients are sharded before they can be checked": config.on_nan
        == "skip",
        f"{asked} can't be combined with optimizer {config.optimizer.name}, which needs more than one weight at a "
        "time": not optimizer.elementwise,
    }
    for reason, holds in reasons.items():
        if holds:
            raise RequestError(reason, "drop one of them")
    if not is_installed("deepspeed"):
        raise RequestError(f"{asked} needs DeepSpeed, which isn't installed", "pip install 'ftkit[deepspeed]'")


@dataclass(frozen=True)
class _Flat:
    """Parameters of one group of the optimizer, concatenated, and this process's shard of their values."""

    part: Tensor
    parameters: tuple[Tensor, ...]

    def split(self, whole: Tensor) -> dict[Tensor, Tensor]:
        """The values of each parameter in a flat tensor, in its shape; padding at the end is dropped."""
        sizes = [parameter.numel() for parameter in self.parameters]
        pieces = torch.split(whole[: sum(sizes)], sizes)
        return {p: piece.view(p.shape) for p, piece in zip(self.parameters, pieces, strict=True)}

    def gathered(self, part: Tensor) -> Tensor:
        """All shards, concatenated; all processes must call this."""
        parts = [torch.empty_like(part) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, part.contiguous())
        return torch.cat(parts)

    def own(self, values: Mapping[Tensor, Tensor]) -> Tensor:
        """This process's shard of the parameters' values."""
        length = self.part.numel()
        whole = self.part.new_zeros(length * dist.get_world_size())
        for parameter, place in self.split(whole).items():
            place.copy_(values[parameter])
        return whole[length * dist.get_rank() :][:length].clone()


class ZeroStepper:
    """The steps of one phase, by DeepSpeed."""

    def __init__(self, optimizer: torch.optim.Optimizer, stage: int, clip: float | None) -> None:
        """All processes must call this, with the same weights and optimizer state.

        Args:
            optimizer: The plain one, of all groups. Its state of what trains is moved out of it until `close`.
        """
        self._whole: torch.optim.Optimizer = getattr(optimizer, "optimizer", optimizer)
        trained = [[p for p in group["params"] if p.requires_grad] for group in self._whole.param_groups]
        self._groups = [group for group, some in zip(self._whole.param_groups, trained, strict=True) if some]
        trained = [some for some in trained if some]
        # It broadcasts the bytes of all its parameters, and supports one memory format only.
        module = nn.ParameterList([parameter for some in trained for parameter in some])
        for parameter in module:
            parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)
        made: Any = type(self._whole)  # Each class has other defaults; the groups hold the options.
        self._optimizer: torch.optim.Optimizer = made(
            [{**group, "params": some} for group, some in zip(self._groups, trained, strict=True)]
        )
        self._engine = _started(module, self._optimizer, stage, clip)
        self._flats = [
            _Flat(group["params"][0], tuple(some))
            for group, some in zip(self._optimizer.param_groups, trained, strict=True)
        ]
        self._require_layout()
        for flat in self._flats:
            self._take(flat)

    def accumulating(self, last: bool) -> AbstractContextManager[None]:
        """As in `Stepper`."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """As in `Stepper`."""
        self._engine.backward(loss)

    def apply(self) -> bool:
        """As in `Stepper`: DeepSpeed skips a step whose gradients aren't finite, in all processes."""
        for mine, group in zip(self._optimizer.param_groups, self._groups, strict=True):
            mine["lr"] = group["lr"]
        self._engine.step()
        return bool(self._engine.was_step_applied())

    def drop(self) -> None:
        """As in `Stepper`."""
        self._engine.zero_grad()

    def states(self, keep: bool) -> dict[Tensor, dict[str, Any]]:
        """The optimizer state of what trains, gathered; all processes must call this.

        Args:
            keep: Whether this process needs it; else it gets nothing.
        """
        found: dict[Tensor, dict[str, Any]] = {}
        for flat in self._flats:
            for key, value in self._optimizer.state[flat.part].items():
                shared = isinstance(value, Tensor) and value.shape == flat.part.shape
                whole = flat.split(flat.gathered(value)) if shared else dict.fromkeys(flat.parameters, value)
                if keep:
                    for parameter, each in whole.items():
                        found.setdefault(parameter, {})[key] = each
        return found

    @property
    def own_shard_size(self) -> int:
        """Number of weights whose optimizer state this process holds."""
        return sum(flat.part.numel() for flat in self._flats)

    def close(self) -> None:
        """As in `Stepper`."""
        self._whole.state.update(self.states(keep=True))
        self._engine.destroy()

    def _take(self, flat: _Flat) -> None:
        """Take this process's shard of the plain optimizer's state of some parameters.

        Raises:
            FtkitError: They have made different numbers of steps, and a flat shard has one number.
        """
        kept = [self._whole.state.pop(parameter, {}) for parameter in flat.parameters]
        # A parameter of most dimensions distinguishes values of its shape from counts of steps.
        place = max(range(len(kept)), key=lambda each: flat.parameters[each].dim())
        first, counts = kept[place], _counts(kept[place])
        for state in kept:
            same = [torch.equal(torch.as_tensor(state[k]), torch.as_tensor(v)) for k, v in counts.items() if k in state]
            if state.keys() != first.keys() or not all(same):
                raise FtkitError(
                    "parameters of one group have not trained equally long, and ZeRO steps a group as a whole",
                    "drop --zero-stage",
                )
        for key in first:
            values = {p: state[key] for p, state in zip(flat.parameters, kept, strict=True)}
            self._optimizer.state[flat.part][key] = counts[key] if key in counts else flat.own(values)

    def _require_layout(self) -> None:
        """Check that DeepSpeed has laid the weights out as this module assumes.

        Raises:
            FtkitError: It hasn't: gathered state would be of other weights.
        """
        for flat in self._flats:
            whole = flat.split(flat.gathered(flat.part.detach()))
            if not all(torch.equal(values, parameter) for parameter, values in whole.items()):
                raise FtkitError("this version of DeepSpeed shards weights in another way", "give --fsdp instead")


def _counts(state: Mapping[str, Any]) -> dict[str, Any]:
    """Optimizer state of a parameter besides tensors of its shape."""
    return {key: value for key, value in state.items() if not isinstance(value, Tensor) or value.dim() == 0}


def _started(module: nn.Module, optimizer: torch.optim.Optimizer, stage: int, clip: float | None) -> Any:
    """DeepSpeed's engine around the parameters; the forward pass isn't part of it."""
    import deepspeed  # It takes seconds to import.
    from deepspeed.utils import logger

    logger.setLevel(logging.ERROR)
    # On CPUs it would compile its own sum over processes, which needs a compiler.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist.get_backend(), verbose=False)
    sizes = [parameter.numel() for parameter in module.parameters()]
    bucket = max(*sizes, min(sum(sizes), 1 << 27))
    asked = {
        "train_micro_batch_size_per_gpu": 1,  # Used for nothing but counting images.
        "managed_gradient_accumulation": False,  # The trainer ends a step.
        "zero_allow_untested_optimizer": True,
        "gradient_clipping": clip or 0.0,
        "zero_optimization": {
            "stage": stage,
            "overlap_comm": False,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket + bucket % 2,
        },
    }
    return deepspeed.initialize(model=module, optimizer=optimizer, config=asked, dist_init_required=False)[0]
