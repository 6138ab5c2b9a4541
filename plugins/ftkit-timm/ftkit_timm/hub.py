"""Weights of timm's models, from the Hugging Face hub's cache or the hub."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import timm

from ftkit.api import FtkitError, one_line

if TYPE_CHECKING:
    from torch import Tensor


def read_weights(name: str, options: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """The state dict of timm's weights `name`, in the names and shapes of the current network.

    timm converts its files while it creates a network, so the weights are read from a created one.

    Args:
        options: Options of the network, such as `img_size`, for which position embeddings are resampled.

    Raises:
        FtkitError: The file can't be downloaded; the hint names the command that puts it into the cache.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError

    try:
        model = timm.create_model(name, pretrained=True, **options)
    # The hub's errors are OSErrors or ValueErrors, depending on why the file is missing.
    except (OSError, ValueError, HfHubHTTPError) as error:
        config = timm.get_pretrained_cfg(name)
        place = config.hf_hub_id or config.url if config is not None else name
        get = f"hf download {config.hf_hub_id}" if config is not None and config.hf_hub_id else f"download {place}"
        raise FtkitError(
            f"weights {place} aren't in the hub's cache, {constants.HF_HUB_CACHE}, and can't be downloaded: "
            f"{one_line(str(error)).partition('. ')[0]}",
            f"run `{get}` on a machine with a network and copy its cache here (HF_HOME), "
            "or give --weights FILE or --weights none",
        ) from error
    state: Mapping[str, Tensor] = model.state_dict()
    return state
