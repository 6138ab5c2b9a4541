"""What follows a training: features of the training images beside the model, and the report."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import TypeVar

from ftkit.distributed import launch_env
from ftkit.errors import FtkitError, one_line, shell_word
from ftkit.evaluation.evaluator import ComputeOptions
from ftkit.evaluation.feature_statistics import store_features
from ftkit.files.folder_swap import current_folder
from ftkit.models.bundle import load_bundle
from ftkit.models.compute.allocator import give_back_freed_memory
from ftkit.planning.run_plan import Plan
from ftkit.reports.run_report import RunInputs, write_report
from ftkit.runs.model_card import CARD, read_card
from ftkit.runs.run_folder import RunFolder

T = TypeVar("T")
Tell = Callable[[str], None]


def complete_run(plan: Plan, run: RunFolder, warn: Tell, tell: Tell = lambda line: None) -> Path | None:
    """Store features and write the report of a run that has just ended, if its config asks for them.

    Only the main process does this.

    The run is complete by then, so an error or an interrupt is only a warning.

    Args:
        warn: Called with lines on what is missing, and how to repeat it.
        tell: Called with a line before each of both.

    Returns:
        The report's file; None without one.
    """
    if launch_env.rank() > 0:
        return None
    give_back_freed_memory()
    # Both use the same model, which is loaded when the first one does.
    model = cache(partial(load_bundle, run.model, plan.config.device, "auto", plan.resolved.registry))
    if plan.config.novelty_features and _has_reference(run):
        tell("storing features of training images, for predict --novelty")
        lacking = "no features of training images, so predict --novelty goes by the energy alone: {}"
        _tried(lambda: store_features(plan, run, model()), warn, lacking)
    if not plan.config.report:
        return None
    tell("writing the report")
    options = ComputeOptions(plan.config.device, cache=plan.config.cache.use)
    inputs = RunInputs(plan.resolved, plan.splits, plan.notes, model)
    lacking = f"no report: {{}}; to write it: ftkit report {shell_word(run.path)}"
    return _tried(lambda: write_report(run.path, None, None, options, warn, inputs), warn, lacking)


def _has_reference(run: RunFolder) -> bool:
    """Whether the model has outputs to compare others with; not with few validation images."""
    card = current_folder(run.model) / CARD
    return card.is_file() and read_card(card.parent).reference is not None


def _tried(do: Callable[[], T], warn: Tell, lacking: str) -> T | None:
    """The result; None after a warning where it fails.

    Args:
        lacking: The warning, with `{}` in place of the reason.
    """
    try:
        return do()
    except (Exception, KeyboardInterrupt) as error:
        reason = error.message if isinstance(error, FtkitError) else f"{type(error).__name__} {error}".strip()
        warn(lacking.replace("{}", one_line(reason)))
        return None
