"""A network's own forward pass in which some modules don't compute: others stand in for them.

The parts are shallow copies of the network and of the containers on the way to those modules. They share parameters,
buffers and all other modules with it, and the network itself isn't changed.
"""

from __future__ import annotations

import threading
import types
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ftkit.activation_cache.cutting.recording import Key, Output, TensorSpec


class Leaf(NamedTuple):
    """A tensor that a call returns."""

    key: Key
    place: int


class Pass:
    """State of one forward pass.

    Attributes:
        calls: How often each module was called.
        images: Number of images.
        values: Activations that are given, by leaf.
        found: Activations that were computed, by leaf.
        done: Rows that were computed, by the number of the cut.
    """

    def __init__(self, images: int = 0, values: Mapping[Leaf, Tensor] | None = None) -> None:
        self.calls: Counter[str] = Counter()
        self.images = images
        self.values = dict(values or {})
        self.found: dict[Leaf, Tensor] = {}
        self.done: dict[int, Tensor] = {}

    def number(self, path: str) -> int:
        """How often a module was called before."""
        self.calls[path] += 1
        return self.calls[path] - 1


class _Threads(threading.local):
    current = Pass()


class Passes:
    """The pass of each thread; a copy has passes of its own."""

    def __init__(self) -> None:
        self._threads = _Threads()
        self._compiled = Pass()

    @property
    def current(self) -> Pass:
        """The pass of this thread."""
        # Compiled code can't have thread-local values; only training is compiled, in one thread.
        return self._compiled if torch.compiler.is_compiling() else self._threads.current

    def begin(self, state: Pass) -> Pass:
        """Begin a pass in this thread."""
        if torch.compiler.is_compiling():
            self._compiled = state
        else:
            self._threads.current = state
        return state

    def __deepcopy__(self, memo: dict[int, Any]) -> Passes:
        return Passes()


@dataclass(frozen=True)
class Script:
    """Which calls return at once, and what.

    Attributes:
        outputs: By call.
        fill: Value of the tensors that aren't given.
        dense: Allocate the others in full, for code that changes them in place.
    """

    outputs: Mapping[Key, Output]
    fill: float = 0.0
    dense: bool = False
    passes: Passes = field(default_factory=Passes)

    def returned(self, key: Key, device: torch.device) -> Any:
        """What a call returns in the current pass."""
        state, output = self.passes.current, self.outputs[key]
        leaves = [
            self._tensor(Leaf(key, place), leaf, state, device) if isinstance(leaf, TensorSpec) else leaf
            for place, leaf in enumerate(output.leaves)
        ]
        return pytree.tree_unflatten(leaves, output.tree)

    def _tensor(self, leaf: Leaf, spec: TensorSpec, state: Pass, device: torch.device) -> Tensor:
        if leaf in state.values:
            return state.values[leaf]
        return filler(spec.shape(state.images), spec.dtype, device, self)


def filler(shape: Sequence[int], dtype: torch.dtype, device: torch.device, script: Script) -> Tensor:
    """A tensor of one value; it takes no memory unless it is dense."""
    fill = script.fill if dtype.is_floating_point or script.fill == script.fill else 0.0
    if script.dense:
        return torch.full(tuple(shape), fill, dtype=dtype, device=device)
    return torch.full((), fill, dtype=dtype, device=device).expand(tuple(shape))


class _Original:
    """Keeps a module out of the parameters, state dict and copies of the module that refers to it."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __deepcopy__(self, memo: dict[int, Any]) -> _Original:
        return self


class StandIn(nn.Module):
    """Mixed into the class of a module that returns at once; later calls compute."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        own = self.__dict__
        key = Key(own["_path"], own["_script"].passes.current.number(own["_path"]))
        if key in own["_script"].outputs:
            return own["_script"].returned(key, own["_device"])
        return own["_original"].module(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_original"].module, name)

    def __len__(self) -> int:
        return len(self.__dict__["_original"].module)

    def __iter__(self) -> Any:
        return iter(self.__dict__["_original"].module)

    def __getitem__(self, place: Any) -> Any:
        return self.__dict__["_original"].module[place]


class Tapped(nn.Module):
    """Mixed into the class of a module whose outputs are kept."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        own = self.__dict__
        state = own["_passes"].current
        key = Key(own["_path"], state.number(own["_path"]))
        returned = super().__call__(*args, **kwargs)
        own["_taps"].finished(key, returned, state)
        return returned


_MIXED: dict[tuple[type, type], type[nn.Module]] = {}


def mixed(mixin: type[nn.Module], cls: type[nn.Module]) -> type[nn.Module]:
    """A class with the methods of both, always the same; instances count as those of `cls`."""
    if (mixin, cls) not in _MIXED:
        _MIXED[mixin, cls] = type(cls.__name__, (mixin, cls), {"__module__": cls.__module__})
    return _MIXED[mixin, cls]


def shallow_copy(module: nn.Module, cls: type[nn.Module] | None = None, **attributes: Any) -> nn.Module:
    """A module with the same parameters, buffers, modules and attributes."""
    copied: nn.Module = object.__new__(cls or type(module))
    for name, value in vars(module).items():
        bound = isinstance(value, types.MethodType) and value.__self__ is module
        vars(copied)[name] = types.MethodType(value.__func__, copied) if bound else value
    vars(copied).update(attributes)
    return copied


def stand_in(path: str, module: nn.Module, script: Script, device: torch.device) -> nn.Module:
    """What stands in for a module: it has neither parameters nor buffers nor modules of its own."""
    empty: dict[str, Any] = {name: {} for name in ("_parameters", "_buffers", "_modules")}
    own = {"_original": _Original(module), "_path": path, "_script": script, "_device": device}
    return shallow_copy(module, mixed(StandIn, type(module)), **empty, **own)


def replaced(network: nn.Module, change: Callable[[str, nn.Module, Callable[[], nn.Module]], nn.Module]) -> nn.Module:
    """A copy of a network in which some modules are changed; what holds none of them isn't copied.

    Args:
        change: Returns what takes the place of a module, given its name, itself, and a function that returns it with
            its own modules changed; not called for the network itself.
    """
    names = {module: path for path, module in network.named_modules()}
    known: dict[nn.Module, nn.Module] = {}

    def part(module: nn.Module) -> nn.Module:
        if module not in known:
            known[module] = change(names[module], module, lambda: inner(module))
        return known[module]

    def inner(module: nn.Module) -> nn.Module:
        children = {name: child and part(child) for name, child in module._modules.items()}
        if all(child is module._modules[name] for name, child in children.items()):
            return module
        return shallow_copy(module, _modules=children)

    return inner(network)
