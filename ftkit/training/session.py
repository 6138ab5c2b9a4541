"""The parts of a run that stay the same while it trains, built once from a plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import nn

from ftkit.activation_cache.feed import Feed
from ftkit.config.choices import AUTO
from ftkit.data.balance import sampling_weights
from ftkit.data.loading import loader
from ftkit.data.loading.decoded_images import DecodedCache, open_decoded_caches, open_small_caches
from ftkit.data.loading.order import TrainingOrder
from ftkit.data.loading.workers import choose_workers
from ftkit.data.scan.content_digests import ImageDigests, image_digests
from ftkit.distributed.processes import main_first
from ftkit.models.build import BuiltModel, build_model, plan_accelerator, with_parameter_counts
from ftkit.models.compute.allocator import keep_freed_memory
from ftkit.models.compute.devices import Compute, compute_of
from ftkit.models.compute.memory_format import choose_memory_format
from ftkit.models.compute.precision import Precision
from ftkit.models.identity import describe_network
from ftkit.models.logits import check_outputs
from ftkit.models.regularisation import set_regularisation
from ftkit.optim.optimizers import build_optimizer
from ftkit.parts.dataset import Split, SplitName
from ftkit.planning.run_plan import BYTES_PER_VALUE, Plan
from ftkit.runs.checkpoint import has_checkpoint, precisions_of
from ftkit.runs.checkpoint_files import Progress
from ftkit.runs.run_folder import RunFolder
from ftkit.tasks.training_loss import BatchLoss, make_loss
from ftkit.training.callbacks.unreadable_images import UnreadableImages
from ftkit.training.events import Listener
from ftkit.training.preparation.auto_batch_size import settle_batch_size
from ftkit.training.steppers.fsdp import check_can_shard
from ftkit.training.steppers.zero import require_zero
from ftkit.training.steps.distillation import Distillation, make_distillation
from ftkit.training.stop_signals import StopFlag
from ftkit.transforms import pipeline

DECODING_COUNTS = 8
"""On a CPU, `auto` keeps images decoded that have at least this many times the pixels of the network's input."""


@dataclass(frozen=True)
class Session:
    """A run's parts.

    Attributes:
        compute: Of training; `evaluation`, that of validation, may have another precision.
        precision: Of both, with the reason.
        built: The network, which holds the weights, and its parameters by layer group.
        uncached: The whole network with batches of images, for phases that don't use the activation cache.
        distillation: The loss against the teacher, if there is one.
        workers: Worker processes that read training images.
        decoded: Images that are kept decoded, by split.
        network_facts: Identity of the network's code and settings.
        unreadable: What becomes of images that can't be read.
        progress: The position, which the trainer advances.
        images: Digests of the images of splits, once they were asked for.
    """

    plan: Plan
    run: RunFolder
    listener: Listener
    flag: StopFlag
    accelerator: Accelerator
    compute: Compute
    precision: Precision
    built: BuiltModel
    optimizer: torch.optim.Optimizer
    loss: BatchLoss
    distillation: Distillation | None
    order: TrainingOrder
    uncached: Feed
    workers: int
    decoded: Mapping[SplitName, DecodedCache]
    network_facts: Mapping[str, Any]
    unreadable: UnreadableImages
    progress: Progress = field(default_factory=Progress)
    images: dict[SplitName, ImageDigests] = field(default_factory=dict)

    @property
    def network(self) -> nn.Module:
        return self.built.network

    @cached_property
    def evaluation(self) -> Compute:
        return replace(self.compute, precision=self.precision.evaluation)

    def compute_for(self, split: SplitName) -> Compute:
        """How the images of a split are computed, whether the frozen layers' outputs are cached or not."""
        return self.evaluation if split == "val" else self.compute

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
        """The decoded pixels of a split, where they are kept."""
        return self.decoded[name].pixels if name in self.decoded else None

    def image_digests(self, name: SplitName) -> ImageDigests:
        """Digests of the images of a split; files that the image scan hasn't read are read, once."""
        if name not in self.images:
            self.images[name] = image_digests(self.split(name))
        return self.images[name]

    def split(self, name: SplitName) -> Split:
        """Training or validation images, which every run has."""
        return _split(self.plan, name)


def open_session(plan: Plan, run: RunFolder, listener: Listener, flag: StopFlag, resume: bool = False) -> Session:
    """Build the model, the optimizer with every layer group in it, and the loaders.

    Args:
        resume: Compute in the precision of the run's checkpoint, whatever `auto` would be on this machine.
    """
    accelerator, precision = plan_accelerator(plan, _saved_precision(run) if resume else None)
    plan = replace(with_parameter_counts(plan), world_size=accelerator.num_processes)
    # A checkpoint has all of the network's tensors: the first weights aren't needed, and may be gone.
    built = main_first(lambda: build_model(plan, load=not (resume and has_checkpoint(run.checkpoints))))
    facts = describe_network(built.network)
    set_regularisation(built.network, plan.backbone, plan.config.drop_path, plan.config.backbone_dropout)
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    compute = _place_network(built.network, plan, compute_of(accelerator), accelerator.num_processes)
    plan = settle_batch_size(plan, built.network, compute, accelerator, run, listener)
    optimizer = _optimizer(plan, built, compute, accelerator)
    workers = _workers(plan, compute, listener)
    decoded = _decoded(plan, compute, workers, listener)
    order = _order(plan, accelerator.process_index)
    return Session(
        plan=plan,
        run=run,
        listener=listener,
        flag=flag,
        accelerator=accelerator,
        compute=compute,
        precision=precision,
        built=built,
        optimizer=optimizer,
        loss=make_loss(plan, accelerator.device),
        distillation=make_distillation(plan, compute, precision.evaluation),
        order=order,
        uncached=_image_feed(plan, built.network, compute, accelerator, order, workers, decoded),
        workers=workers,
        decoded=decoded,
        network_facts=facts,
        unreadable=UnreadableImages(plan.config.on_bad_image == "skip", run, listener.note, plan.world_size),
    )


def _saved_precision(run: RunFolder) -> Precision | None:
    """The precision of a run's checkpoint; None without one."""
    found = precisions_of(run.checkpoints)
    return None if found is None else Precision(*found, "as in the checkpoint")


def _split(plan: Plan, name: SplitName) -> Split:
    split = plan.splits.get(name)
    assert split is not None, "make_plan refuses data without these splits"
    return split


def _place_network(network: nn.Module, plan: Plan, compute: Compute, processes: int) -> Compute:
    """Move the network to the device, in the memory format that computes fastest."""
    config, size = plan.config, plan.preprocessing
    if config.zero_stage:
        require_zero(config, plan.optimizer, processes, compute.precision)
    elif config.fsdp:
        check_can_shard("--fsdp", "shards the network", processes, compute.precision, config.compile)
    if config.zero_stage or config.fsdp:
        network.to(compute.device)  # Shards are of parameters in torch's default memory format.
        return compute
    compute = choose_memory_format(network, compute, size.channels, size.size)
    check_outputs(network, plan, compute, training=config.epochs > 0)
    return compute


def _optimizer(plan: Plan, built: BuiltModel, compute: Compute, accelerator: Accelerator) -> torch.optim.Optimizer:
    config = plan.config
    made = build_optimizer(
        plan.optimizer, config.optimizer.rate, built.network, built.members, config.decay_all, compute.fuses
    )
    return cast(torch.optim.Optimizer, accelerator.prepare_optimizer(made))


def _decoded(plan: Plan, compute: Compute, workers: int, listener: Listener) -> Mapping[SplitName, DecodedCache]:
    """The caches of decoded images, where the config asks for them, or by `auto` where they save time.

    Where unreadable images are left out, `auto` keeps none: a file that breaks during the run would be left out or not
    by whether it was kept already.
    """
    config, inputs = plan.config, plan.preprocessing
    splits: dict[SplitName, Split] = {"train": _split(plan, "train"), "val": _split(plan, "val")}
    if config.cache.decoded == AUTO:
        if config.on_bad_image == "skip":
            return {}
        least = DECODING_COUNTS * inputs.size**2 if compute.device.type == "cpu" else 0
        return open_small_caches(splits, inputs.channels, config.cache, workers, least, inputs.value_range)
    return open_decoded_caches(
        splits, inputs.channels, config.cache, config.dataset.name, workers, listener.note, inputs.value_range
    )


def _augments_on_device(plan: Plan, compute: Compute) -> bool:
    """Whether workers only decode images to 8-bit pixels, and the device augments whole batches."""
    asked = plan.config.augment_on
    return asked == "device" or (asked == "auto" and compute.device.type == "cuda")


def _workers(plan: Plan, compute: Compute, listener: Listener) -> int:
    """Worker processes for the training images."""
    size, width = plan.preprocessing, 1 if _augments_on_device(plan, compute) else BYTES_PER_VALUE
    nbytes = plan.batches.batch_size * size.channels * size.size**2 * width
    return choose_workers(plan.config.workers, len(_split(plan, "train")), plan.world_size, nbytes, listener.note)


def _order(plan: Plan, rank: int) -> TrainingOrder:
    train = _split(plan, "train")
    weights = sampling_weights(train.labels, plan.num_classes) if plan.config.balance == "sampler" else None
    return TrainingOrder(plan.batches, plan.config.seed, rank, weights, train.blocks)


def _image_feed(
    plan: Plan,
    network: nn.Module,
    compute: Compute,
    accelerator: Accelerator,
    order: TrainingOrder,
    workers: int,
    decoded: Mapping[SplitName, DecodedCache],
) -> Feed:
    """The whole network and batches of images."""
    size, on_device = plan.preprocessing, _augments_on_device(plan, compute)
    rank, world, pin = accelerator.process_index, accelerator.num_processes, accelerator.device.type == "cuda"
    pixels = {name: one.pixels for name, one in decoded.items()}
    change = pipeline.training(size, plan.augmentation, plan.image_transforms)
    samples = loader.Samples(_split(plan, "train"), change, plan.config.seed, pixels.get("train"), on_device)
    val = loader.Samples(_split(plan, "val"), pipeline.evaluation(size), pixels=pixels.get("val"), on_device=on_device)
    return Feed(
        network,
        loader.training_loader(samples, order, workers, pin, (size.channels, size.size, size.size)),
        network,
        loader.evaluation_loader(val, plan.batches.batch_size, workers, rank, world, pin),
    )
