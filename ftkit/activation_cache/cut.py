"""Where a network can be cut in two: before the cut nothing trains and nothing is random, so that it need be computed
once for an image, and after it stands all that trains.

The network is traced, the longest such beginning is found in the graph, and both parts are tried on images before
they are used: together they must give what the network gives, bit for bit, in evaluation and in training alike. The
parts hold the network's own modules: to train the rest is to train the network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from ftkit.activation_cache.trace import Trace
from ftkit.errors import one_line
from ftkit.models.compute.memory_format import restored
from ftkit.models.identity import graph_identity
from ftkit.models.logits import split_outputs
from ftkit.models.parameter_groups import Modes, modes_of

_RANDOM = ("dropout", "drop_path", "stochastic_depth", "rand", "bernoulli", "multinomial", "normal", "exponential")
"""In the names of functions that draw random numbers; those that say `training=False` draw none."""
_DEEPEST = 3
"""How many places are tried, from the deepest on; what fails at three fails at all that were seen."""


class NoCutError(Exception):
    """The network can't be cut; says why."""


@dataclass(frozen=True)
class Cut:
    """A network in two parts.

    Attributes:
        name: The last layer before the cut, as the network calls it.
        depth: How far down the evaluation graph it lies; of two cuts the one with the greater depth needs the other's.
        trained: From the cut to the outputs, as in training.
        eval_network: The same, as in evaluation.
        shape: Of one image's value at the cut.
        dtype: Of that value.
    """

    name: str
    depth: int
    train_suffix: nn.Module
    eval_suffix: nn.Module
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Of one image's value."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


@contextmanager
def _faults(what: str) -> Iterator[None]:
    """Makes of any error a reason why there is no cut.

    The network's own code runs here with what stands for tensors, in parts and in other modes than it was written for,
    and may raise anything. A run does without the cache then: nothing is lost but time, and the reason is reported.
    """
    try:
        yield
    except NoCutError:
        raise
    except Exception as error:
        text = one_line(" ".join(str(error).split())[:200])
        raise NoCutError(f"{what}: {type(error).__name__}{': ' if text else ''}{text}") from error


class CutFinder:
    """Cuts one network, again and again as its layers thaw.

    Args:
        sample: Images to try the parts on, `(2, channels, size, size)`, on the network's device.
        autocast: Makes the context that the network computes in.

    Raises:
        NoCutError: The network can't be traced.
    """

    def __init__(self, network: nn.Module, sample: Tensor, autocast: Any) -> None:
        self._network = network
        self._sample = sample
        self._autocast = autocast
        with _faults("it can't be traced"):
            self._eval = self._traced()
        self._places = {path: node for node, path in self._eval.paths.items()}
        self._prefixes: dict[tuple[str, ...], fx.GraphModule] = {}

    def cut(self, modes: Modes) -> Cut:
        """The deepest cut for what trains now.

        Args:
            modes: Of the phase, as `set_trainable` gives them; they are in force again afterwards.

        Raises:
            NoCutError: No beginning of the network is fixed, or none can be told apart.
        """
        try:
            modes.apply()
            with _faults("it can't be traced"):
                train = Trace(self._network)
                fixed = train.cuts(_Fixed(train))
            places = [node for node in fixed if train.paths[node] in self._places]
            if not places:
                raise NoCutError("its first layers train, or draw random numbers")
            failed: list[NoCutError] = []
            for node in places[: -_DEEPEST - 1 : -1]:
                try:
                    with _faults(f"the parts at {train.paths[node]} can't be computed"):
                        return self._try_cut(train, node, modes)
                except NoCutError as error:
                    failed.append(error)
            raise failed[0]
        finally:
            modes.apply()

    def cut_at(self, name: str) -> Cut:
        """The cut after a layer of a network in eval mode, which is only evaluated: both its ends are the same.

        Raises:
            NoCutError: It can't be cut there.
        """
        node = self._places.get(name)
        if node is None or not self._eval.alone(node):
            raise NoCutError(f"{name or 'nothing'} is no place at which it can be cut")
        with _faults(f"the parts at {name} can't be computed"):
            with restored(self._network), torch.no_grad(), self._autocast():
                value, eval_suffix = self._eval_suffix(node, name)
            return Cut(name, self._eval.order[node], eval_suffix, eval_suffix, tuple(value.shape[1:]), value.dtype)

    def depth(self, name: str) -> int:
        """How far down a layer lies; -1 where there is none of that name."""
        node = self._places.get(name)
        return -1 if node is None else self._eval.order[node]

    def prefix(self, names: Sequence[str]) -> fx.GraphModule:
        """The beginning of the network that gives the values at some cuts, as a tuple in their order; in eval mode.

        Raises:
            NoCutError: It can't be taken out of the network.
        """
        key = tuple(names)
        if key not in self._prefixes:
            with _faults(f"what comes before {', '.join(names)} can't be taken out of it"):
                self._prefixes[key] = self._build_prefix(names)
        self._prefixes[key].eval()
        return self._prefixes[key]

    def _build_prefix(self, names: Sequence[str]) -> fx.GraphModule:
        nodes = [self._places[name] for name in names]
        graph, kept = fx.Graph(), dict[fx.Node, fx.Node]()
        last = max(self._eval.order[node] for node in nodes)
        values = dict[fx.Node, fx.Node]()
        for node in self._eval.nodes[: last + 1]:
            kept[node] = graph.node_copy(node, kept.__getitem__)
            if node in nodes:
                # Later layers may work in place.
                values[node] = (
                    graph.call_method("clone", (kept[node],)) if self._eval.order[node] < last else kept[node]
                )
        graph.output(tuple(values[node] for node in nodes))
        prefix = self._eval.module(graph)
        prefix.graph.eliminate_dead_code()
        prefix.recompile()
        prefix.delete_all_unused_submodules()
        return prefix

    def state(self, name: str) -> Iterator[tuple[str, Tensor]]:
        """Names and values of the parameters and buffers that a cut's value depends on, saved with a model or not."""
        prefix = self.prefix([name])
        yield from sorted(prefix.named_parameters(remove_duplicate=False))
        yield from sorted(prefix.named_buffers(remove_duplicate=False))

    def identity(self, name: str) -> str:
        """Digits for all else that a cut's value depends on: program, modules and their settings."""
        return graph_identity(self.prefix([name]))

    def _traced(self) -> Trace:
        modes = modes_of(self._network)
        try:
            # A network may keep in eval mode what it made of its weights; train() lets go of that.
            self._network.train().eval()
            return Trace(self._network)
        finally:
            modes.apply()

    def _try_cut(self, train: Trace, node: fx.Node, modes: Modes) -> Cut:
        """The cut after a node.

        Raises:
            NoCutError: There can't be one.
        """
        name = train.paths[node]
        in_eval = self._places[name]
        if not self._eval.alone(in_eval):
            raise NoCutError(f"{name} is not all that its later layers see in evaluation")
        train_suffix = train.suffix(node)
        modes.apply()
        with restored(self._network), torch.no_grad(), self._autocast():
            whole = _seeded(self._network, self._sample)
            value = self._value(name)
            modes.apply()
            if not _same(whole, _seeded(train_suffix, value.clone())):
                raise NoCutError(f"the parts at {name} don't give in training what the network gives")
            self._network.eval()
            value, eval_suffix = self._eval_suffix(in_eval, name)
        return Cut(name, self._eval.order[in_eval], train_suffix, eval_suffix, tuple(value.shape[1:]), value.dtype)

    def _eval_suffix(self, node: fx.Node, name: str) -> tuple[Tensor, nn.Module]:
        """The sample's value at a node of the network in eval mode, and what comes after it."""
        value, eval_suffix = self._value(name), self._eval.suffix(node)
        if not _same(_seeded(self._network, self._sample), _seeded(eval_suffix, value.clone())):
            raise NoCutError(f"the parts at {name} don't give what the network gives")
        return value, eval_suffix

    def _value(self, name: str) -> Tensor:
        (value,) = self.prefix([name])(self._sample)
        if not isinstance(value, Tensor) or value.ndim < 2 or len(value) != len(self._sample):
            raise NoCutError(f"{name} doesn't give one value for each image")
        return value


class _Fixed:
    """Whether a node of a graph, given fixed inputs, is fixed itself, in the network's modes of the moment."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._network = trace.network

    def __call__(self, node: fx.Node) -> bool:
        if node.op == "placeholder":
            return True
        if node.op == "get_attr":
            value = self._trace.attribute(str(node.target))
            return not (isinstance(value, Tensor) and value.requires_grad)
        if node.op == "call_module":
            module = self._network.get_submodule(str(node.target))
            if any(parameter.requires_grad for parameter in module.parameters()):
                return False
            return not any(part.training and _minds_training(part) for part in module.modules())
        if node.op in ("call_function", "call_method"):
            name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
            return not any(word in name for word in _RANDOM) or node.kwargs.get("training") is False
        return False


def _minds_training(module: nn.Module) -> bool:
    """Whether a module may do something else in training: it keeps statistics, or draws random numbers."""
    own = (
        next(module.buffers(recurse=False), None) is not None
        or next(module.parameters(recurse=False), None) is not None
    )
    return own or any(word in type(module).__name__.lower() for word in ("drop", *_RANDOM))


def _seeded(module: nn.Module, value: Tensor) -> list[Tensor]:
    """A module's outputs, with the random numbers that it would draw after any other call."""
    torch.manual_seed(0)
    logits, auxiliary = split_outputs(module(value))
    return [logits, *auxiliary]


def _same(ones: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """Whether the values are the same to the bit; what is not a number counts as equal to itself."""
    pairs = zip(ones, others, strict=False)
    return len(ones) == len(others) and all(
        one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True) for one, other in pairs
    )
