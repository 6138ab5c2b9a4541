"""Tar shards of WebDataset: the dataset `webdataset/shards`, and `ftkit webdataset write` to create them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ftkit.api import Dataset, hookimpl
from ftkit_webdataset.dataset import Shards
from ftkit_webdataset.write import write


@hookimpl
def ftkit_datasets() -> Mapping[str, type[Dataset]]:
    return {"shards": Shards}


@hookimpl
def ftkit_commands() -> Mapping[str, Callable[..., object]]:
    return {"write": write}
