"""The commands of `ftkit` as `ftkit --help` lists them; importing the table imports no command."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """A row of `ftkit --help`.

    Attributes:
        app: `module:attribute` of the typer app, imported when the command is run.
        help: The first line of the command's own help.
        panel: Heading above the row.
    """

    app: str
    help: str
    panel: str


WORKFLOW, INSPECT, PARTS = "Workflow", "Runs, settings and plugins", "Parts"


def _command(name: str, help_text: str, panel: str) -> Entry:
    return Entry(f"ftkit.cli.commands.{name}:app", help_text, panel)


def _experiment(name: str, help_text: str) -> Entry:
    return _command(f"experiments.{name}", help_text, WORKFLOW)


def _part(plural: str, help_text: str) -> Entry:
    return Entry(f"ftkit.cli.commands.inspect.parts:{plural}", help_text, PARTS)


COMMANDS: dict[str, Entry] = {
    "init": _command("init", "Create a project with config, plugin module and tests, or a plugin package.", WORKFLOW),
    "plan": _command("plan", "Show the plan of a training: layer groups, learning rates, steps, memory.", WORKFLOW),
    "train": _command("train", "Fine-tune a backbone on images and keep the best model.", WORKFLOW),
    "evaluate": _command("evaluate", "Evaluate a model on labelled images.", WORKFLOW),
    "calibrate": _command("calibrate", "Prepare a model for prediction sets and rejection.", WORKFLOW),
    "predict": _command("predict", "Predict the class of images.", WORKFLOW),
    "shift": _command("shift", "Compare unlabelled images with a model's validation images.", WORKFLOW),
    "ensemble": _command(
        "experiments.ensemble", "Make one model of several, which averages their probabilities.", WORKFLOW
    ),
    "extend": _experiment("extend", "Add classes or images to a trained model without training it again."),
    "export": _command("export", "Export a model to another format, and check its outputs.", WORKFLOW),
    "advise": _experiment("advise", "Recommend strategy, learning rate and epochs for a dataset."),
    "learning-curve": _command(
        "experiments.learning_curve", "Estimate what more training images would give.", WORKFLOW
    ),
    "lr-find": _command(
        "experiments.lr_find", "Measure the loss over rising learning rates, and suggest one.", WORKFLOW
    ),
    "compare": _command(
        "experiments.compare", "Compare runs, strategies over seeds, or backbones on the same images.", WORKFLOW
    ),
    "sweep": _experiment("sweep", "Search config values by trials, on one machine or several."),
    "data": _command("data.group", "Check, describe, audit, correct and split datasets.", WORKFLOW),
    "runs": _command("inspect.runs", "List and show training runs.", INSPECT),
    "report": _command(
        "inspect.report", "Write the report of a run: results, mistakes, training and data as one HTML file.", INSPECT
    ),
    "config": _command("inspect.config", "Show, document and validate the configuration.", INSPECT),
    "cache": _command("inspect.cache", "List and clear cached activations and decoded images.", INSPECT),
    "plugins": _command("inspect.plugins", "List and check plugins.", INSPECT),
    "backbones": _part("backbones", "List and show pretrained networks."),
    "datasets": _part("datasets", "List and show datasets."),
    "strategies": _part("strategies", "List and show freezing and unfreezing strategies."),
    "tasks": _part("tasks", "List and show tasks, such as multi-label classification."),
    "metrics": _part("metrics", "List and show evaluation metrics."),
    "losses": _part("losses", "List and show loss functions."),
    "optimizers": _part("optimizers", "List and show optimizers."),
    "curves": _part("curves", "List and show learning-rate curves."),
    "image-transforms": _part("image_transforms", "List and show random transforms of training images."),
    "batch-transforms": _part("batch_transforms", "List and show random transforms of training batches."),
    "callbacks": _part("callbacks", "List and show training callbacks."),
    "exporters": _part("exporters", "List and show export formats."),
}

INTERACTIVE = {"init"}
"""Commands that ask questions and report what they do on stdout."""
