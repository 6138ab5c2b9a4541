"""Everything that a running training holds, put together once from a plan."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ftkit.activation_cache.feed import Feed
from ftkit.data.loading import loader
from ftkit.data.loading.decoded_images import DecodedCache, open_decoded_caches
from ftkit.data.loading.order import TrainingOrder
from ftkit.data.loading.workers import choose_workers
from ftkit.data.scan.content_digests import ImageDigests, image_digests
from ftkit.distributed.processes import main_first
from ftkit.models.build import BuiltModel, accelerator_for, build_model, counted
from ftkit.models.compute.devices import Compute, compute_of
from ftkit.models.compute.memory_format import choose_memory_format
from ftkit.models.identity import network_facts
from ftkit.models.logits import check_outputs
from ftkit.models.regularisation import set_regularisation
from ftkit.models.weights.drift import Known
from ftkit.optim.optimizers import build_optimizer
from ftkit.parts.dataset import Split, SplitName
from ftkit.planning.run_plan import BYTES_PER_VALUE, Plan
from ftkit.runs.checkpoint import Progress, has_checkpoint, precision_of
from ftkit.runs.model_card import ModelCard
from ftkit.runs.run_folder import RunFolder
from ftkit.tasks.loss import BatchLoss, make_loss
from ftkit.training.events import Listener
from ftkit.training.steppers.fsdp import Shards, check_can_shard
from ftkit.training.steppers.plain import PlainStepper, Stepper
from ftkit.training.steppers.zero import require_zero
from ftkit.training.stop_signals import StopFlag
from ftkit.transforms import pipeline


@dataclass(frozen=True)
class Best:
    """The best weights so far, until they are on the disk.

    Attributes:
        card: Of the model that they make.
        values: What of them the phase under way can change, on the CPU, by name.
    """

    card: ModelCard
    values: Mapping[str, Tensor]


@dataclass
class Session:
    """A run under way.

    Attributes:
        network: The bare model, which holds the weights.
        model: What of it is called in training; wrapped anew at each phase.
        stepper: What takes the optimizer's steps; made anew at each phase.
        uncached: The whole network, and images.
        feed: What the phase under way uses.
        decoded: Images that are kept decoded, by split.
        totals: Sum of losses, number right and number seen of this process in the epoch under way,
            float64 `(3,)` on the device, so that counting needs no wait for the GPU.
        saved_at: When the last checkpoint was written, or the session opened, by the monotonic clock.
        unsaved: Whether an epoch has ended since.
        best: The best weights, where the disk doesn't have them yet; in the main process alone.
        broken: Image files that could no more be read, and were told of.
        known: Of how far the weights are from the first ones.
        wrong_step: The first step of this epoch whose loss wasn't finite, -1 for none; int64 `()` on the device.
        shards: What of the network is shared out over the processes, once it is.
        network_facts: What the network is by its code and settings.
        unreached: Names of parameters that no gradient reaches.
        branches: Whether the network leaves some of its parameters out of some steps.
        images: What the images of the splits are known by, where that was asked for.
    """

    plan: Plan
    run: RunFolder
    listener: Listener
    accelerator: Accelerator
    compute: Compute
    built: BuiltModel
    model: nn.Module
    optimizer: torch.optim.Optimizer
    stepper: Stepper
    loss: BatchLoss
    order: TrainingOrder
    uncached: Feed
    feed: Feed
    workers: int
    totals: Tensor
    flag: StopFlag
    wrong_step: Tensor
    decoded: Mapping[SplitName, DecodedCache] = field(default_factory=dict)
    progress: Progress = field(default_factory=Progress)
    saved_at: float = field(default_factory=time.monotonic)
    unsaved: bool = False
    best: Best | None = None
    broken: set[str] = field(default_factory=set)
    known: Known = field(default_factory=Known)
    shards: Shards | None = None
    network_facts: Mapping[str, Any] = field(default_factory=dict)
    unreached: frozenset[str] = frozenset()
    branches: bool = False
    images: dict[SplitName, ImageDigests] = field(default_factory=dict)

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

    def pixels(self, name: SplitName) -> loader.Pixels | None:
        """What gives the pixels of a split where they are kept decoded."""
        return self.decoded[name].pixels if name in self.decoded else None

    def image_digests(self, name: SplitName) -> ImageDigests:
        """What the images of a split are known by; files that the image scan hasn't read are read, once."""
        if name not in self.images:
            self.images[name] = image_digests(self.split(name))
        return self.images[name]

    def split(self, name: SplitName) -> Split:
        """Training or validation images, which every run has."""
        split = self.plan.splits.get(name)
        assert split is not None, "make_plan refuses data without these splits"
        return split


def transforms_on_device(plan: Plan, compute: Compute) -> bool:
    """Whether workers only begin an image, as 8-bit pixels, and the device does the rest with whole batches."""
    asked = plan.config.augment_on
    return asked == "device" or (asked == "auto" and compute.device.type == "cuda")


def workers_for(plan: Plan, compute: Compute, listener: Listener) -> int:
    """Worker processes for the training images."""
    assert plan.splits.train is not None, "make_plan refuses data without a training split"
    preprocessing, width = plan.preprocessing, 1 if transforms_on_device(plan, compute) else BYTES_PER_VALUE
    nbytes = plan.config.batch_size * preprocessing.channels * preprocessing.size**2 * width
    return choose_workers(plan.config.workers, len(plan.splits.train), plan.world_size, nbytes, listener.note)


def open_session(plan: Plan, run: RunFolder, listener: Listener, flag: StopFlag, resume: bool = False) -> Session:
    """Build the model, the optimizer with every group in it, and the loaders.

    Args:
        resume: Compute in the precision of the run's checkpoint, whatever `auto` would be on this machine.
    """
    config = plan.config
    accelerator = accelerator_for(plan, precision_of(run.checkpoints) if resume else None)
    plan = replace(counted(plan), world_size=accelerator.num_processes)
    # A checkpoint has all of the network's tensors: the first weights aren't needed, and may be gone.
    built = main_first(lambda: build_model(plan, load=not (resume and has_checkpoint(run.checkpoints))))
    facts = network_facts(built.network)
    set_regularisation(built.network, plan.backbone, config.drop_path, config.backbone_dropout)
    preprocessing = plan.preprocessing
    compute = compute_of(accelerator)
    if config.zero_stage:
        require_zero(config, accelerator.num_processes, compute.precision)
    elif config.fsdp:
        check_can_shard("--fsdp", "shares a network out", accelerator.num_processes, compute.precision, config.compile)
    if config.zero_stage or config.fsdp:
        built.network.to(compute.device)  # Shares are of parameters as they are laid out by default.
    else:
        compute = choose_memory_format(built.network, compute, preprocessing.channels, preprocessing.size)
        check_outputs(built.network, plan, compute, training=config.epochs > 0)
    optimizer = cast(
        torch.optim.Optimizer,
        accelerator.prepare_optimizer(
            build_optimizer(config.optimizer, built.network, built.members, config.decay_all, compute.fuses)
        ),
    )
    train, val = plan.splits.train, plan.splits.val
    assert train is not None, "make_plan refuses data without a training split"
    assert val is not None, "make_plan refuses data without a validation split"
    rank, world, pin = accelerator.process_index, accelerator.num_processes, accelerator.device.type == "cuda"
    workers = workers_for(plan, compute, listener)
    weights = [plan.class_weights[label] for label in train.labels] if config.balance == "sampler" else None
    order = TrainingOrder(plan.batches, config.seed, rank, weights, train.blocks)
    both: dict[SplitName, Split] = {"train": train, "val": val}
    decoded = open_decoded_caches(
        both,
        preprocessing.channels,
        config.cache,
        config.dataset.name,
        workers,
        listener.note,
        preprocessing.value_range,
    )
    kept = {name: one.pixels for name, one in decoded.items()}
    on_device = transforms_on_device(plan, compute)
    change = pipeline.training(preprocessing, plan.augmentation, plan.image_transforms)
    samples = loader.Samples(train, change, config.seed, kept.get("train"), on_device)
    shape, judge = (
        (preprocessing.channels, preprocessing.size, preprocessing.size),
        pipeline.evaluation(preprocessing),
    )
    uncached = Feed(
        built.network,
        loader.training_loader(samples, order, workers, pin, shape),
        built.network,
        loader.evaluation_loader(val, judge, config.batch_size, workers, rank, world, pin, kept.get("val"), on_device),
    )
    return Session(
        plan=plan,
        run=run,
        listener=listener,
        accelerator=accelerator,
        compute=compute,
        built=built,
        model=built.network,
        optimizer=optimizer,
        stepper=PlainStepper(accelerator, built.network, optimizer, config.clip_grad),
        loss=make_loss(plan, accelerator.device),
        order=order,
        uncached=uncached,
        feed=uncached,
        workers=workers,
        totals=torch.zeros(3, dtype=torch.float64, device=accelerator.device),
        flag=flag,
        decoded=decoded,
        network_facts=facts,
        wrong_step=torch.tensor(-1, device=accelerator.device),
    )
