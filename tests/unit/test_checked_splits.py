"""Checks of the splits that a dataset returns."""

from __future__ import annotations

from pathlib import Path

from ftkit.api import Split, Splits
from ftkit.data.plugin_checks import checked_splits


def test_labels_of_numpy_and_torch_are_taken_as_integers() -> None:
    import numpy as np
    import torch

    for labels in (np.array([0, 1]), torch.tensor([0, 1]), [np.int64(0), np.uint8(1)], (0, 1), range(2)):
        split = checked_splits(Splits(("a", "b"), Split(["x", "y"], labels, print))).train  # type: ignore[arg-type]
        assert split is not None
        assert list(split.labels) == [0, 1]
        assert {type(label) for label in split.labels} == {int}


def test_a_million_samples_are_checked_in_a_second() -> None:
    from time import process_time

    from ftkit.api import ImageFiles

    names = [f"train/{index:07d}.jpg" for index in range(1_000_000)]
    splits = Splits(("a", "b"), Split(names, [index % 2 for index in range(len(names))], ImageFiles(Path(), names)))
    started = process_time()
    assert checked_splits(splits) == splits
    assert process_time() - started < 3, "a quarter of a second on an idle core"
