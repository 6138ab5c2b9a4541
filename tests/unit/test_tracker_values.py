"""What trackers get: scalars, the config, and the picture of the confusion matrix."""

from __future__ import annotations

import torch

import ftkit
from ftkit.training.callbacks.trackers import flattened, picture, scalars


def test_scalars_leave_out_what_has_no_value() -> None:
    record = {"epoch": 2, "train_loss": 1.5, "val_auroc": None, "val_macro_f1": 0.5, "lr": {"head": 0.1}, "seconds": 2}
    assert scalars(record) == {"train/loss": 1.5, "val/macro_f1": 0.5, "lr/head": 0.1, "seconds": 2.0}


def test_the_flat_config_has_plain_values_only() -> None:
    flat = flattened(ftkit.plan(tracker=["tensorboard"]).config)
    assert flat["optimizer.lr"] == 0.003
    assert flat["dataset.name"] == "digits"
    assert flat["tracker"] == '["tensorboard"]'
    assert flat["patience"] == "null"


def test_the_picture_is_white_for_never_and_blue_for_always() -> None:
    image = picture(((4, 0), (0, 0)))
    assert image.shape == (3, 320, 320)
    assert image.dtype == torch.uint8
    assert image[:, 0, 0].tolist() == [0, 0, 255]
    assert image[:, 0, 319].tolist() == [255, 255, 255]
    assert image[:, 319, 319].tolist() == [255, 255, 255], "no image of the class"
