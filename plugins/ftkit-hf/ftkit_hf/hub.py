"""Models on the hub, and one-line messages for the hub's errors."""

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
def hub_errors(what: str, hint: str) -> Iterator[None]:
    """Turn exceptions of the hub's library or the network into a one-line error.

    Args:
        what: What failed, to begin the message with.

    Raises:
        FtkitError: The body raised an exception.
    """
    try:
        yield
    except Exception as error:  # the types depend on the version of the hub's library
        reason = one_line(str(error).strip().split("\n")[0]).partition(". ")[0]
        raise FtkitError(f"{what}: {reason or type(error).__name__}", hint) from error


def fetch(repository: str, revision: str | None = None) -> Path:
    """The folder in the hub's cache with the model of a repository, which is downloaded if needed.

    Raises:
        FtkitError: It can't be downloaded.
    """
    from huggingface_hub import hf_hub_download

    with hub_errors(f"{repository} can't be pulled", "check its name; a private one needs `hf auth login` or HF_TOKEN"):
        return Path([hf_hub_download(repository, name, revision=revision) for name in MODEL][-1]).parent


class Models(Mapping[str, Path]):
    """Models by `ORG/NAME`, or `ORG/NAME@REVISION`. Iteration lists those in the hub's cache."""

    def __getitem__(self, address: str) -> Path:
        if address not in self:
            raise KeyError(address)
        repository, _, revision = address.partition("@")
        return fetch(repository, revision or None)

    def __contains__(self, address: object) -> bool:
        return isinstance(address, str) and _ADDRESS.fullmatch(address) is not None

    def __iter__(self) -> Iterator[str]:
        from huggingface_hub.constants import HF_HUB_CACHE

        if not Path(HF_HUB_CACHE).is_dir():  # Importing what scans it takes a fifth of the time of a list.
            return
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
