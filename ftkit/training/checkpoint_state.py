"""The state of a run in a checkpoint, and what must be the same for a run to resume from one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import ftkit
from ftkit.errors import RequestError
from ftkit.models.parameter_groups import frozen_names
from ftkit.models.weights.pretrained import restore_weights
from ftkit.planning.run_plan import Plan
from ftkit.runs.checkpoint_files import Progress, State
from ftkit.training.steppers.fsdp import gathered
from ftkit.training.steppers.zero import ZeroStepper

if TYPE_CHECKING:
    from ftkit.training.session import Session
    from ftkit.training.trainer import Trainer


def state_of(trainer: Trainer) -> State:
    """The state of a run as a checkpoint holds it; the totals over all processes are in its progress already.

    All processes must call this; sharded tensors are gathered in the main one.
    """
    session = trainer.session
    scaler = session.accelerator.scaler
    model, optimizer = session.network.state_dict(), session.optimizer.state_dict()["state"]
    stepper = trainer.active.stepper if trainer.active else None
    if isinstance(stepper, ZeroStepper):
        optimizer = optimizer | _by_index(session.optimizer, stepper.states(session.is_main))
    if trainer.shards is not None:
        model = gathered(model, session.is_main)
        optimizer = {index: gathered(values, session.is_main) for index, values in optimizer.items()}
    return State(
        progress=session.progress,
        identity={
            **identity(session.plan),
            "precision": session.precision.training,
            "evaluation_precision": session.precision.evaluation,
        },
        model=model,
        optimizer=optimizer,
        scaler=scaler.state_dict() if scaler is not None else {},
        versions=versions(session.plan),
        frozen=frozen_names(session.network),
        callbacks=trainer.callbacks.state_dict(),
    )


def load_state(trainer: Trainer, state: State, other_world: bool = False) -> None:
    """Restore a checkpoint's state in a trainer that hasn't trained yet.

    Args:
        other_world: Accept the checkpoint of another number of processes.

    Raises:
        RequestError: The checkpoint is of other data, or of another seed, batch size or number of processes.
        KeyError, RuntimeError, TypeError, ValueError: It is of another network.
    """
    session, progress = trainer.session, state.progress
    now = identity(session.plan)
    if session.plan.config.extended_from is not None and state.identity.get("epochs", 0) < now["epochs"]:
        # More epochs are planned than before, so a run that had stopped early continues.
        now["epochs"] = state.identity["epochs"]
        progress.stopped = False
    if other_world:
        now["world"] = state.identity.get("world")
    _require_same(state.identity, now, session.plan)
    restore_weights(session.network, state.model)
    _load_optimizer(session, state)
    for each in fields(Progress):
        setattr(session.progress, each.name, getattr(progress, each.name))
    if session.is_main:
        trainer.totals.load(progress)
    trainer.callbacks.load_state_dict(state.callbacks)


def versions(plan: Plan) -> dict[str, str]:
    """Versions of the packages that a run computes with: others may end with other last digits."""
    config, registry = plan.config, plan.resolved.registry
    found = {"ftkit": ftkit.__version__, "torch": str(torch.__version__)}
    for catalog, name in (
        (registry.backbones, config.backbone),
        (registry.strategies, config.strategy.name),
        (registry.datasets, config.dataset.name),
    ):
        owner = catalog.owner(name)
        found[owner.package or owner.name] = owner.version or found.get(owner.package, "")
    return found


def identity(plan: Plan) -> dict[str, Any]:
    """What must stay the same for a run to resume to the same result."""
    return {
        "fingerprint": plan.fingerprint,
        "classes": list(plan.splits.classes),
        "preprocessing": {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(plan.preprocessing).items()
            if value is not None  # Checkpoints from before there was a value range have none.
        },
        "backbone": plan.backbone.name,
        "head": asdict(plan.head),
        "seed": plan.config.seed,
        "batch_size": plan.batches.batch_size,
        "accumulate": plan.batches.accumulate,
        "epochs": plan.config.epochs,
        "world": plan.world_size,
    }


def _by_index(
    optimizer: torch.optim.Optimizer, states: Mapping[Tensor, Mapping[str, Any]]
) -> dict[int, Mapping[str, Any]]:
    """Optimizer state by the parameter's index among all of the optimizer's, as in torch's state dict."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return {index: states[parameter] for index, parameter in enumerate(parameters) if parameter in states}


def _load_optimizer(session: Session, state: State) -> None:
    groups = session.optimizer.state_dict()["param_groups"]
    parameters = [parameter for group in session.optimizer.param_groups for parameter in group["params"]]
    _require_fit(state.optimizer, parameters)
    laid_out = {
        index: {key: _in_format_of(parameters[index], value) for key, value in values.items()}
        for index, values in state.optimizer.items()
    }
    session.optimizer.load_state_dict({"state": laid_out, "param_groups": groups})
    if state.scaler and session.accelerator.scaler is not None:
        session.accelerator.scaler.load_state_dict(dict(state.scaler))


def _in_format_of(parameter: Tensor, value: Any) -> Any:
    """Optimizer state in the memory format of its parameter: arithmetic on both is faster then."""
    if isinstance(value, Tensor) and value.shape == parameter.shape:
        return torch.empty_like(parameter, dtype=value.dtype, device=value.device).copy_(value)
    return value


def _require_fit(state: Mapping[int, Mapping[str, Any]], parameters: Sequence[Tensor]) -> None:
    for index, values in state.items():
        if index not in range(len(parameters)):
            raise ValueError(f"its optimizer has {index + 1} parameters in place of {len(parameters)}")
        for key, value in values.items():
            if isinstance(value, Tensor) and value.dim() and value.shape != parameters[index].shape:
                raise ValueError(f"{key} of parameter {index} is of shape {tuple(value.shape)}")


def _require_same(saved: Mapping[str, Any], now: Mapping[str, Any], plan: Plan) -> None:
    for key, value in now.items():
        if key == "world" and type(saved.get(key)) is int and saved[key] > 0 and saved[key] != value:
            raise RequestError(_other_world(saved[key], plan), "give --allow-world-size-change, or as many processes")
        if saved.get(key) != value:
            change = f"{key} was {saved.get(key)}, now it is {value}"
            raise RequestError(
                "the run can't resume: " + ("its data has changed" if key in ("fingerprint", "classes") else change),
                "put it back as it was, or start a new run",
            )


def _other_world(world: int, plan: Plan) -> str:
    """The difference that another number of processes makes; `world` is that of the checkpoint."""
    before, now = replace(plan, world_size=world).batches, plan.batches
    return (
        f"the run had {before.world} processes, now there are {now.world}: a step sees {now.effective} images in place "
        f"of {before.effective}, an epoch has {now.steps} steps in place of {before.steps}, at the same rates"
    )
