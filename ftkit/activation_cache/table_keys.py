"""What tables of activations are known by: digits that change with anything that a row's bytes depend on."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import torch
import torchvision
from torch import Tensor

from ftkit.activation_cache.cut import Cut, CutFinder
from ftkit.activation_cache.table import Table, open_table
from ftkit.data.loading.pixels import decoder_versions
from ftkit.files.cache_folder import CacheStore
from ftkit.models.compute.devices import Compute
from ftkit.transforms.preprocessing import Preprocessing

TABLES_TRIED = 4
"""Tables of one key, should their values differ."""
ROUNDING, HALF_ROUNDING = 0.005, 0.05
"""Most that a row's values may differ, of their norm, in float32 and in 16 bits: another batch size or device rounds
otherwise. Values of another image or network differ by far more."""


class TableKeys:
    """Of one network's tables, as it computes now. Weights are read once while they stay what they are."""

    def __init__(self, cut_finder: CutFinder, compute: Compute) -> None:
        self._cutter = cut_finder
        self._compute = compute
        self._known: dict[tuple[str, int], str] = {}
        self._identities: dict[str, str] = {}

    def prefix_key(self, cut: str) -> str:
        """Of what computes the values after a layer: the program, its weights, and the arithmetic."""
        state = [(name, str(t.dtype), list(t.shape), self._digest(name, t)) for name, t in self._cutter.state(cut)]
        device = self._compute.device
        return _digits(
            {
                "network": self._identity(cut),
                "state": state,
                "arithmetic": [self._compute.precision, self._compute.layout],
                "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
                "threads": torch.get_num_threads(),
                "versions": [torch.__version__, torchvision.__version__, *decoder_versions()],
            }
        )

    def _identity(self, cut: str) -> str:
        if cut not in self._identities:
            self._identities[cut] = self._cutter.identity(cut)
        return self._identities[cut]

    def forget(self) -> None:
        """Read the weights again when they are asked for next."""
        self._known.clear()

    def _digest(self, name: str, tensor: Tensor) -> str:
        known = (name, tensor._version)
        if known not in self._known:
            content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            self._known[known] = hashlib.sha256(content.data).hexdigest()
        return self._known[known]


def table_key(prefix_key: str, images: str, preprocessing: Preprocessing, drawn: Sequence[Any] = ()) -> str:
    """Of a table of values.

    Args:
        beginning: As `TableKeys` gives it.
        images: The digest that `image_digests` gives.
        preprocessing: What the images go through.
        drawn: What their random changes depend on; nothing for what evaluation sees.
    """
    return _digits([prefix_key, images, [asdict(preprocessing), list(drawn)]])


def open_checked_table(
    store: CacheStore,
    key: str,
    about: str,
    rows: int,
    cut: Cut,
    prefix_key: str,
    recompute: Callable[[int], Tensor | None] | None = None,
    tell: Callable[[str], None] | None = None,
) -> Table:
    """The table of the values at a cut, one a row, made where it isn't there.

    Args:
        recompute: Gives a row as it is now, `(1, *shape)`, None where its image can't be read. A table that has another
            value there isn't used: something that decides the values isn't in its key.
        tell: Called with a line where that is so.

    Raises:
        OSError: As `open_table`.
    """
    facts = {"cut": cut.name, "prefix": prefix_key}
    for number in range(TABLES_TRIED):
        name = _digits([key, number]) if number else key
        table = open_table(store, name, about, rows, cut.shape, cut.dtype, facts)
        try:
            holds = recompute is None or _holds(table, recompute)
        except BaseException:
            table.close()
            raise
        if holds:
            return table
        table.close()
        if tell is not None:
            tell(f"{about}: what is cached is not what the network gives now; it is computed anew, and kept apart")
    raise OSError(errno.EEXIST, f"{TABLES_TRIED} tables of {about} hold other values than the network gives")


def _holds(table: Table, recompute: Callable[[int], Tensor | None]) -> bool:
    """Whether a table's row is what it is now, as far as rounding allows."""
    row = table.sample()
    now = recompute(row) if row is not None else None
    if row is None or now is None:
        return True
    kept = table.take(torch.tensor([row]))
    now = now.detach().to("cpu", kept.dtype)
    rounding = ROUNDING if kept.dtype == torch.float32 else HALF_ROUNDING
    before, after = (torch.nan_to_num(values.double()) for values in (kept, now))
    return bool((before - after).norm() <= rounding * after.norm().clamp_min(1e-12))


def cached_prefixes(store: CacheStore) -> set[tuple[str, str]]:
    """The cuts that there are tables of, by name, and what their beginnings are known by."""
    facts = [entry.metadata for entry in store.entries()]
    return {(one["cut"], one["prefix"]) for one in facts if "cut" in one and "prefix" in one}


def _digits(facts: Any) -> str:
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
