"""Models on the hub, and its errors as ftkit's."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ftkit.api import FtkitError, one_line

MODEL = ("model.safetensors", "model.json")
"""The files of a model."""
_ADDRESS = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


@contextmanager
def told(what: str, hint: str) -> Iterator[None]:
    """Say in one line what can't be had from the hub, or sent to it, and what to do.

    Raises:
        FtkitError: Whatever the hub's library or the network raises.
    """
    try:
        yield
    except Exception as error:  # the hub's library, and the network's below it, which changes with its version
        reason = one_line(str(error).strip().split("\n")[0]).partition(". ")[0]
        raise FtkitError(f"{what}: {reason or type(error).__name__}", hint) from error


def fetch(repository: str, revision: str | None = None) -> Path:
    """The folder in the hub's cache with the model of a repository, fetched where it isn't there.

    Raises:
        FtkitError: It can't be had.
    """
    from huggingface_hub import hf_hub_download

    with told(f"{repository} can't be pulled", "check its name; a private one wants `hf auth login` or HF_TOKEN"):
        return Path([hf_hub_download(repository, name, revision=revision) for name in MODEL][-1]).parent


class Models(Mapping[str, Path]):
    """Models by `ORG/NAME`, or `ORG/NAME@REVISION`. Listed are those in the hub's cache."""

    def __getitem__(self, address: str) -> Path:
        if address not in self:
            raise KeyError(address)
        repository, _, revision = address.partition("@")
        return fetch(repository, revision or None)

    def __contains__(self, address: object) -> bool:
        return isinstance(address, str) and _ADDRESS.fullmatch(address) is not None

    def __iter__(self) -> Iterator[str]:
        from huggingface_hub import CacheNotFound, scan_cache_dir

        try:
            repositories = scan_cache_dir().repos
        except CacheNotFound:
            return
        for each in sorted(repositories, key=lambda repository: repository.repo_id):
            names = {file.file_name for revision in each.revisions for file in revision.files}
            if each.repo_type == "model" and names.issuperset(MODEL):
                yield each.repo_id

    def __len__(self) -> int:
        return sum(1 for _ in self)
