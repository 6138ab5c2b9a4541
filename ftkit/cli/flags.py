"""The flags that set config keys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftkit.config.choices import (
    BAD_IMAGE_WAYS,
    BALANCES,
    CALIBRATIONS,
    DECODED,
    DEVICES,
    ON_NAN,
    PRECISIONS,
    SCANS,
    TRACKERS,
    VALIDATIONS,
)
from ftkit.errors import RequestError
from ftkit.files.file_kinds import kind_of_file
from ftkit.transforms.augmentation import LEVELS

DATA, MODEL, TRAINING, MACHINE, RUN = "Data", "Model", "Training", "Machine", "Run"

ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
"""Suffixes of archives."""


@dataclass(frozen=True)
class Flag:
    """A flag that sets one key of the config.

    Attributes:
        names: Spellings, the full one first.
        key: Dotted config key.
        metavar: Placeholder of the value in the help; None for a switch.
        help: One line.
        panel: Heading in the help.
        values: Values to complete, or the kind of part whose names are completed, such as `backbones`.
        parse: Converts the flag's text to the key's value.
        repeats: Whether the flag may be given several times, for a key that takes a list.
    """

    names: tuple[str, ...]
    key: str
    metavar: str | None
    help: str
    panel: str
    values: tuple[str, ...] | str = ()
    parse: Callable[[str], Any] = str
    repeats: bool = False

    @property
    def parameter(self) -> str:
        """Name of the Python parameter."""
        return "config_" + self.names[0].strip("-").replace("-", "_")


def dataset_at(path: str) -> dict[str, str]:
    """The dataset options for a folder of images, a CSV file, or an archive, local or at a URL.

    Raises:
        RequestError: The path doesn't exist, or is something else.
    """
    place = Path(path).expanduser()
    if "://" in path:
        return {"name": "archive", "source": path}
    if place.is_dir():
        return {"name": "folder", "root": path}
    if place.suffix.lower() in (".csv", ".tsv") and place.is_file():
        return {"name": "csv", "path": path}
    if place.name.lower().endswith(ARCHIVES) and place.is_file():
        return {"name": "archive", "source": path}
    if place.exists():
        kind = kind_of_file(place)
        found = f"--data {path}: {f'it is {kind}, ' if kind else ''}not a folder, a .csv file, or a zip or tar archive"
        archive = kind is not None and kind.endswith((" archive", "gzip file"))
        raise RequestError(found, f"use --dataset archive --set dataset.source={path}" if archive else None)
    raise RequestError(
        f"--data {path}: no such file or folder",
        "give a folder of images, a .csv file of paths and labels, or an archive or its https URL",
    )


def _comma_separated(text: str) -> list[str]:
    return text.split(",")


def _with_option(name: str, option: str) -> Callable[[str], list[dict[str, str]]]:
    return lambda text: [{"name": name, option: text}]


FLAGS: tuple[Flag, ...] = (
    Flag(
        ("--data",),
        "dataset",
        "PATH|URL",
        "Folder of images, CSV file of paths and labels, or zip or tar archive.",
        DATA,
        parse=dataset_at,
    ),
    Flag(("--dataset",), "dataset.name", "NAME", "Name of a dataset; see `ftkit datasets list`.", DATA, "datasets"),
    Flag(("--train-samples",), "train_samples", "N", "Number of training images to use.", DATA),
    Flag(("--val-samples",), "val_samples", "N", "Number of validation images to use.", DATA),
    Flag(
        ("--validation",),
        "validation",
        "|".join(VALIDATIONS),
        "Held-out images, or cross-fitting on all of them.",
        DATA,
        VALIDATIONS,
    ),
    Flag(("--folds",), "folds", "N", "Number of folds of cross-fitting.", DATA),
    Flag(("--fold",), "fold", "N", "Train only this fold of cross-fitting.", DATA),
    Flag(
        ("--on-bad-image",),
        "on_bad_image",
        "|".join(BAD_IMAGE_WAYS),
        "Fail on unreadable image files, or skip them.",
        DATA,
        BAD_IMAGE_WAYS,
    ),
    Flag(
        ("--scan",),
        "scan",
        "|".join(SCANS),
        "Image files to read before training: none, some or all.",
        DATA,
        SCANS,
    ),
    Flag(("--task",), "task.name", "auto|multiclass|multilabel", "One or several classes per image.", DATA, "tasks"),
    Flag(
        ("--backbone",),
        "backbone",
        "NAME",
        "Network to fine-tune, or auto; see `ftkit backbones list`.",
        MODEL,
        "backbones",
    ),
    Flag(("--weights",), "weights", "default|none|NAME|FILE", "Initial weights.", MODEL, ("default", "none")),
    Flag(
        ("--allow-partial",),
        "allow_partial",
        None,
        "Load matching weights; initialise the rest at random.",
        MODEL,
    ),
    Flag(("--keep-head",), "keep_head", None, "Keep the pretrained head, for data with the same classes.", MODEL),
    Flag(("--channels",), "preprocessing.channels", "1|3", "Input channels; 1 for greyscale.", MODEL, ("1", "3")),
    Flag(("--head-hidden",), "head.hidden", "N", "Width of a hidden layer in the head.", MODEL),
    Flag(("--head-dropout",), "head.dropout", "RATE", "Dropout rate before the last layer of the head.", MODEL),
    Flag(("--drop-path",), "drop_path", "RATE", "Stochastic-depth rate of the backbone's last block.", MODEL),
    Flag(("--backbone-dropout",), "backbone_dropout", "RATE", "Rate of the backbone's own dropout layers.", MODEL),
    Flag(("--image-size",), "preprocessing.size", "PIXELS", "Height and width of the network's input.", MODEL),
    Flag(
        ("--strategy",),
        "strategy.name",
        "NAME",
        "Which layers train in which epoch, or auto; see `ftkit strategies list`.",
        TRAINING,
        "strategies",
    ),
    Flag(("--budget",), "budget", "TIME|auto|none", "Compare recipes for 10m; auto: four.", TRAINING, ("auto", "none")),
    Flag(("--epochs",), "epochs", "N", "Number of training epochs.", TRAINING),
    Flag(("--lr",), "optimizer.lr", "RATE|auto", "Base learning rate; auto: by short trainings.", TRAINING, ("auto",)),
    Flag(
        ("--optimizer",),
        "optimizer.name",
        "NAME",
        "Optimizer; see `ftkit optimizers list`.",
        TRAINING,
        "optimizers",
    ),
    Flag(
        ("--batch-size",), "batch_size", "N|auto", "Images per batch and process; auto: what fits.", TRAINING, ("auto",)
    ),
    Flag(("--accumulate",), "accumulate", "N", "Gradient accumulation steps.", TRAINING),
    Flag(
        ("--augment",),
        "augment.name",
        "|".join(LEVELS),
        "Augmentation level.",
        TRAINING,
        tuple(LEVELS),
    ),
    Flag(
        ("--image-transform",),
        "image_transforms",
        "NAME",
        "Random transform of training images; may be repeated.",
        TRAINING,
        "image_transforms",
        repeats=True,
    ),
    Flag(
        ("--batch-transform",),
        "batch_transforms",
        "NAME",
        "Random transform of training batches; may be repeated.",
        TRAINING,
        "batch_transforms",
        repeats=True,
    ),
    Flag(
        ("--mixup",),
        "batch_transforms",
        "ALPHA",
        "Mixup: mix images by weights from Beta(ALPHA, ALPHA).",
        TRAINING,
        parse=_with_option("mixup", "alpha"),
    ),
    Flag(
        ("--cutmix",),
        "batch_transforms",
        "ALPHA",
        "CutMix: exchange rectangles; areas from Beta(ALPHA, ALPHA).",
        TRAINING,
        parse=_with_option("cutmix", "alpha"),
    ),
    Flag(("--random-erasing",), "augment.erase", "P", "Probability of erasing a random rectangle.", TRAINING),
    Flag(("--loss",), "loss.name", "NAME", "Training loss; see `ftkit losses list`.", TRAINING, "losses"),
    Flag(("--teacher",), "teacher", "RUN", "Run or model whose outputs are learned beside the labels.", TRAINING),
    Flag(("--label-smoothing",), "label_smoothing", "FACTOR", "Label-smoothing factor, 0 to 1.", TRAINING),
    Flag(("--clip-grad",), "clip_grad", "NORM", "Clip the gradient norm to this.", TRAINING),
    Flag(
        ("--on-nan",),
        "on_nan",
        "|".join(ON_NAN),
        "Fail on a non-finite loss, or skip the step.",
        TRAINING,
        ON_NAN,
    ),
    Flag(("--balance",), "balance", "|".join(BALANCES), "Class-imbalance handling.", TRAINING, BALANCES),
    Flag(("--probe",), "probe", None, "Initialise the head by logistic regression on frozen features.", TRAINING),
    Flag(("--monitor",), "monitor", "NAME", "Metric that selects the best epoch.", TRAINING, "metrics"),
    Flag(("--metric",), "metrics", "NAME", "Further metric; may be repeated.", TRAINING, "metrics", repeats=True),
    Flag(
        ("--ema",),
        "callbacks",
        "DECAY",
        "Exponential moving average of the weights, such as 0.999.",
        TRAINING,
        parse=_with_option("ema", "decay"),
    ),
    Flag(
        ("--l2-sp",),
        "callbacks",
        "STRENGTH",
        "Decay toward the pretrained weights, such as 0.1.",
        TRAINING,
        parse=_with_option("l2-sp", "strength"),
    ),
    Flag(("--patience",), "patience", "N", "Early stopping: epochs of the last phase without improvement.", TRAINING),
    Flag(
        ("--weight-averaging",),
        "weight_averaging",
        None,
        "Evaluate averages of weights too at the end, and keep the best.",
        TRAINING,
    ),
    Flag(("--calibration",), "calibration", "|".join(CALIBRATIONS), "Calibration method.", TRAINING, CALIBRATIONS),
    Flag(("--seed",), "seed", "N", "Random seed.", TRAINING),
    Flag(("--precision",), "precision", "|".join(PRECISIONS), "Numeric precision.", MACHINE, PRECISIONS),
    Flag(("--device",), "device", "|".join(DEVICES), "Device to train on.", MACHINE, DEVICES),
    Flag(("--compile",), "compile", None, "Compile the trained layers with torch.compile; faster on GPUs.", MACHINE),
    Flag(("--fsdp",), "fsdp", None, "Shard the network over the processes with FSDP.", MACHINE),
    Flag(
        ("--zero-stage",),
        "zero_stage",
        "0|1|2",
        "DeepSpeed ZeRO: shard optimizer state and gradients.",
        MACHINE,
    ),
    Flag(("--workers",), "workers", "N|auto", "Data loading processes.", MACHINE, ("auto",)),
    Flag(("--cache",), "cache.use", None, "Cache the activations of frozen layers.", MACHINE),
    Flag(("--cached-augmentations",), "cache.augmentations", "K", "Cached augmentations per image.", MACHINE),
    Flag(("--decoded-cache",), "cache.decoded", "|".join(DECODED), "Where to cache decoded images.", MACHINE, DECODED),
    Flag(("--cache-dir",), "cache.dir", "FOLDER", "Folder of the activation cache.", MACHINE),
    Flag(("--cache-limit",), "cache.limit", "SIZE", "Maximum size of the activation cache, such as 20GB.", MACHINE),
    Flag(("--callback",), "callbacks", "NAME", "Training callback; may be repeated.", RUN, "callbacks", repeats=True),
    Flag(("--report",), "report", None, "Write report.html into the run folder at the end.", RUN),
    Flag(
        ("--tracker",),
        "tracker",
        "|".join(TRACKERS),
        "Experiment trackers, separated by commas.",
        RUN,
        TRACKERS,
        _comma_separated,
    ),
    Flag(("--output",), "output", "FOLDER", "Parent of the run folders.", RUN),
    Flag(("--name",), "name", "NAME", "Name of the run folder.", RUN),
)
