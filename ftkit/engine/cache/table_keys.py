"""What tables of activations are known by: digits that change with anything that a row's bytes depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
import torchvision
from torch import Tensor

from ftkit.activation_folder import Store
from ftkit.engine.cache.cut import Cut, Cutter
from ftkit.engine.cache.tables import Table, open_table
from ftkit.engine.input.pixels import decoder_versions
from ftkit.engine.network.devices import Compute
from ftkit.spec.preprocessing import Preprocessing


class TableKeys:
    """Of one network's tables, as it computes now. Weights are read once while they stay what they are."""

    def __init__(self, cutter: Cutter, compute: Compute) -> None:
        self._cutter = cutter
        self._compute = compute
        self._known: dict[tuple[str, int], str] = {}

    def beginning(self, cut: str) -> str:
        """Of what computes the values after a layer: the program, its weights, and the arithmetic."""
        state = [(name, str(t.dtype), list(t.shape), self._digest(name, t)) for name, t in self._cutter.state(cut)]
        device = self._compute.device
        return _digits(
            {
                "code": self._cutter.code(cut),
                "state": state,
                "arithmetic": [self._compute.precision, self._compute.layout],
                "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
                "threads": torch.get_num_threads(),
                "versions": [torch.__version__, torchvision.__version__, *decoder_versions()],
            }
        )

    def forget(self) -> None:
        """Read the weights again when they are asked for next."""
        self._known.clear()

    def _digest(self, name: str, tensor: Tensor) -> str:
        known = (name, tensor._version)
        if known not in self._known:
            content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            self._known[known] = hashlib.sha256(content.data).hexdigest()
        return self._known[known]


def table_key(beginning: str, images: str, look: Preprocessing, drawn: Sequence[Any] = ()) -> str:
    """Of a table of values.

    Args:
        beginning: As `TableKeys` gives it.
        images: The digest that `known_images` gives.
        look: What the images go through.
        drawn: What their random changes depend on; nothing for what evaluation sees.
    """
    return _digits([beginning, images, [asdict(look), list(drawn)]])


def open_values(store: Store, key: str, about: str, rows: int, cut: Cut, beginning: str) -> Table:
    """The table of the values at a cut, one a row, made where it isn't there.

    Raises:
        OSError: As `open_table`.
    """
    return open_table(store, key, about, rows, cut.shape, cut.dtype, {"cut": cut.name, "beginning": beginning})


def kept_beginnings(store: Store) -> set[tuple[str, str]]:
    """The cuts that there are tables of, by name, and what their beginnings are known by."""
    facts = [entry.facts for entry in store.entries()]
    return {(one["cut"], one["beginning"]) for one in facts if "cut" in one and "beginning" in one}


def _digits(facts: Any) -> str:
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
