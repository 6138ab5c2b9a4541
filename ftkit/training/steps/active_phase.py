"""The network, batches and stepper of the phase under way."""

from __future__ import annotations

from dataclasses import dataclass

from accelerate import DistributedDataParallelKwargs
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ftkit.activation_cache.feed import Feed
from ftkit.errors import RequestError
from ftkit.models.compute.compilation import compiled
from ftkit.models.parameter_groups import Modes, set_trainable
from ftkit.planning.run_plan import Plan
from ftkit.strategies.schedule import Phase
from ftkit.training.preparation.gradient_check import GradientReach
from ftkit.training.session import Session
from ftkit.training.steppers.fsdp import Shards
from ftkit.training.steppers.plain import PlainStepper, Stepper
from ftkit.training.steppers.zero import ZeroStepper
from ftkit.training.steps.batch_division import Buffers


@dataclass(frozen=True)
class ActivePhase:
    """A phase that trains.

    Attributes:
        modes: Which modules are in train mode.
        feed: Network and batches, from the cut on where activations are cached.
        model: `feed.model`, wrapped for several processes and compiled where that was asked for.
        buffers: What a step's forward passes change, for a step that starts over.
    """

    phase: Phase
    modes: Modes
    feed: Feed
    model: nn.Module
    stepper: Stepper
    buffers: Buffers


def freeze(session: Session, phase: Phase) -> Modes:
    """Let the phase's layer groups train and freeze the others.

    Raises:
        RequestError: Batches are too small for the BatchNorm modules that train.
    """
    modes = set_trainable(session.network, session.plan.schedule.groups, phase.trainable, session.plan.config.train_bn)
    _check_batches(session.plan, modes)
    return modes


def enter_phase(
    session: Session, phase: Phase, modes: Modes, feed: Feed, reach: GradientReach, shards: Shards | None
) -> ActivePhase:
    """Wrap the network for a phase, and make the stepper for what trains in it.

    Each phase has its own wrapper: one made for other trainable parameters would let the processes drift apart. A
    single process needs none; accelerate's autocast would be lost at the second phase.
    """
    config, accelerator = session.plan.config, session.accelerator
    model = feed.model
    if session.world > 1 and shards is None and not config.zero_stage:
        # The wrapper waits for the gradient of each parameter that requires one.
        for name in reach.unreached:
            session.network.get_parameter(name).requires_grad_(False)
        if reach.varies:
            accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=True)
        model = accelerator.prepare_model(model)
    if config.compile:
        model = compiled(model)
    stepper: Stepper = (
        ZeroStepper(session.optimizer, config.zero_stage, config.clip_grad)
        if config.zero_stage
        else PlainStepper(accelerator, model, session.optimizer, config.clip_grad)
    )
    return ActivePhase(phase, modes, feed, model, stepper, Buffers(modes))


def _check_batches(plan: Plan, modes: Modes) -> None:
    """Refuse batches of one image where BatchNorm learns its statistics from them."""
    if plan.batches.smallest < 2 and any(isinstance(m, _BatchNorm) for m in modes.training):
        raise RequestError(
            f"batch_size {plan.batches.batch_size} and accumulate {plan.batches.accumulate} make batches of one of the "
            f"{plan.batches.images} training images, which BatchNorm can't learn from",
            "raise --batch-size, or lower --accumulate",
        )
