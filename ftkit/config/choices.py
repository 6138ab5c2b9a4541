"""Values of the config's choices, without imports, so that help and completion are fast."""

from __future__ import annotations

from typing import Literal, get_args

AugmentOn = Literal["auto", "workers", "device"]
BadImage = Literal["error", "skip"]
Balance = Literal["none", "sampler", "weights"]
CalibrationMethod = Literal["auto", "off", "temperature", "vector"]
Decoded = Literal["auto", "off", "ram", "disk"]
Device = Literal["auto", "cpu", "cuda", "mps"]
OnNan = Literal["error", "skip"]
PatienceFrom = Literal["last-phase", "start"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Scan = Literal["off", "sample", "full"]
Tracker = Literal["tensorboard", "wandb", "mlflow"]
Validation = Literal["auto", "holdout", "kfold"]

BAD_IMAGE_WAYS: tuple[str, ...] = get_args(BadImage)
BALANCES: tuple[str, ...] = get_args(Balance)
CALIBRATIONS: tuple[str, ...] = get_args(CalibrationMethod)
DECODED: tuple[str, ...] = get_args(Decoded)
DEVICES: tuple[str, ...] = get_args(Device)
ON_NAN: tuple[str, ...] = get_args(OnNan)
PRECISIONS: tuple[str, ...] = get_args(Precision)
SCANS: tuple[str, ...] = get_args(Scan)
TRACKERS: tuple[str, ...] = get_args(Tracker)
VALIDATIONS: tuple[str, ...] = get_args(Validation)

AUTO = "auto"
"""In `backbone`, `task`, `loss` and `monitor`: what suits the data, or the task."""

CHOICES: tuple[str, ...] = ("dataset", "task", "augment", "strategy", "optimizer", "loss", "lr_curve")
"""Sections that name one part, with its options beside the name."""
LISTS: tuple[str, ...] = ("image_transforms", "batch_transforms", "callbacks", "metrics")
"""Sections that list parts, each a name or a mapping of name and options."""

KEY_PEERS: dict[str, str] = {
    "batch": "batch_size",
    "curve": "lr_curve",
    "data": "dataset",
    "gradient_accumulation_steps": "accumulate",
    "image_size": "preprocessing.size",
    "img_size": "preprocessing.size",
    "imgsz": "preprocessing.size",
    "learning_rate": "optimizer.lr",
    "lr": "optimizer.lr",
    "lr0": "optimizer.lr",
    "max_eval_samples": "val_samples",
    "max_train_samples": "train_samples",
    "model": "backbone",
    "num_epochs": "epochs",
    "num_train_epochs": "epochs",
    "num_workers": "workers",
    "opt": "optimizer",
    "output_dir": "output",
    "pretrained": "weights",
    "project": "output",
    "root": "dataset.root",
    "sched": "lr_curve",
    "scheduler": "lr_curve",
    "warmup_epochs": "lr_curve.warmup_epochs",
    "weight_decay": "optimizer.weight_decay",
}
"""Names of other tools for keys of the config, for hints."""
