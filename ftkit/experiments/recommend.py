"""Recommends how to fine-tune, from how well the features of the frozen backbone separate the classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn

from ftkit.activation_cache.cache_reader import Note, ignore_note, prefix_before_head, read_cached, store_of
from ftkit.config.load import Resolved, with_choice
from ftkit.config.schema import Config
from ftkit.data.loading import loader
from ftkit.data.loading.seeds import derive
from ftkit.data.loading.workers import choose_workers, explain_worker_errors
from ftkit.data.sampling import stratified_sample
from ftkit.errors import RequestError
from ftkit.evaluation.collect import evaluation_shard
from ftkit.metrics.finite_outputs import require_features
from ftkit.models.build import build_model, plan_accelerator
from ftkit.models.compute.devices import Compute, compute_of
from ftkit.models.compute.memory_format import choose_memory_format
from ftkit.models.logits import check_outputs
from ftkit.parts.backbone import Head
from ftkit.parts.dataset import Split
from ftkit.parts.task import class_counts
from ftkit.planning.backbone_choice import name_backbone
from ftkit.planning.resolve import make_plan
from ftkit.planning.run_data.validation_images import with_one_recipe
from ftkit.planning.run_plan import BYTES_PER_VALUE, Plan
from ftkit.strategies.recommendation_rules import AUTO, Advice, Facts, Limits, advise
from ftkit.training.preparation.probe import NoProbeError, head_inputs, head_layer
from ftkit.transforms import pipeline

MOST_IMAGES = 2000
"""Most training images that are measured; more take longer and change little."""

TRAINING_KEYS = (
    "augment",
    "clip_grad",
    "decay_all",
    "epochs",
    "group_lr",
    "label_smoothing",
    "lr_curve",
    "optimizer",
    "patience",
    "patience_from",
    "train_bn",
)
"""Sections of the config that have no effect without epochs."""


@dataclass(frozen=True)
class Recommendation:
    """Facts on the data, advice, and the request with the advice applied.

    Attributes:
        weights: Description of the weights that were measured.
        kept: Notes on settings of the user that differ from the advice and are kept.
    """

    facts: Facts
    weights: str
    advice: Advice
    resolved: Resolved
    kept: tuple[str, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the plan: the strategy, the reasons, and the settings that were kept."""
        chosen = f"strategy {AUTO} chose {self.advice.strategy}: {'; '.join(self.advice.why)}"
        return (chosen, *self.kept)


def recommend(resolved: Resolved, given: Mapping[str, str], tell: Note | None = None) -> Recommendation:
    """Measure the data of a request, and advise on the settings that weren't given.

    Args:
        given: The places of given settings by dotted key; these settings are kept.
        tell: Called with a line before a step that takes long.

    Raises:
        RequestError: A name, an option, the data or their combination can't be used.
        FtkitError: The weights are missing, or an image can't be read.
    """
    if "epochs" in given and not resolved.config.epochs:
        raise RequestError(
            f"{resolved.where('epochs')} is 0, and strategy {AUTO} chooses how to train", "raise it, or leave it out"
        )
    resolved = name_backbone(resolved)
    # Other errors in the request should be found before the measurement, which takes minutes.
    draft = make_plan(with_choice(with_one_recipe(resolved), "strategy", "full", {}, {}), tell, fetch=True)
    facts = find_facts(draft, tell)
    limits = Limits(
        trains=any(key.partition(".")[0] in TRAINING_KEYS for key in given), solvable=draft.probe is not None
    )
    advice = advise(facts, limits)
    advised, kept = _apply(resolved, advice, given)
    return Recommendation(facts, draft.weights.describe(), advice, advised, kept)


def find_facts(plan: Plan, tell: Note | None = None) -> Facts:
    """Facts on a plan's data and weights; with pretrained weights, their features are measured.

    Raises:
        RequestError: There are no recommendations for the task, or no image has a label.
    """
    assert plan.splits.train is not None, "make_plan refuses data without a training split"
    basis, labels = plan.task.advice_basis(plan.splits.train.labels, plan.num_classes), plan.splits.train.labels
    if basis is None:
        raise RequestError(
            f"strategy {AUTO} and ftkit advise have no rules for task {plan.task.name}",
            "choose a strategy, or compare some with ftkit compare --strategies probe,full",
        )
    facts = Facts(
        images=len(labels),
        classes=plan.num_classes,
        per_class=sum(class_counts(labels, plan.num_classes)) / plan.num_classes,
        metric=plan.resolved.registry.metrics.get(plan.task.monitor).label,
        chance=basis.chance,
        similar_from=basis.chance + basis.similar * (1 - basis.chance),
        large=basis.large,
        pretrained=plan.weights.kind != "none",
    )
    if not facts.pretrained:
        return facts
    images = measured_sample(plan)
    sampled = plan.task.advice_basis(images.labels, plan.num_classes)
    if sampled is not None and sampled.unmeasured:
        return replace(facts, unmeasured=sampled.unmeasured)
    if tell is not None:
        tell(f"measuring the features of {plan.backbone.name} on {len(images):,} training images")
    try:
        probe, nearest = measure(plan, images, tell or ignore_note)
    except NoProbeError as error:
        return replace(facts, unmeasured=error.message)
    return replace(facts, probe=probe, nearest_mean=nearest, measured_on=len(images))


@dataclass(frozen=True)
class FrozenFeatures:
    """What the head of a pretrained network takes, for some images.

    Attributes:
        values: float32 `(n, features)`.
        targets: The result of `Task.targets`.
        network: The network that computed them, in eval mode.
    """

    values: Tensor
    targets: Tensor
    network: nn.Module
    compute: Compute
    accelerator: Accelerator


def measure(plan: Plan, images: Split, tell: Note = ignore_note) -> tuple[float, float]:
    """The task's metric, in cross-validation, of logistic regression on frozen features and of the nearest class mean.

    The main process computes the metrics, and all processes use them, so that all get the same recommendation.

    Raises:
        NoProbeError: The network's head isn't a linear layer on features.
    """
    found = frozen_features(plan, images, tell)
    metrics = torch.zeros(2)
    if found.accelerator.is_main_process:
        seed = derive(plan.config.seed, "advise") % 2**32
        metrics = torch.tensor(plan.task.cross_validate(found.values, found.targets, seed))
    probe, nearest = broadcast(metrics.to(found.accelerator.device)).tolist()
    return probe, nearest


def frozen_features(plan: Plan, images: Split, tell: Note = ignore_note) -> FrozenFeatures:
    """The features of images; every process computes those of its shard, and has those of all.

    Raises:
        NoProbeError: The network's head isn't a linear layer on features.
    """
    config = plan.config.model_copy(update={"keep_head": False})
    plan = replace(plan, head=Head(), resolved=replace(plan.resolved, config=config))
    accelerator, precision = plan_accelerator(plan)
    network = build_model(plan).network
    preprocessing = plan.preprocessing
    compute = replace(compute_of(accelerator), precision=precision.evaluation)
    compute = choose_memory_format(network, compute, preprocessing.channels, preprocessing.size)
    check_outputs(network, plan, compute, training=False)
    layer = head_layer(network, plan.backbone.head[0])
    samples = loader.Samples(images, pipeline.evaluation(preprocessing))
    # With one process only: several have a shard each, and may not share the cache folder.
    store = store_of(config.cache) if accelerator.num_processes == 1 else None
    frozen = (
        prefix_before_head(network, plan.schedule.groups, compute, preprocessing, plan.backbone.name) if store else None
    )
    with read_cached(frozen, samples, store, tell) as kept:
        workers = choose_workers(
            config.workers,
            len(images),
            accelerator.num_processes,
            plan.batches.batch_size * preprocessing.channels * preprocessing.size**2 * BYTES_PER_VALUE,
            tell,
        )
        size = plan.batches.batch_size
        shard = evaluation_shard(plan, images, workers, accelerator) if kept is None else kept.batches(size)
        evaluated = network if kept is None else kept.cut.eval_suffix
        with explain_worker_errors():
            features, labels = head_inputs(evaluated, layer, shard, accelerator, compute)
    require_features(features, images.names)
    return FrozenFeatures(features, labels, network, compute, accelerator)


def measured_sample(plan: Plan) -> Split:
    """The training images to measure, with the same proportions of classes."""
    train = plan.splits.train
    assert train is not None, "make_plan refuses data without a training split"
    count = max(MOST_IMAGES, plan.num_classes + 1)  # enough for one of each class, and one without a label
    if len(train) <= count:
        return train
    return train.subset(stratified_sample(train.labels, count, plan.config.seed))


def _apply(resolved: Resolved, advice: Advice, given: Mapping[str, str]) -> tuple[Resolved, tuple[str, ...]]:
    """The request with the advice applied, except for given settings, and notes on these."""
    who = f"strategy {AUTO}"
    followed = with_choice(resolved, "strategy", advice.strategy, advice.options, {"strategy.name": who})
    config, sources, kept = followed.config, dict(followed.sources), []
    if advice.epochs and "epochs" in given:
        kept.append(f"epochs: {config.epochs} is kept, from {given['epochs']}; recommended: {advice.epochs}")
    else:
        config, sources["epochs"] = config.model_copy(update={"epochs": advice.epochs}), who
    if advice.lr is not None:
        optimizer = resolved.registry.optimizers.get(config.optimizer.name)
        config, note = _with_rate(config, optimizer.adam_like, advice.lr, given)
        kept += [note] if note else []
    followed = replace(followed, config=config, sources=sources)
    if any(key.partition(".")[0] == "augment" for key in given):
        return followed, tuple(kept)
    return with_choice(followed, "augment", advice.augment, {}, {"augment.name": who}), tuple(kept)


def _with_rate(config: Config, adam_like: bool, rate: float, given: Mapping[str, str]) -> tuple[Config, str]:
    """The config with the recommended learning rate, or a note on why another one is kept."""
    optimizer = config.optimizer
    if optimizer.lr == AUTO:
        return config, ""
    if "optimizer.lr" in given:
        return config, f"learning rate: {optimizer.rate:g} is kept, from {given['optimizer.lr']}; recommended: {rate:g}"
    if not adam_like:
        return config, f"learning rate: {optimizer.rate:g} is kept; recommended rates are for optimizers like adamw"
    return config.model_copy(update={"optimizer": optimizer.model_copy(update={"lr": rate})}), ""
