"""Keys of cached tables: digests that change with anything that the bytes of a row depend on."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torchvision
from torch import Tensor

from ftkit.activation_cache.cutting.cut import Cut
from ftkit.activation_cache.cutting.finder import CutFinder
from ftkit.activation_cache.table import Table, open_table
from ftkit.data.loading.pixels import decoder_versions
from ftkit.files.cache_folder import CacheStore
from ftkit.models.compute.devices import Compute
from ftkit.transforms.preprocessing import Preprocessing

TABLES_TRIED = 4
"""Tables with the same key and different values."""
ROUNDING, HALF_ROUNDING = 0.005, 0.05
"""Largest difference between a stored row and one computed now, relative to its norm, in float32 and in 16 bits.
Other batch sizes and devices round differently; another image or network differs by far more."""


class TableKeys:
    """Keys of one network's tables. The weights are read once while they don't change."""

    def __init__(self, cut_finder: CutFinder, compute: Compute) -> None:
        self._cut_finder = cut_finder
        self._compute = compute
        self._digests: dict[tuple[str, int], str] = {}
        self._identities: dict[str, str] = {}

    def prefix_key(self, cut: str) -> str:
        """Digest of what computes the activations at a cut: the program, its weights, and the arithmetic."""
        state = [(name, str(t.dtype), list(t.shape), self._digest(name, t)) for name, t in self._cut_finder.state(cut)]
        device = self._compute.device
        return _digest(
            {
                "network": self._identity(cut),
                "state": state,
                "arithmetic": [self._compute.precision, self._compute.layout],
                "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
                "threads": torch.get_num_threads(),
                "versions": [torch.__version__, torchvision.__version__, *decoder_versions()],
            }
        )

    def forget(self) -> None:
        """Read the weights again for the next key."""
        self._digests.clear()

    def _identity(self, cut: str) -> str:
        if cut not in self._identities:
            self._identities[cut] = self._cut_finder.identity(cut)
        return self._identities[cut]

    def _digest(self, name: str, tensor: Tensor) -> str:
        known = (name, tensor._version)
        if known not in self._digests:
            content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            self._digests[known] = hashlib.sha256(content.data).hexdigest()
        return self._digests[known]


def table_key(prefix_key: str, images: str, preprocessing: Preprocessing, drawn: Sequence[Any] = ()) -> str:
    """The key of a table.

    Args:
        prefix_key: The key that `TableKeys` returns.
        images: The digest that `image_digests` returns.
        drawn: What the images' random changes depend on; empty without augmentation.
    """
    return _digest([prefix_key, images, [asdict(preprocessing), list(drawn)]])


@dataclass(frozen=True)
class TableSpec:
    """A table of the activations at a cut, one image a row.

    Attributes:
        about: Its content, for people.
        rows: Number of images.
        prefix_key: The key that `TableKeys` returns.
    """

    key: str
    about: str
    rows: int
    cut: Cut
    prefix_key: str


def open_checked_table(
    store: CacheStore,
    spec: TableSpec,
    recompute: Callable[[int], Tensor | None] | None = None,
    note: Callable[[str], None] | None = None,
) -> Table:
    """Open or create a table; one whose values differ from those computed now is left alone.

    Args:
        recompute: Computes a row, `(1, *shape)`, None where its image can't be read. Where it differs from the stored
            row, something that decides the values isn't in the key, and another table is opened.
        note: Called with one line in that case.

    Raises:
        OSError: As `open_table`.
    """
    facts = {"cut": spec.cut.name, "prefix": spec.prefix_key}
    for number in range(TABLES_TRIED):
        name = _digest([spec.key, number]) if number else spec.key
        table = open_table(store, name, spec.about, spec.rows, (spec.cut.shape, spec.cut.dtype), facts)
        try:
            matches = recompute is None or _matches(table, recompute)
        except BaseException:
            table.close()
            raise
        if matches:
            return table
        table.close()
        if note is not None:
            note(
                f"{spec.about}: the cached activations aren't what the network computes; others are stored beside them"
            )
    raise OSError(errno.EEXIST, f"{TABLES_TRIED} tables of {spec.about} differ from what the network computes")


def _matches(table: Table, recompute: Callable[[int], Tensor | None]) -> bool:
    """Whether a stored row equals the one computed now, except for rounding."""
    row = table.written_row()
    computed = recompute(row) if row is not None else None
    if row is None or computed is None:
        return True
    stored = table.take(torch.tensor([row]))
    computed = computed.detach().to("cpu", stored.dtype)
    rounding = ROUNDING if stored.dtype == torch.float32 else HALF_ROUNDING
    before, after = (torch.nan_to_num(values.double()) for values in (stored, computed))
    return bool((before - after).norm() <= rounding * after.norm().clamp_min(1e-12))


def cached_prefixes(store: CacheStore) -> set[tuple[str, str]]:
    """Cut and prefix key of each stored table."""
    facts = [entry.metadata for entry in store.entries()]
    return {(one["cut"], one["prefix"]) for one in facts if "cut" in one and "prefix" in one}


def _digest(facts: Any) -> str:
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
