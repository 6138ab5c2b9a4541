"""The hooks that a plugin may implement. A plugin is a module with one or more of these functions.

    from ftkit.api import hookimpl

    @hookimpl
    def ftkit_strategies():
        return {"first-layers": FirstLayers}

Names of a plugin's parts are prefixed with its name: `my-plugin/first-layers`. A hook may omit arguments. Hooks of run
events are called in the main process only, in a thread for each plugin; their errors are reported once and don't stop
the run, and one that hangs is abandoned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pluggy

from ftkit.parts.backbone import Backbone
from ftkit.parts.callback import Callback
from ftkit.parts.curve import Curve
from ftkit.parts.dataset import Dataset
from ftkit.parts.exporter import Exporter
from ftkit.parts.loss import Loss
from ftkit.parts.metric import Metric
from ftkit.parts.optimizer import Optimizer
from ftkit.parts.random_transforms import BatchTransform, ImageTransform
from ftkit.parts.strategy import Strategy
from ftkit.parts.task import Task

PROJECT = "ftkit"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def ftkit_backbones() -> Mapping[str, Backbone]:  # type: ignore[empty-body]
    """Backbones by name. The mapping may be lazy: values are read only when they are needed."""


@hookspec
def ftkit_datasets() -> Mapping[str, type[Dataset]]:  # type: ignore[empty-body]
    """Dataset classes by name; the fields of each are its options."""


@hookspec
def ftkit_strategies() -> Mapping[str, type[Strategy]]:  # type: ignore[empty-body]
    """Strategy classes by name; the fields of each are its options."""


@hookspec
def ftkit_tasks() -> Mapping[str, type[Task]]:  # type: ignore[empty-body]
    """Task classes by name; the fields of each are its options."""


@hookspec
def ftkit_metrics() -> Mapping[str, type[Metric]]:  # type: ignore[empty-body]
    """Metric classes by name; the fields of each are its options."""


@hookspec
def ftkit_losses() -> Mapping[str, type[Loss]]:  # type: ignore[empty-body]
    """Loss classes by name; the fields of each are its options."""


@hookspec
def ftkit_optimizers() -> Mapping[str, type[Optimizer]]:  # type: ignore[empty-body]
    """Optimizer classes by name; the fields of each are its options beside the learning rate."""


@hookspec
def ftkit_curves() -> Mapping[str, type[Curve]]:  # type: ignore[empty-body]
    """Learning-rate curves by name; the fields of each are its options."""


@hookspec
def ftkit_image_transforms() -> Mapping[str, type[ImageTransform]]:  # type: ignore[empty-body]
    """Image transform classes by name; the fields of each are its options."""


@hookspec
def ftkit_batch_transforms() -> Mapping[str, type[BatchTransform]]:  # type: ignore[empty-body]
    """Batch transform classes by name; the fields of each are its options."""


@hookspec
def ftkit_callbacks() -> Mapping[str, type[Callback]]:  # type: ignore[empty-body]
    """Callback classes by name; the fields of each are its options."""


@hookspec
def ftkit_exporters() -> Mapping[str, type[Exporter]]:  # type: ignore[empty-body]
    """Exporter classes by name; the fields of each are its options."""


@hookspec
def ftkit_commands() -> Mapping[str, Callable[..., object]]:  # type: ignore[empty-body]
    """Functions by name, each a command `ftkit PLUGIN NAME`; parameters are declared as in typer."""


@hookspec
def ftkit_templates() -> Mapping[str, Path]:  # type: ignore[empty-body]
    """Folders of project templates by name, for `ftkit init --template PLUGIN/NAME`."""


@hookspec
def ftkit_models() -> Mapping[str, Path]:  # type: ignore[empty-body]
    """Folders of trained models by address, for `--model PLUGIN/ADDRESS`.

    The mapping may be lazy, and may download models that it doesn't list.
    """


@hookspec
def ftkit_run_start(run: Path, plan: Mapping[str, Any], resumed: bool) -> None:
    """A run starts or resumes training.

    Args:
        run: The run folder.
        plan: The JSON of `ftkit plan --json`.
        resumed: Whether the run is resumed.
    """


@hookspec
def ftkit_epoch_end(run: Path, record: Mapping[str, Any]) -> None:
    """An epoch was trained and validated; epoch 0 is the validation of the initial weights.

    Args:
        record: The epoch's line in `metrics.jsonl`.
    """


@hookspec
def ftkit_run_end(run: Path, status: str, record: Mapping[str, Any] | None, error: str | None) -> None:
    """A run has ended.

    Args:
        status: `done`, `interrupted` or `failed`.
        record: The record of the model, if the run is done: that of the best epoch, with the metrics of its model. If
            the model is an average of weights, it has its metrics, and what it is under `average`.
        error: The error in one line, if it failed.
    """
