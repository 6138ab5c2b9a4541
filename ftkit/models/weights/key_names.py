"""Maps names in a weights file to those of a network, by removing or adding prefixes and wrappers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Names of torch's wrapper modules, which occur at any depth in a state dict."""
_AVERAGED = re.compile(r"(^|[._])(ema|swa|teacher|momentum|averaged)([._]|$)")
_RIVAL = 0.8
"""Another prefix with at least this share of the chosen prefix's matches has other weights of the same network."""


@dataclass(frozen=True)
class Naming:
    """How names in a file map to names of the network.

    Attributes:
        targets: Name in the network by name in the file; the network may have no such tensor.
        strangers: Names in the file without the common prefix.
        prefix: Prefix that was removed, as written in the file.
        inner: Wrappers that were removed inside names.
        rivals: Other prefixes in the file with weights of the same network.
        module: Maps the name of a module in the file to its name in the network.
    """

    targets: dict[str, str]
    strangers: tuple[str, ...]
    prefix: str
    inner: tuple[str, ...]
    rivals: tuple[str, ...]
    module: Callable[[str], str]


def match_names(names: Sequence[str], own: Sequence[str]) -> Naming:
    """Find the prefix and wrappers whose removal makes the most names match the network.

    Args:
        names: The names in the file.
        own: The names in the network.
    """
    bare, plain = _unwrapped(names), {short: name for name, short in _unwrapped(own).items()}
    common = _common(plain)
    known = {short.removeprefix(common): name for short, name in plain.items()}
    counts: Counter[str] = Counter()
    for short in bare.values():
        parts = short.split(".")
        for cut in range(len(parts)):
            if ".".join(parts[cut:]) in known:
                counts["".join(f"{part}." for part in parts[:cut])] += 1
    prefix = min(counts, key=lambda p: (-counts[p], _AVERAGED.search(p) is not None, len(p)), default="")
    inside = {name: short.removeprefix(prefix) for name, short in bare.items() if short.startswith(prefix)}
    targets = {name: known.get(rest, f"{common}{rest}") for name, rest in inside.items()}
    taken = set(targets.values())
    # Names without the prefix that match as they are, as a head's often do.
    targets |= {n: known[short] for n, short in bare.items() if short in known and known[short] not in taken}
    wraps = any(bare[name] != name for name in bare)

    def module(name: str) -> str:
        short = without_wrappers(f"{name}.") if wraps else f"{name}."
        return f"{common}{short.removeprefix(prefix)}".strip(".")

    outer, inner = _taken_off(next((n for n in names if targets.get(n) in own), ""), names, targets)
    least = counts[prefix] * _RIVAL
    rivals = tuple(p.strip(".") for p, count in counts.items() if p != prefix and count >= least)
    strangers = tuple(name for name in names if name not in targets)
    return Naming(targets, strangers, outer, inner, rivals, module)


def _unwrapped(names: Iterable[str]) -> dict[str, str]:
    """Names without wrappers, by the original names; unchanged where two would become equal."""
    found = {name: without_wrappers(name) for name in names}
    return found if len(set(found.values())) == len(found) else {name: name for name in found}


def without_wrappers(name: str) -> str:
    """A name without torch's wrapper modules."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _common(names: Iterable[str]) -> str:
    """The prefix of all names of a network, such as `model.`; files may lack it."""
    parts = {tuple(name.split(".")[:-1]) for name in names}
    shared: list[str] = []
    for level in zip(*parts, strict=False) if len(parts) > 1 else ():
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return "".join(f"{part}." for part in shared)


def _taken_off(example: str, names: Iterable[str], targets: dict[str, str]) -> tuple[str, tuple[str, ...]]:
    """The prefix of an example name that the network lacks, and the wrappers inside any name."""
    target = targets.get(example, example)
    parts, kept = example.split("."), target.split(".")
    outer = ""
    while not target.endswith(".".join(parts)) and parts[0] != kept[0]:
        outer += f"{parts.pop(0)}."
    found = dict.fromkeys(
        part for name in names if name in targets for part in name.removeprefix(outer).split(".") if part in WRAPPERS
    )
    return outer, tuple(found)
