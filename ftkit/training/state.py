"""What of a running training a checkpoint holds, and what must be the same for it to go on from one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

import ftkit
from ftkit.errors import RequestError
from ftkit.models.parameter_groups import frozen_names
from ftkit.models.weights.pretrained import restore_weights
from ftkit.planning.run_plan import Plan
from ftkit.runs.checkpoint import State
from ftkit.training.session import Session
from ftkit.training.steppers.fsdp import gathered
from ftkit.training.steppers.zero import ZeroStepper


def capture(session: Session) -> State:
    """The run's state as a checkpoint holds it, once the totals over all processes are in its progress.

    All processes must ask; tensors that are shared out are put together in the main one alone.
    """
    scaler = session.accelerator.scaler
    model, optimizer = session.network.state_dict(), session.optimizer.state_dict()["state"]
    if isinstance(session.stepper, ZeroStepper):
        optimizer = optimizer | _by_place(session, session.stepper.states(session.is_main))
    if session.shards is not None:
        model = gathered(model, session.is_main)
        optimizer = {index: gathered(values, session.is_main) for index, values in optimizer.items()}
    return State(
        progress=session.progress,
        identity={**identity(session.plan), "precision": session.compute.precision},
        model=model,
        optimizer=optimizer,
        scaler=scaler.state_dict() if scaler is not None else {},
        versions=versions(session.plan),
        frozen=frozen_names(session.network),
    )


def _by_place(session: Session, states: Mapping[Tensor, Mapping[str, Any]]) -> dict[int, Mapping[str, Any]]:
    """What an optimizer keeps, by the place of the parameter among all of it, as in torch's state dict."""
    parameters = [parameter for group in session.optimizer.param_groups for parameter in group["params"]]
    return {place: states[parameter] for place, parameter in enumerate(parameters) if parameter in states}


def versions(plan: Plan) -> dict[str, str]:
    """What a run was computed with: another version of it may end with other last digits."""
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


def restore(session: Session, state: State, other_world: bool = False) -> None:
    """Put a checkpoint's state into a session that was just opened.

    Args:
        other_world: Let the checkpoint be that of another number of processes.

    Raises:
        RequestError: The checkpoint is of another data, seed, batch size or world size.
    """
    now = identity(session.plan)
    if session.plan.config.extended_from is not None and state.identity.get("epochs", 0) < now["epochs"]:
        # More was asked for than before, so that whatever had ended the run has not.
        now["epochs"] = state.identity["epochs"]
        state.progress.stopped, state.progress.waited, state.progress.patience_best = False, 0, None
    if other_world:
        now["world"] = state.identity.get("world")
    _require_same(state.identity, now, session.plan)
    restore_weights(session.network, state.model)
    groups = session.optimizer.state_dict()["param_groups"]
    parameters = [parameter for group in session.optimizer.param_groups for parameter in group["params"]]
    _require_fit(state.optimizer, parameters)
    laid_out = {
        index: {key: _laid_out(value, parameters[index]) for key, value in values.items()}
        for index, values in state.optimizer.items()
    }
    session.optimizer.load_state_dict({"state": laid_out, "param_groups": groups})
    if state.scaler and session.accelerator.scaler is not None:
        session.accelerator.scaler.load_state_dict(dict(state.scaler))
    session.progress = state.progress
    # They are sums over all processes, which are added up again.
    if session.is_main:
        values = [state.progress.loss_sum, state.progress.correct, state.progress.seen]
        session.totals.copy_(torch.tensor(values, dtype=torch.float64))


def _laid_out(value: Any, parameter: Tensor) -> Any:
    """What an optimizer keeps of a parameter, in memory as the parameter itself: sums over both are quicker then."""
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


def totals(session: Session) -> tuple[float, int, int]:
    """Sum of losses, images right and images seen in the epoch under way, in this process."""
    loss, correct, seen = session.totals.tolist()
    return loss, int(correct), int(seen)


def all_totals(session: Session) -> tuple[float, int, int]:
    """The same over all processes, each of which must ask."""
    loss, correct, seen = session.accelerator.reduce(session.totals, "sum").tolist()
    return loss, int(correct), int(seen)


def identity(plan: Plan) -> dict[str, Any]:
    """What must stay the same for a run to go on to the same result."""
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
        "batch_size": plan.config.batch_size,
        "accumulate": plan.config.accumulate,
        "epochs": plan.config.epochs,
        "world": plan.world_size,
    }


def _require_same(saved: Mapping[str, Any], now: Mapping[str, Any], plan: Plan) -> None:
    for key, value in now.items():
        if key == "world" and type(saved.get(key)) is int and saved[key] > 0 and saved[key] != value:
            raise RequestError(_other_world(saved[key], plan), "give --allow-world-size-change, or as many processes")
        if saved.get(key) != value:
            change = f"{key} was {saved.get(key)}, now it is {value}"
            raise RequestError(
                "the run can't go on: " + ("its data has changed" if key in ("fingerprint", "classes") else change),
                "put it back as it was, or start a new run",
            )


def _other_world(world: int, plan: Plan) -> str:
    """What another number of processes changes; `world` is that of the checkpoint."""
    before, now = replace(plan, world_size=world).batches, plan.batches
    return (
        f"the run had {before.world} processes, now there are {now.world}: a step sees {now.effective} images in place "
        f"of {before.effective}, an epoch has {now.steps} steps in place of {before.steps}, at the same rates"
    )
