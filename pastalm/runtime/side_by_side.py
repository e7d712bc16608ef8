"""Products of one input, side by side: queries, keys and values of a layer become one product, gate and up another.

Each product by our own kernels is shared among the threads of the processor, and each sharing costs some microseconds:
fewer and larger ones are faster, and no model has to be rewritten for it. A graph that is compiled is changed, so it
works for any family.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
from torch.fx import Graph, Node

VIEWS = (torch.ops.aten.view.default, torch.ops.aten.reshape.default, torch.ops.aten._unsafe_view.default)


class SideBySide(CustomGraphPass):
    """Joins the products of a graph that multiply the same input with weights of the same type."""

    def __call__(self, graph: Graph) -> None:
        """Change ``graph`` in place."""
        groups: dict[tuple[object, ...], list[Node]] = defaultdict(list)
        for node in graph.nodes:
            if node.op == "call_function" and str(node.target) == "pastalm.linears.default":
                groups[_kind(*node.args)].append(node)
        for nodes in groups.values():
            if len(nodes) > 1 and all(_constant(node) for node in nodes[1:]):
                _join(graph, nodes)

    def uuid(self) -> bytes:
        """What compiled code on disk depends on besides the graph."""
        return get_hash_for_files((str(Path(__file__)),))


def _kind(x: Any, weights: Any, scales: Any, _: Any) -> tuple[object, ...]:
    """What products must have in common: the input, however it came to its shape, and the type of the weights."""
    shape = str(x.meta["val"].shape)  # sizes that are not known yet have no hash
    while x.op == "call_function" and x.target in VIEWS:
        x = x.args[0]
    return x, shape, len(scales), weights[0].meta["val"].dtype


def _constant(node: Node) -> bool:
    """Whether the product's weights are there before anything is computed."""
    return all(given.op in ("get_attr", "placeholder") for given in node.all_input_nodes if given is not node.args[0])


def _join(graph: Graph, nodes: Sequence[Node]) -> None:
    first = nodes[0]
    for node in nodes[1:]:
        for given in node.all_input_nodes:
            if given.op == "get_attr" and first < given:
                first.prepend(given)
    products: list[Any] = [node.args for node in nodes]
    lists = [[one for product in products for one in product[place]] for place in (1, 2, 3)]
    ends = [0, *accumulate(node.meta["val"].shape[1] for node in nodes)]
    with graph.inserting_before(first):
        whole = _call(graph, first.target, (first.args[0], *lists))
        for node, begin, end in zip(nodes, ends[:-1], ends[1:], strict=True):
            node.replace_all_uses_with(_call(graph, torch.ops.aten.slice.Tensor, (whole, 1, begin, end)))
    for node in nodes:
        graph.erase_node(node)
    graph.eliminate_dead_code()


def _call(graph: Graph, target: Any, given: tuple[Any, ...]) -> Node:
    """A call, with the shape of its result beside it."""
    made = graph.call_function(target, given)
    made.meta["val"] = target(*torch.fx.map_arg(given, lambda node: node.meta["val"]))
    return made
