"""The preprocessing of a run."""

from __future__ import annotations

from dataclasses import replace

from ftkit.config.schema import PreprocessingOverrides
from ftkit.errors import RequestError, plural
from ftkit.parts.backbone import Backbone
from ftkit.transforms.preprocessing import Preprocessing


def choose_preprocessing(overrides: PreprocessingOverrides, base: Preprocessing, backbone: Backbone) -> Preprocessing:
    """The preprocessing of the weights or the backbone, with the overrides of the config.

    Raises:
        RequestError: The backbone or the weights don't take images with that number of channels.
    """
    changes = overrides.model_dump(exclude_none=True)
    channels = changes.pop("channels", base.channels)
    _require_channels(channels, base, backbone)
    for key in ("mean", "std"):
        given = len(changes.get(key, (0,) * channels))
        if given != channels:
            raise RequestError(
                f"preprocessing.{key} has {plural(given, 'value')}, but {backbone.name} is to take "
                f"{channels}-channel images",
                f"give {plural(channels, 'value')} each for mean and std"
                + (", or --channels 1 for grey images" if given == 1 else ""),
            )
    return replace(base.grey() if channels < base.channels else base, **changes)


def _require_channels(channels: int, base: Preprocessing, backbone: Backbone) -> None:
    if channels > backbone.preprocessing.channels:
        raise RequestError(
            f"{backbone.name} takes grey images only, and preprocessing.channels is {channels}",
            "drop --channels, or choose another backbone",
        )
    if channels > base.channels:
        raise RequestError(
            f"the weights are those of a network for grey images, and preprocessing.channels is {channels}",
            "drop --channels, or choose other weights",
        )
