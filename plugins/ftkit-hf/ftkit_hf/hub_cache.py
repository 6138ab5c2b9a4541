"""The models in the Hugging Face hub's cache, found without importing transformers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def cached_configs() -> Iterator[tuple[str, Path]]:
    """Each model repository in the hub's cache that has a configuration, with the file of its latest one."""
    from huggingface_hub.constants import HF_HUB_CACHE

    for folder in sorted(Path(HF_HUB_CACHE).glob("models--*")):
        configs = sorted(folder.glob("snapshots/*/config.json"), key=lambda file: file.stat().st_mtime_ns)
        if configs:
            yield folder.name.removeprefix("models--").replace("--", "/"), configs[-1]
