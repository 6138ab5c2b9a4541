"""What the modules of a network return in one forward pass, recorded on a sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from ftkit.activation_cache.cutting.cut import NoCutError, is_fixed

_PLAIN = (int, float, complex, bool, str, bytes, type(None), torch.dtype, torch.device, torch.Size)

_COUNTS = (torch.uint8, torch.int16, torch.int32, torch.int64)
"""Types of values that a network's code may read: sizes and positions."""


class Key(NamedTuple):
    """A call of a module: the module's name, and how often it was called before."""

    path: str
    number: int


@dataclass(frozen=True)
class TensorSpec:
    """Shape and type of a tensor for any number of images.

    Attributes:
        sizes: Sizes of the dimensions, each with whether it is multiplied by the number of images.
    """

    sizes: tuple[tuple[int, bool], ...]
    dtype: torch.dtype

    def shape(self, images: int) -> tuple[int, ...]:
        """Its shape for a number of images."""
        return tuple(size * images if scales else size for size, scales in self.sizes)

    @property
    def scales(self) -> bool:
        """Whether its shape depends on the number of images."""
        return any(scales for _, scales in self.sizes)

    @property
    def is_batched(self) -> bool:
        """Whether exactly one dimension depends on the number of images: the first, or one of an entry an image."""
        places = [place for place, (_, scales) in enumerate(self.sizes) if scales]
        return len(places) == 1 and (places[0] == 0 or self.sizes[places[0]][0] == 1)


@dataclass(frozen=True)
class Output:
    """What a call returns: tensors, and plain values that are equal in all passes, in a tree of containers."""

    tree: pytree.TreeSpec
    leaves: tuple[Any, ...]

    @property
    def tensors(self) -> dict[int, TensorSpec]:
        """The tensors by their places."""
        return {place: leaf for place, leaf in enumerate(self.leaves) if isinstance(leaf, TensorSpec)}


@dataclass
class Call:
    """A finished call.

    Attributes:
        order: Position among all calls, in the order in which they finish.
        outer: The call in which it was made.
        output: None where it can't be described.
        values: The tensors that it returned, by place.
        fixed: It and all calls that finished before it compute the same for the same image, whatever trains.
    """

    key: Key
    outer: Call | None
    order: int = -1
    output: Output | None = None
    values: dict[int, Tensor] = field(default_factory=dict)
    fixed: bool = False


Calls = dict[Key, Call]
"""Calls in the order in which they finish."""


def record(network: nn.Module, batches: Sequence[Tensor], context: AbstractContextManager[Any]) -> Calls:
    """The calls of a pass over the first batch, with descriptions of what they return for any number of images.

    Args:
        batches: Images; of different numbers, so that shapes tell which dimensions depend on it.

    Raises:
        NoCutError: The modules don't run in the same order in all passes.
    """
    with context:
        passes = [_Recorder(network).calls(batch) for batch in batches]
    first, *others = passes
    links = [[(call.key, call.outer.key if call.outer else None) for call in one.values()] for one in passes]
    if any(one != links[0] for one in links):
        raise NoCutError("its layers run in another order for other images")
    counts = [len(batch) for batch in batches]
    for key, call in first.items():
        call.output = _described([call, *(other[key] for other in others)], counts)
    return first


class _Recorder:
    """Records one pass by hooks, which are removed afterwards."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._open: list[Call] = []
        self._numbers: Counter[str] = Counter()
        self.fixed = True
        self.recorded: Calls = {}

    def calls(self, images: Tensor) -> Calls:
        """The calls of a pass over some images."""
        random = _random_states(images.device)
        with self._hooks(random, images.device), _Decisions(self):
            self._network(images)
        return self.recorded

    @contextmanager
    def _hooks(self, random: list[Tensor], device: torch.device) -> Iterator[None]:
        handles = []
        try:
            for path, module in self._network.named_modules():
                if path:
                    handles.append(module.register_forward_pre_hook(self._starts(path), prepend=True))
                    handles.append(module.register_forward_hook(self._finishes(random, device)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _starts(self, path: str) -> Any:
        def start(_module: nn.Module, _inputs: Any) -> None:
            self._open.append(Call(Key(path, self._numbers[path]), self._open[-1] if self._open else None))
            self._numbers[path] += 1

        return start

    def _finishes(self, random: list[Tensor], device: torch.device) -> Any:
        def finish(module: nn.Module, _inputs: Any, returned: Any) -> None:
            call = self._open.pop()
            call.order = len(self.recorded)
            self.recorded[call.key] = call
            leaves, tree = pytree.tree_flatten(returned)
            tensors = {place: leaf for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)}
            self.fixed = (
                self.fixed
                and is_fixed(module)
                and not any(value.requires_grad for value in tensors.values())
                and all(map(torch.equal, random, _random_states(device)))
            )
            call.fixed = self.fixed
            call.values = {place: value.detach() for place, value in tensors.items()}
            call.output = Output(tree, tuple(leaves))

        return finish


class _Decisions(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notices that a network's code reads a value, by which it may decide for all images together."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._recorder = recorder

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].dtype not in _COUNTS:
            self._recorder.fixed = False
        return func(*args, **(kwargs or {}))


def _random_states(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def _described(calls: Sequence[Call], counts: Sequence[int]) -> Output | None:
    """What the same call returns in passes over different numbers of images."""
    outputs = [call.output for call in calls]
    first = outputs[0]
    if first is None or any(other is None or other.tree != first.tree for other in outputs):
        return None
    leaves: list[Any] = []
    for values in zip(*(output.leaves for output in outputs if output is not None), strict=True):
        if all(isinstance(value, Tensor) for value in values):
            spec = _tensor_spec(values, counts)
            if spec is None:
                return None
            leaves.append(spec)
        elif isinstance(values[0], _PLAIN) and all(value == values[0] for value in values):
            leaves.append(values[0])
        else:
            return None
    return Output(first.tree, tuple(leaves))


def _tensor_spec(values: Sequence[Tensor], counts: Sequence[int]) -> TensorSpec | None:
    """None where its shape depends on the images in another way than by their number."""
    if len({(value.ndim, value.dtype, value.layout) for value in values}) > 1 or values[0].layout != torch.strided:
        return None
    sizes: list[tuple[int, bool]] = []
    for found in zip(*(value.shape for value in values), strict=True):
        if len(set(found)) == 1:
            sizes.append((found[0], False))
        elif len({size / count for size, count in zip(found, counts, strict=True)}) == 1 and not found[0] % counts[0]:
            sizes.append((found[0] // counts[0], True))
        else:
            return None
    return TensorSpec(tuple(sizes), values[0].dtype)
