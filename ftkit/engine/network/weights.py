"""Pretrained weights: read from a file without running code, and put into a network with nothing left unsaid."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ftkit.errors import RequestError

_CONTAINERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
_AVERAGED = ("model_ema", "state_dict_ema", "ema_state_dict", "ema")  # taken only where there is nothing else
_OTHER_NETWORK = "choose the backbone that these weights were trained with"
_NEW_HEAD = "leave out --keep-head to train a new head"
_CODE = re.compile(r"GLOBAL|[Uu]nsupported class|unrecognized function")  # how torch says that it won't run something
_SAVE_STATE = "save the state dict alone: torch.save(model.state_dict(), FILE), or as .safetensors"


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file by name, on the CPU.

    `.safetensors` files are read as such, all others by `torch.load(weights_only=True)`. Of a training
    checkpoint the network's state dict is taken (`state_dict`, `model`, ...).

    Raises:
        RequestError: The file isn't there, is damaged, holds no tensors, or would have to run code.
    """
    if path.is_dir():
        raise RequestError(f"weights {path} is a folder", "name the weights file in it")
    if not path.exists():
        raise RequestError(f"no weights file {path}", "check the path, or use --weights default or none")
    if path.stat().st_size == 0:
        raise RequestError(f"weights file {path} is empty", "get or write it again")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    state = _find_state(content)
    if not state:
        raise RequestError(f"weights file {path} holds no state dict: {_describe(content)}", _SAVE_STATE)
    return state


def _read_safetensors(path: Path) -> Any:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise _damaged(path, error) from error


def _read_pickle(path: Path) -> Any:
    try:
        with warnings.catch_warnings(action="ignore"):  # on pickle protocols, which say nothing to a user
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        if _CODE.search(str(error)):
            raise RequestError(
                f"weights file {path} holds Python objects beside its tensors, which could run code when read",
                f"where you trust it, {_SAVE_STATE}",
            ) from error
        raise _damaged(path, error) from error
    except Exception as error:  # damaged bytes make the unpickler fail in any way
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> RequestError:
    text = str(error).rpartition("WeightsUnpickler error:")[2].strip()  # before it torch advises on its own API
    reason = text.splitlines()[0] if text else type(error).__name__
    return RequestError(
        f"weights file {path} can't be read: {reason}", "it is damaged or of another kind: get it again"
    )


def _find_state(content: Any) -> dict[str, Tensor]:
    """The state dict in what a file held: the thing itself, or what the usual names contain."""
    if not isinstance(content, Mapping):
        return {}
    for key in (*_CONTAINERS, *_AVERAGED):
        inner = content.get(key)
        if isinstance(inner, Mapping) and (state := _find_state(inner)):
            return state
    state = OrderedDict((str(name), value) for name, value in content.items() if isinstance(value, Tensor))
    if hasattr(content, "_metadata"):  # versions, by which modules understand what older ones wrote
        state._metadata = content._metadata  # type: ignore[attr-defined]
    return state


def _describe(content: Any) -> str:
    if isinstance(content, Mapping):
        return f"its keys are {_few(map(str, content))}" if content else "it is an empty mapping"
    return f"it is a {type(content).__name__}"


@dataclass(frozen=True)
class LoadReport:
    """What became of a state dict.

    Attributes:
        loaded: Tensors of the network that now have pretrained values.
        total: Tensors that the network has.
        dropped: Tensors of the file that were passed over since the head is drawn anew, with their shapes.
        missing: Tensors of the network, beside the new head's, that the file hasn't got.
        unexpected: Tensors of the file that the network has no place for.
        prefix: What the file's names began with, beyond the network's own.
        adapted: Tensors that were brought into another shape for this network, with both shapes.
    """

    loaded: int
    total: int
    dropped: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    prefix: str = ""
    adapted: tuple[str, ...] = ()

    def summary(self) -> str:
        """One line for people."""
        parts = [f"loaded {self.loaded} of {self.total} tensors"]
        if self.prefix:
            parts.append(f"prefix {self.prefix!r} removed")
        for label, names in (
            ("adapted", self.adapted),
            ("head not taken", self.dropped),
            ("missing", self.missing),
            ("unused", self.unexpected),
        ):
            if names:
                parts.append(f"{label}: {_few(names)}")
        return "; ".join(parts)


def load_into(
    model: nn.Module,
    state: Mapping[str, Tensor],
    head: Sequence[str],
    keep_head: bool,
    source: str = "the weights",
    refit: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] | None = None,
) -> LoadReport:
    """Load a state dict into a network, in place.

    A file need not match in every name (it is reported), but what has a name of the network's body must have
    its shape, and half of the body must be there: a network half random is never what was meant.

    Args:
        model: The network with fresh weights.
        state: Tensors by name, with any prefix in front of the network's own names.
        head: Dotted names of the layers that put out one value a class.
        keep_head: Load the head too; otherwise it stays as drawn, whatever its size in the file.
        source: What messages call the weights: a file, or the name of a pretrained set.
        refit: Brings tensors of the file, without the prefix, into the network's names and shapes.

    Raises:
        RequestError: Nothing or too little matches, a shape differs, a value isn't finite, or the head that
            is to be kept has another size or isn't in the file.
    """
    own = model.state_dict()
    where = f"{source} for {type(model).__name__}"
    prefix = _best_prefix(state, own)
    found = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    matched = refit(found) if refit is not None else found
    strangers = tuple(name for name in state if not name.startswith(prefix))
    if not own.keys() & matched.keys():
        raise RequestError(
            f"nothing in {where} matches: its names are like {_few(state, 2)}, the network's like {_few(own, 2)}",
            _OTHER_NETWORK,
        )
    in_head = tuple(f"{layer}." for layer in head)
    dropped = {} if keep_head else {name: value for name, value in matched.items() if name.startswith(in_head)}
    taken = OrderedDict((name, value) for name, value in matched.items() if name not in dropped)
    _check_values(taken, own, in_head, where)
    missing, unexpected = _load(model, taken, _versions(model, state, prefix), where)
    _check_missing(missing, own, in_head, keep_head, where)
    return LoadReport(
        loaded=len(own) - len(missing),
        total=len(own),
        dropped=tuple(f"{name} {_shape(value)}" for name, value in dropped.items()),
        missing=tuple(name for name in missing if keep_head or not name.startswith(in_head)),
        unexpected=(*unexpected, *strangers),
        prefix=prefix,
        adapted=tuple(
            f"{name} {_shape(found[name])} to {_shape(value)}"
            for name, value in taken.items()
            if name in found and found[name].shape != value.shape
        ),
    )


def _best_prefix(state: Iterable[str], own: Mapping[str, Tensor]) -> str:
    """What to take off the file's names so that most become names of the network; the shortest of equals."""
    counts: Counter[str] = Counter()
    for name in state:
        parts = name.split(".")
        for cut in range(len(parts)):
            if ".".join(parts[cut:]) in own:
                counts["".join(f"{part}." for part in parts[:cut])] += 1
    return min(counts, key=lambda prefix: (-counts[prefix], len(prefix)), default="")


def _check_values(
    matched: Mapping[str, Tensor], own: Mapping[str, Tensor], in_head: tuple[str, ...], where: str
) -> None:
    """Stop where a tensor has another shape than the network's, or holds what isn't a number."""
    for name, value in matched.items():
        if name in own and value.shape != own[name].shape:
            sizes = f"{name} is {_shape(value)} there and {_shape(own[name])} in the network"
            if name.startswith(in_head):
                raise RequestError(f"the head of {where} can't be kept: {sizes}", _NEW_HEAD)
            raise RequestError(f"{where} are another network's: {sizes}", _OTHER_NETWORK)
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise RequestError(f"{name} in {where} has values that are not finite", "get or write them again")


def _versions(model: nn.Module, state: Mapping[str, Tensor], prefix: str) -> dict[str, Any]:
    """The versions of the modules that wrote the file, where it tells; else the network's own version."""
    written = getattr(state, "_metadata", None)
    if not written:
        return {"": {"version": getattr(model, "_version", 1)}}
    return {f"{key}.".removeprefix(prefix)[:-1]: value for key, value in written.items()} | {
        "": written.get(prefix[:-1], {})
    }


def _load(
    model: nn.Module, taken: OrderedDict[str, Tensor], versions: dict[str, Any], where: str
) -> tuple[list[str], list[str]]:
    """Copy the tensors, by way of the modules' own understanding of older names; names missing and unexpected."""
    taken._metadata = versions  # type: ignore[attr-defined]
    try:
        result = model.load_state_dict(taken, strict=False)
    except RuntimeError as error:
        raise RequestError(
            f"{where} don't fit: {str(error).strip().splitlines()[-1].strip()}", _OTHER_NETWORK
        ) from error
    return list(result.missing_keys), list(result.unexpected_keys)


def _check_missing(
    missing: Iterable[str], own: Iterable[str], in_head: tuple[str, ...], keep_head: bool, where: str
) -> None:
    """Stop where the classifier that is to be kept isn't there, or more than half of the body."""
    absent = [name for name in missing if name.startswith(in_head[0])]
    if keep_head and absent:
        raise RequestError(f"the head of {where} can't be kept: {absent[0]} isn't there", _NEW_HEAD)
    body = [name for name in own if not name.startswith(in_head)]
    gone = [name for name in missing if not name.startswith(in_head)]
    if 2 * len(gone) > len(body):
        raise RequestError(
            f"too little in {where} matches: {len(gone)} of {len(body)} tensors are missing, such as {gone[0]}",
            _OTHER_NETWORK,
        )


def put_back(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a network all of its tensors, as one built alike had them.

    Files don't keep the versions of the modules, without which some refuse to load: the state is that of the
    modules as they are now.

    Raises:
        RuntimeError: A tensor is missing, has no place, or another shape.
    """
    taken = OrderedDict(state)
    taken._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
    model.load_state_dict(taken, strict=True)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _few(names: Iterable[str], count: int = 4) -> str:
    names = list(names)
    more = len(names) - count
    return ", ".join(names[:count]) + (f" and {more} more" if more > 0 else "")
