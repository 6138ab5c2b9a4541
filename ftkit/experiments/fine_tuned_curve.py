"""The learning curve of fine-tuning: a network is trained on each sample of the training images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from tempfile import TemporaryDirectory

from ftkit.activation_cache.cache_reader import Note
from ftkit.data.sampling import stratified_sample
from ftkit.errors import RequestError, RunInterrupted, plural
from ftkit.evaluation.evaluation_data import EvaluationData
from ftkit.evaluation.evaluator import ComputeOptions, bundle_outputs
from ftkit.experiments.learning_curve import (
    MOST_IMAGES,
    LearningCurve,
    Samples,
    learning_curve,
    require_more,
    sample_sizes,
)
from ftkit.metrics.outputs import Outputs
from ftkit.models.bundle import load_bundle
from ftkit.parts.dataset import Split
from ftkit.planning.run_plan import Plan
from ftkit.training.preparation.open_run import open_run
from ftkit.training.train import train


def measure_fine_tuned_curve(plan: Plan, repeats: int, wanted: Sequence[int], tell: Note) -> LearningCurve:
    """Train the plan's network on samples of the training images, and extrapolate.

    The plan's validation images choose the epoch of each training, and are those that it is evaluated on.

    Args:
        plan: Of one training with validation images. The other args are those of `measure_probe_curve`.

    Raises:
        RequestError: The data is too small or too large, or a number is no more than the images there are.
        RunInterrupted: A signal came; nothing is kept.
        FtkitError: A training fails.
    """
    images, held = require_more(plan, wanted), plan.splits.val
    assert held is not None, "a plan of one training has validation images"
    if len(images) > MOST_IMAGES:
        raise RequestError(
            f"--fine-tune trains on {MOST_IMAGES:,} images at most, and there are {len(images):,}",
            f"give --train-samples {MOST_IMAGES}, or leave --fine-tune out",
        )
    sizes = sample_sizes(len(images), plan.num_classes)
    count, done = repeats * (len(sizes) - 1) + 1, 0

    def outputs(size: int, seed: int) -> Outputs:
        nonlocal done
        done += 1
        tell(f"training {done} of {count}, on {plural(size, 'image')}")
        sample = images if size == len(images) else images.subset(stratified_sample(images.labels, size, seed))
        return _outputs(plan, sample, held, seed)

    found = learning_curve(plan, Samples(len(images), plan.num_classes, len(held), outputs), repeats, wanted)
    return replace(found, fine_tuned=True)


def _outputs(plan: Plan, sample: Split, held: Split, seed: int) -> Outputs:
    """Train on a sample in a folder that is removed, and evaluate the best model."""
    with TemporaryDirectory(prefix="ftkit-curve-") as folder:
        update = {"output": folder, "name": "run", "tracker": (), "report": False, "calibration": "off", "seed": seed}
        resolved = replace(plan.resolved, config=plan.config.model_copy(update=update))
        sampled = replace(plan, resolved=resolved, splits=replace(plan.splits, train=sample))
        try:
            run = train(sampled, open_run(sampled)).run
        except RunInterrupted as error:
            raise RunInterrupted(
                "stopped while a learning curve was measured; nothing is kept", "start again", error.exit_code - 128
            ) from error
        loaded = load_bundle(run.model, plan.config.device, "auto", plan.resolved.registry)
        return bundle_outputs(loaded, EvaluationData("the validation images", "val", held), ComputeOptions())
