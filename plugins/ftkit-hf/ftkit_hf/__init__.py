"""Hugging Face for ftkit: datasets (`hf/dataset`), backbones and trained models (`hf/ORG/NAME`), `ftkit hf push|pull`.

Hugging Face's libraries are imported only when they are used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

from ftkit.api import Backbone, Dataset, hookimpl
from ftkit_hf.commands import pull, push
from ftkit_hf.dataset import HubDataset
from ftkit_hf.hub import Models
from ftkit_hf.hub_cache import cached_configs

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


@hookimpl
def ftkit_datasets() -> Mapping[str, type[Dataset]]:
    return {"dataset": HubDataset}


@hookimpl
def ftkit_backbones() -> Mapping[str, Backbone]:
    return _Backbones()


@hookimpl
def ftkit_commands() -> Mapping[str, Callable[..., object]]:
    return {"push": push, "pull": pull}


@hookimpl
def ftkit_models() -> Mapping[str, Path]:
    return Models()


class _Backbones(Mapping[str, Backbone]):
    """Backbones by repository or folder. Iteration lists those whose configuration is in the hub's cache."""

    def __getitem__(self, name: str) -> Backbone:
        from ftkit_hf.backbones import backbone

        if name not in self:
            raise KeyError(name)
        return backbone(name)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (
            _REPOSITORY.fullmatch(name) is not None or Path(name, "config.json").is_file()
        )

    def index_key(self) -> str:
        """Changes with the version of transformers and the configurations in the hub's cache."""
        configs = [(repository, str(file), file.stat().st_mtime_ns) for repository, file in cached_configs()]
        return f"transformers {version('transformers')} {configs}"

    def __iter__(self) -> Iterator[str]:
        if not any(cached_configs()):
            return iter(())
        from ftkit_hf.backbones import classifiers

        return classifiers()

    def __len__(self) -> int:
        return sum(1 for _ in self)
