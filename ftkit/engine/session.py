"""Everything that a running training holds, put together once from a plan."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn

import ftkit
from ftkit.engine import data, transforms
from ftkit.engine.bundle import backbone_id
from ftkit.engine.checkpoint import Progress, State, precision_of
from ftkit.engine.decoded import Decoded, keep_decoded
from ftkit.engine.devices import Compute, compute_of
from ftkit.engine.events import Listener
from ftkit.engine.groups import frozen_names
from ftkit.engine.interrupt import StopFlag
from ftkit.engine.layout import settle
from ftkit.engine.loss import Loss, make_loss
from ftkit.engine.model import BuiltModel, accelerator_for, build_model, counted
from ftkit.engine.optim import build_optimizer
from ftkit.engine.processes import main_first
from ftkit.engine.shards import Shards, gathered, require_shareable
from ftkit.engine.weights import put_back
from ftkit.errors import RequestError
from ftkit.planning import Plan
from ftkit.run_folder import RunFolder
from ftkit.runs import Card
from ftkit.spec.dataset import Split, SplitName


@dataclass(frozen=True)
class Feed:
    """What is trained and judged, and on what.

    Attributes:
        trained: The network, or what of it comes after the cached activations; takes batches of `train_loader`.
        judged: The same in evaluation, for `val_loader`.
    """

    trained: nn.Module
    train_loader: Any
    judged: nn.Module
    val_loader: Any


@dataclass
class Session:
    """A run under way.

    Attributes:
        network: The bare model, which holds the weights.
        model: What of it is called in training; wrapped anew at each phase.
        ordinary: The whole network, and images.
        feed: What the phase under way uses.
        decoded: Images that are kept decoded, by split.
        totals: Sum of losses, number right and number seen of this process in the epoch under way,
            float64 `(3,)` on the device, so that counting needs no wait for the GPU.
        broken: Image files that could no more be read, and were told of.
        first_norms: Norms of the weights that the run began with, by parameter, as far as they were computed.
        wrong_step: The first step of this epoch whose loss wasn't finite, -1 for none; int64 `()` on the device.
        shards: What of the network is shared out over the processes, once it is.
    """

    plan: Plan
    run: RunFolder
    listener: Listener
    accelerator: Accelerator
    compute: Compute
    built: BuiltModel
    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss: Loss
    order: data.TrainingOrder
    ordinary: Feed
    feed: Feed
    workers: int
    totals: Tensor
    flag: StopFlag
    wrong_step: Tensor
    decoded: Mapping[SplitName, Decoded] = field(default_factory=dict)
    progress: Progress = field(default_factory=Progress)
    saved_at: float = field(default_factory=time.monotonic)
    broken: set[str] = field(default_factory=set)
    first_norms: dict[str, float] = field(default_factory=dict)
    shards: Shards | None = None

    @property
    def network(self) -> nn.Module:
        return self.built.network

    @property
    def device(self) -> torch.device:
        return self.compute.device

    @property
    def rank(self) -> int:
        return int(self.accelerator.process_index)

    @property
    def world(self) -> int:
        return int(self.accelerator.num_processes)

    @property
    def is_main(self) -> bool:
        return bool(self.accelerator.is_main_process)

    def pixels(self, name: SplitName) -> data.Pixels | None:
        """What gives the pixels of a split where they are kept decoded."""
        return self.decoded[name].pixels if name in self.decoded else None

    def split(self, name: SplitName) -> Split:
        """Training or validation images, which every run has."""
        split = self.plan.splits.get(name)
        assert split is not None, "make_plan refuses data without these splits"
        return split


def open_session(plan: Plan, run: RunFolder, listener: Listener, flag: StopFlag, resume: bool = False) -> Session:
    """Build the model, the optimizer with every group in it, and the loaders.

    Args:
        resume: Compute in the precision of the run's checkpoint, whatever `auto` would be on this machine.
    """
    config = plan.config
    accelerator = accelerator_for(plan, precision_of(run.checkpoints) if resume else None)
    plan = replace(counted(plan), world=accelerator.num_processes)
    built = main_first(lambda: build_model(plan))
    look = plan.preprocessing
    compute = compute_of(accelerator)
    if config.fsdp:
        require_shareable(accelerator.num_processes, compute.precision, config.compile)
        built.network.to(compute.device)  # Shares are of parameters as they are laid out by default.
    else:
        compute = settle(built.network, compute, look.channels, look.size)
    optimizer = accelerator.prepare_optimizer(
        build_optimizer(config.optimizer, built.network, built.members, config.decay_all, compute.fuses)
    )
    train, val = plan.splits.train, plan.splits.val
    assert train is not None, "make_plan refuses data without a training split"
    assert val is not None, "make_plan refuses data without a validation split"
    rank, world, pin = accelerator.process_index, accelerator.num_processes, accelerator.device.type == "cuda"
    workers = data.resolve_workers(config.workers, len(train), world)
    weights = [plan.class_weights[label] for label in train.labels] if config.balance == "sampler" else None
    order = data.TrainingOrder(plan.batches, config.seed, rank, weights, train.blocks)
    both: dict[SplitName, Split] = {"train": train, "val": val}
    decoded = keep_decoded(both, look.channels, config.cache, config.dataset.name, workers, listener.note)
    kept = {name: one.pixels for name, one in decoded.items()}
    samples = data.Samples(train, transforms.training(look, plan.augmentation), config.seed, kept.get("train"))
    shape, judge = (look.channels, look.size, look.size), transforms.evaluation(look)
    ordinary = Feed(
        built.network,
        data.training_loader(samples, order, workers, pin, shape),
        built.network,
        data.evaluation_loader(val, judge, config.batch_size, workers, rank, world, pin, kept.get("val")),
    )
    return Session(
        plan=plan,
        run=run,
        listener=listener,
        accelerator=accelerator,
        compute=compute,
        built=built,
        model=built.network,
        optimizer=cast(torch.optim.Optimizer, optimizer),
        loss=make_loss(plan, accelerator.device),
        order=order,
        ordinary=ordinary,
        feed=ordinary,
        workers=workers,
        totals=torch.zeros(3, dtype=torch.float64, device=accelerator.device),
        flag=flag,
        decoded=decoded,
        wrong_step=torch.tensor(-1, device=accelerator.device),
    )


def capture(session: Session) -> State:
    """The run's state as a checkpoint holds it, once the totals over all processes are in its progress.

    All processes must ask; tensors that are shared out are put together in the main one alone.
    """
    scaler = session.accelerator.scaler
    model, optimizer = session.network.state_dict(), session.optimizer.state_dict()["state"]
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
        state.progress.stopped, state.progress.waited = False, 0
    if other_world:
        now["world"] = state.identity.get("world")
    _require_same(state.identity, now, session.plan)
    put_back(session.network, state.model)
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
    if session.accelerator.is_main_process:
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
        "preprocessing": {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(plan.preprocessing).items()},
        "backbone": plan.backbone.name,
        "head": asdict(plan.head),
        "seed": plan.config.seed,
        "batch_size": plan.config.batch_size,
        "accumulate": plan.config.accumulate,
        "epochs": plan.config.epochs,
        "world": plan.world,
    }


def make_card(plan: Plan, metrics: Mapping[str, float | None], epoch: int) -> Card:
    """The card of a bundle with the weights after `epoch` whole epochs."""
    return Card(
        classes=plan.splits.classes,
        preprocessing=plan.preprocessing,
        backbone=backbone_id(plan.resolved.registry, plan.config.backbone),
        weights=plan.weights.describe(),
        strategy={"name": plan.config.strategy.name, **plan.config.strategy.options},
        metrics=metrics,
        epoch=epoch,
        fingerprint=plan.fingerprint,
        head=plan.head,
        origin=plan.splits.origin,
    )


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
    before, now = replace(plan, world=world).batches, plan.batches
    return (
        f"the run had {before.world} processes, now there are {now.world}: a step sees {now.effective} images in place "
        f"of {before.effective}, an epoch has {now.steps} steps in place of {before.steps}, at the same rates"
    )
