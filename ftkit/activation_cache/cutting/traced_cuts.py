"""Cuts by the network's graph.

In the prefix nothing trains and nothing is random. The network is traced, the longest prefix is found in the graph, and
both parts are tried on images: together they must compute what the network computes, bit for bit, in evaluation and in
training. The parts hold the network's own modules, so training the suffix trains the network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from ftkit.activation_cache.cutting.cut import RANDOM, Cut, NoCutError, faults, is_fixed, same, seeded
from ftkit.activation_cache.cutting.trace import Trace
from ftkit.models.compute.memory_format import preserve_state
from ftkit.models.identity import graph_identity
from ftkit.models.parameter_groups import Modes, modes_of

_DEEPEST = 3
"""Places that are tried, from the deepest on. No network is known that fails at three and works at another."""


class TracedCuts:
    """Finds cuts of one network, for each set of trainable layers.

    Args:
        sample: Images to try the parts on, `(2, channels, size, size)`, on the network's device.
        autocast: Returns the context that the network computes in.

    Raises:
        NoCutError: The network can't be traced.
    """

    def __init__(self, network: nn.Module, sample: Tensor, autocast: Any) -> None:
        self._network = network
        self._sample = sample
        self._autocast = autocast
        with faults("it can't be traced"):
            self._eval = self._traced()
        self._places = {path: node for node, path in self._eval.paths.items()}
        self._prefixes: dict[tuple[str, ...], fx.GraphModule] = {}

    def cut(self, modes: Modes) -> Cut:
        """The deepest cut for the layers that train now.

        Args:
            modes: The phase's modes, as `set_trainable` gives them; they are in force again afterwards.

        Raises:
            NoCutError: No layer comes before all that trains, or the parts don't compute what the network computes.
        """
        try:
            modes.apply()
            with faults("it can't be traced"):
                train = Trace(self._network)
                fixed = train.cuts(_Fixed(train))
            places = [node for node in fixed if train.paths[node] in self._places]
            if not places:
                raise NoCutError("its first layers train, or draw random numbers")
            failed: list[NoCutError] = []
            for node in places[: -_DEEPEST - 1 : -1]:
                try:
                    with faults(f"the parts at {train.paths[node]} can't be computed"):
                        return self._try_cut(train, node, modes)
                except NoCutError as error:
                    failed.append(error)
            raise failed[0]
        finally:
            modes.apply()

    def cut_at(self, name: str) -> Cut:
        """The cut after a layer of a network that is only evaluated; both suffixes are the same.

        Raises:
            NoCutError: It can't be cut there.
        """
        node = self._places.get(name)
        if node is None or not self._eval.is_only_link(node):
            raise NoCutError(f"it can't be cut after {name or 'nothing'}")
        with faults(f"the parts at {name} can't be computed"):
            with preserve_state(self._network), torch.no_grad(), self._autocast():
                value, eval_suffix = self._suffix(node, name)
            return Cut(name, self._eval.order[node], eval_suffix, eval_suffix, tuple(value.shape[1:]), value.dtype)

    def depth(self, name: str) -> int:
        """Position of a layer in the evaluation graph; -1 where there is no such layer."""
        node = self._places.get(name)
        return -1 if node is None else self._eval.order[node]

    def prefix(self, names: Sequence[str]) -> fx.GraphModule:
        """The part of the network that computes the activations at some cuts, as a tuple in their order; in eval mode.

        Raises:
            NoCutError: It can't be extracted from the network.
        """
        key = tuple(names)
        if key not in self._prefixes:
            with faults(f"the part before {', '.join(names)} can't be extracted"):
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
                # Later layers may change their inputs in place.
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
        """Names and values of a prefix's parameters and buffers, including those that no state dict holds."""
        prefix = self.prefix([name])
        yield from sorted(prefix.named_parameters(remove_duplicate=False))
        yield from sorted(prefix.named_buffers(remove_duplicate=False))

    def identity(self, name: str) -> str:
        """Digest of all else that a prefix computes with: program, modules and their settings."""
        return graph_identity(self.prefix([name]))

    def _traced(self) -> Trace:
        modes = modes_of(self._network)
        try:
            # A network may keep tensors computed from its weights in eval mode; train() drops them.
            self._network.train().eval()
            return Trace(self._network)
        finally:
            modes.apply()

    def _try_cut(self, train: Trace, node: fx.Node, modes: Modes) -> Cut:
        """The cut after a node.

        Raises:
            NoCutError: The parts don't compute what the network computes.
        """
        name = train.paths[node]
        in_eval = self._places[name]
        if not self._eval.is_only_link(in_eval):
            raise NoCutError(f"in evaluation, later layers use more than the output of {name}")
        train_suffix = train.suffix(node)
        modes.apply()
        with preserve_state(self._network), torch.no_grad(), self._autocast():
            whole = self._outputs_and_buffers(self._network, self._sample)
            value = self._value(name)
            modes.apply()
            # A trace doesn't have what a network's own code does to buffers, such as counting batches.
            if not same(whole, self._outputs_and_buffers(train_suffix, value.clone())):
                raise NoCutError(f"the parts at {name} don't compute in training what the network does")
            self._network.eval()
            value, eval_suffix = self._suffix(in_eval, name)
        return Cut(name, self._eval.order[in_eval], train_suffix, eval_suffix, tuple(value.shape[1:]), value.dtype)

    def _outputs_and_buffers(self, module: nn.Module, value: Tensor) -> list[Tensor]:
        """The outputs of the network or a part of it, and the network's buffers after that, which are then restored."""
        with preserve_state(self._network):
            return [*seeded(module, value), *(buffer.clone() for buffer in self._network.buffers())]

    def _suffix(self, node: fx.Node, name: str) -> tuple[Tensor, nn.Module]:
        """The sample's activations at a node of the network in eval mode, and the suffix after it."""
        value, eval_suffix = self._value(name), self._eval.suffix(node)
        if not same(seeded(self._network, self._sample), seeded(eval_suffix, value.clone())):
            raise NoCutError(f"the parts at {name} don't compute what the network does")
        return value, eval_suffix

    def _value(self, name: str) -> Tensor:
        (value,) = self.prefix([name])(self._sample)
        if not isinstance(value, Tensor) or value.ndim < 2 or len(value) != len(self._sample):
            raise NoCutError(f"{name} has no output for each image")
        return value


class _Fixed:
    """Whether the output of a node is fixed where its inputs are, in the network's current modes."""

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
            return is_fixed(self._network.get_submodule(str(node.target)))
        if node.op in ("call_function", "call_method"):
            name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
            return not any(word in name for word in RANDOM) or node.kwargs.get("training") is False
        return False
