"""Weights of timm's models, from the Hugging Face hub's cache or the hub."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import timm

from ftkit.api import FtkitError, one_line

if TYPE_CHECKING:
    from torch import Tensor


def read_weights(name: str, options: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """The state dict of the weights that timm calls `name`, in the names and shapes of the network of today.

    timm's files differ from its networks in many ways, which it knows how to mend while it builds one.

    Args:
        options: Of the network: `img_size` has position embeddings resampled for it.

    Raises:
        FtkitError: The file can't be had; says how to put it into the cache by hand.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError

    try:
        model = timm.create_model(name, pretrained=True, **options)
    # The hub's own errors are OSErrors or ValueErrors, by the way that the file is missing.
    except (OSError, ValueError, HfHubHTTPError) as error:
        config = timm.get_pretrained_cfg(name)
        place = config.hf_hub_id or config.url if config is not None else name
        get = f"hf download {config.hf_hub_id}" if config is not None and config.hf_hub_id else f"download {place}"
        raise FtkitError(
            f"weights {place} aren't in the hub's cache, {constants.HF_HUB_CACHE}, and can't be downloaded: "
            f"{one_line(str(error)).partition('. ')[0]}",
            f"`{get}` where there is a network and copy that cache here (HF_HOME moves it), "
            "or give a file with --weights FILE, or --weights none",
        ) from error
    state: Mapping[str, Tensor] = model.state_dict()
    return state
