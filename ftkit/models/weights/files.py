"""Reads the state dict in a weights file, without running code."""

from __future__ import annotations

import json
import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ftkit.errors import RequestError, unknown
from ftkit.files.file_identity import file_sha256
from ftkit.files.file_kinds import kind_of_file
from ftkit.models.weights.key_names import without_wrappers

RAW = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "module", "student", "params")
AVERAGED = ("model_ema", "state_dict_ema", "ema_state_dict", "ema_model", "ema", "params_ema", "teacher")
"""Entries with averages over training steps: read only where there are no others, or by `weights_key`."""
_CODE = re.compile(
    r"GLOBAL|[Uu]nsupported class|unrecognized function"
)  # in torch's messages where it refuses to run code
_SAVE_STATE = "save the state dict alone: torch.save(model.state_dict(), FILE), or as .safetensors"
_TORCH = "a PyTorch checkpoint"
_GET_AGAIN = "it is damaged or of another kind: get it again"
_OTHER_KIND: Mapping[str, str] = {
    "a safetensors file": "rename it to end in .safetensors",
    **dict.fromkeys(("a zip archive", _TORCH), "a PyTorch checkpoint ends in .pt"),
    "a git-lfs pointer": "fetch its content with `git lfs pull`",
}
_SHARD = re.compile(r"-\d{3,}-of-\d{3,}\.")
_ADAPTER = re.compile(r"(?:^|\.)(?:lora|ia3|hada|lokr|oft|boft|vera)_\w+\.?")


@dataclass(frozen=True)
class Contents:
    """The state dict of a weights file.

    Attributes:
        state: Tensors by name, on the CPU.
        entry: Key of the state dict in the file; empty for the whole file.
        others: Keys of other state dicts of the same network.
    """

    state: Mapping[str, Tensor]
    entry: str = ""
    others: tuple[str, ...] = ()

    def note(self) -> str:
        """Which of several state dicts was read; empty where there is one."""
        if not self.others:
            return ""
        return (
            f"{self.entry!r} used, not {', '.join(map(repr, self.others))} "
            f"(--set weights_key={self.others[0]} uses that)"
        )


def read_weights(path: Path, key: str | None = None, sha256: str | None = None) -> Contents:
    """Read the tensors of a weights file, on the CPU.

    An `.index.json` is read with all the files that it lists, and files other than `.safetensors` by
    `torch.load(weights_only=True)`. In a training checkpoint the network's state dict is selected (`state_dict`,
    `model`, ...), and raw weights are preferred to averaged ones.

    Args:
        key: The entry to read instead, or a prefix of tensor names: `model_ema`, `teacher.backbone`.
        sha256: The expected checksum, where it is known.

    Raises:
        RequestError: The file is missing or damaged, has no state dict, or could only be read by running code.
    """
    _require_file(path)
    if sha256 is not None and file_sha256(path) != sha256:
        raise RequestError(f"{path}: the file is damaged: its checksum is wrong", "copy the model again")
    content = _content(path)
    found = _entry(content, key, path) if key else _find_state(content)
    if not found.state:
        raise RequestError(
            f"weights file {path} has no state dict: {_describe(content)}",
            f"{_SAVE_STATE}; or name the entry that is one with --set weights_key=NAME",
        )
    _require_whole_tensors(found.state, path)
    return found


def _require_file(path: Path) -> None:
    if path.is_dir():
        raise RequestError(f"weights {path} is a folder", "name the weights file in it")
    if not path.exists():
        raise RequestError(f"no weights file {path}", "check the path, or use --weights default or none")
    if path.stat().st_size == 0:
        raise RequestError(f"weights file {path} is empty", "get or write it again")
    if _SHARD.search(path.name):
        raise RequestError(
            f"weights file {path} is one of several shards of a network",
            "give the .index.json that lists the shards",
        )


def _content(path: Path) -> Any:
    if path.suffix == ".json":
        return _read_index(path)
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)


def _read_index(path: Path) -> dict[str, Tensor]:
    """The tensors of all shards in an index, the format of large models on the Hugging Face Hub."""
    try:
        files: dict[str, str] = dict(json.loads(path.read_bytes())["weight_map"])
    except (OSError, ValueError, KeyError, TypeError):
        raise RequestError(f"weights file {path} isn't an index of weights files", "give a weights file") from None
    found: dict[str, Tensor] = {}
    for name in sorted(set(files.values())):
        shard = path.parent / Path(name).name
        if not shard.is_file():
            raise RequestError(f"{path} lists {name}, which is missing", "put all of its files beside it")
        found |= dict(_content(shard))
    lacking = [name for name in files if name not in found]
    if lacking:
        raise RequestError(f"{path} lists tensors that its files lack: {first_names(lacking)}", "get its files again")
    return found


def _read_safetensors(path: Path) -> Any:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise _damaged(path, error) from error


def _read_pickle(path: Path) -> Any:
    try:
        with warnings.catch_warnings(action="ignore"):  # about pickle protocols, of no use to the user
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        if _CODE.search(str(error)):
            raise RequestError(
                f"weights file {path} has Python objects beside its tensors, which could run code when they are read",
                f"if you trust the file, {_SAVE_STATE}",
            ) from error
        raise _damaged(path, error) from error
    except Exception as error:  # damaged bytes can make the unpickler raise anything
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> RequestError:
    text = str(error).rpartition("WeightsUnpickler error:")[2].strip()  # the text before is advice on torch's API
    reason = text.splitlines()[0] if text else type(error).__name__
    kind = kind_of_file(path)
    own = ("a safetensors file",) if path.suffix == ".safetensors" else ("a zip archive", _TORCH)
    if kind is not None and kind not in own:
        return RequestError(f"weights file {path} can't be read: it is {kind}", _OTHER_KIND.get(kind, _GET_AGAIN))
    return RequestError(f"weights file {path} can't be read: {reason}", _GET_AGAIN)


def _find_state(content: Any) -> Contents:
    """The state dict in the content of a file: the content itself, or an entry with a usual name."""
    if not isinstance(content, Mapping):
        return Contents({})
    found = list(_states(content))
    if found:
        (entry, first), *others = found
        inner = ".".join(part for part in (entry, first.entry) if part)
        return Contents(first.state, inner, (*first.others, *(name for name, _ in others)))
    return Contents(_tensors(content))


def _states(content: Mapping[Any, Any]) -> Iterator[tuple[str, Contents]]:
    for key in (*RAW, *AVERAGED):
        inner = content.get(key)
        if isinstance(inner, Mapping) and (found := _find_state(inner)).state:
            yield key, found


def _tensors(content: Mapping[Any, Any]) -> OrderedDict[str, Tensor]:
    state = OrderedDict((str(name), value) for name, value in content.items() if isinstance(value, Tensor))
    if hasattr(content, "_metadata"):  # module versions, for loading older formats
        state._metadata = content._metadata  # type: ignore[attr-defined]
    return state


def _entry(content: Any, key: str, path: Path) -> Contents:
    """The state dict under a key: an entry, a nested entry, or the tensors whose names start with the key.

    Names are looked up in the file, and in the state dict that is read without a key.
    """
    place, rest = content, key
    while rest and isinstance(place, Mapping):
        inner = next((k for k in sorted(place, key=lambda k: -len(str(k))) if f"{rest}.".startswith(f"{k}.")), None)
        if inner is not None and isinstance(place[inner], Mapping):
            place, rest = place[inner], rest[len(str(inner)) + 1 :]
            continue
        if inner is not None:
            raise RequestError(
                f"weights_key for {path}: {key} is a {type(place[inner]).__name__}, not a mapping of tensors",
                _SAVE_STATE,
            )
        named = _with_prefix(place, rest) or _with_prefix(_find_state(place).state, rest)
        if not named:
            names = dict.fromkeys(str(name).split(".")[0] for name in place)
            raise unknown("entry", key, names, f"weights_key for {path}")
        return Contents(_tensors(named), key)
    found = _find_state(place)
    return Contents(found.state, ".".join(part for part in (key, found.entry) if part), found.others)


def _with_prefix(content: Mapping[Any, Any], prefix: str) -> dict[str, Any]:
    """The values whose names start with a prefix, with or without torch's wrappers, by the rest of the name."""
    names = {name: str(name) for name in content}
    for known in (names, {name: without_wrappers(text) for name, text in names.items()}):
        found = {n: text.removeprefix(f"{prefix}.") for n, text in known.items() if text.startswith(f"{prefix}.")}
        if found:
            return {rest: content[name] for name, rest in found.items()}
    return {}


def _require_whole_tensors(state: Mapping[str, Tensor], path: Path) -> None:
    """Refuse adapters without their network, and tensors without values of their own."""
    adapters = [name for name in state if _ADAPTER.search(name)]
    if adapters:
        raise RequestError(
            f"weights file {path} has adapters, not a network's own weights: {first_names(adapters, 2)}",
            "merge them into their network (PEFT: merge_and_unload) and give that; a run stores it in model/",
        )
    for name, value in state.items():
        plain = type(value) in (Tensor, nn.Parameter) and value.layout == torch.strided and not value.is_quantized
        if not plain or value.is_meta:
            kind = "quantised" if value.is_quantized else "without values" if value.is_meta else type(value).__name__
            raise RequestError(
                f"weights file {path}: {name} is not a plain tensor ({kind})", "save the whole network in float32"
            )


def _describe(content: Any) -> str:
    if isinstance(content, Mapping):
        return f"its keys are {first_names(map(str, content))}" if content else "it is an empty mapping"
    return f"it is a {type(content).__name__}"


def first_names(names: Iterable[str], count: int = 4) -> str:
    """The first names, and the number of the others."""
    names = list(names)
    more = len(names) - count
    return ", ".join(names[:count]) + (f" and {more} more" if more > 0 else "")
