"""A network's graph, traced without changing the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import fx, nn

from ftkit.models.compute.memory_format import preserve_state

_CONSTANT = "_tensor_constant"
"""Start of the names that torch.fx gives to tensors which no module owns."""


class Trace:
    """A network's graph in its current modes.

    Attributes:
        nodes: The nodes in the order of the graph.
        order: Position of each node.
        paths: Name of each node that a module computes: `layer3.1.relu_1`.

    Raises:
        Exception: Anything that the network's code raises on proxies of tensors.
    """

    def __init__(self, network: nn.Module) -> None:
        # Imported here, since it takes as long as importing torchvision.
        from torchvision.models.feature_extraction import NodePathTracer, _get_leaf_modules_for_ops

        tracer = NodePathTracer(leaf_modules=_get_leaf_modules_for_ops())
        with preserve_state(network), attributes_restored(network):
            graph = tracer.trace(network)
            self._constants = {name: value for name, value in vars(network).items() if name.startswith(_CONSTANT)}
        self.network = network
        self.nodes = list(graph.nodes)
        self.order = {node: place for place, node in enumerate(self.nodes)}
        self.paths: Mapping[fx.Node, str] = dict(tracer.node_to_qualname)
        self._last = {node: max((self.order[user] for user in node.users), default=-1) for node in self.nodes}

    def attribute(self, target: str) -> Any:
        """The value of a `get_attr` node."""
        if target in self._constants:
            return self._constants[target]
        owner, _, name = target.rpartition(".")
        return getattr(self.network.get_submodule(owner), name)

    def cuts(self, fixed: Callable[[fx.Node], bool]) -> list[fx.Node]:
        """Nodes after which the graph can be cut, the deepest last.

        Args:
            fixed: Whether the output of a node is fixed where its inputs are.
        """
        found: list[fx.Node] = []
        sure: set[fx.Node] = set()
        for node in self.nodes:
            if not (all(source in sure for source in node.all_input_nodes) and fixed(node)):
                break
            sure.add(node)
            if (
                node.op in ("call_module", "call_function", "call_method")
                and node in self.paths
                and self.is_only_link(node)
            ):
                found.append(node)
        return found

    def is_only_link(self, node: fx.Node) -> bool:
        """Whether later nodes use no earlier output but this node's; parameters and buffers don't count."""
        place = self.order[node]
        before = (other for other in self.nodes[:place] if other.op != "get_attr")
        return self._last[node] > place and all(self._last[other] <= place for other in before)

    def suffix(self, node: fx.Node) -> nn.Module:
        """The part after a node, as a module that takes the node's output."""
        graph, kept = fx.Graph(), dict[fx.Node, fx.Node]()
        kept[node] = graph.placeholder("activations")
        place = self.order[node]
        for other in self.nodes:
            later = self.order[other] > place
            if later or (other.op == "get_attr" and self._last[other] > place):
                kept[other] = graph.node_copy(other, kept.__getitem__)
        return self.module(graph)

    def module(self, graph: fx.Graph) -> fx.GraphModule:
        """A part of the graph as a module with the network's own parameters and buffers."""
        vars(self.network).update(self._constants)
        try:
            return fx.GraphModule(self.network, graph)
        finally:
            for name in self._constants:
                del vars(self.network)[name]


@contextmanager
def attributes_restored(network: nn.Module) -> Iterator[None]:
    """Restores the attributes of all modules, including the content of lists, sets and dictionaries in them.

    While a network is traced, its code may store proxies of tensors, as LeViT does with its attention biases in eval
    mode; it could no longer compute.
    """
    before = [(vars(module), _content(vars(module), set())) for module in network.modules()]
    try:
        yield
    finally:
        for attributes, content in before:
            _restore_content(attributes, content)


def _content(value: Any, seen: set[int]) -> Any:
    """The items of a container, each with its own content; None for other values."""
    if not isinstance(value, dict | list | set) or id(value) in seen:
        return None
    seen.add(id(value))
    if isinstance(value, set):
        return set(value)
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return [(key, item, _content(item, seen)) for key, item in items]


def _restore_content(container: Any, content: Any) -> None:
    if isinstance(container, set):
        container.clear()
        container.update(content)
        return
    items = [(key, item) for key, item, _ in content]
    if isinstance(container, dict):
        container.clear()
        container.update(items)
    else:
        container[:] = [item for _, item in items]
    for _, item, inner in content:
        if inner is not None:
            _restore_content(item, inner)
