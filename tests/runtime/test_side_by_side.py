"""Products of one input are joined in a graph, and the graph computes what it did."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from pastalm.runtime.narrow import multiply
from pastalm.runtime.quantize import packed
from pastalm.runtime.side_by_side import SideBySide

pytestmark = pytest.mark.usefixtures("built")


def product(x: Tensor, weight: Tensor) -> Tensor:
    return torch.ops.pastalm.linears(x, [weight], [], [weight])


def joined(function: Callable[..., Tensor], *given: Tensor) -> tuple[GraphModule, int]:
    """The graph of a function after the pass, and how many products are left."""
    module = make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)(*given)
    SideBySide()(module.graph)
    module.graph.lint()
    module.recompile()
    left = sum("linears" in str(node.target) for node in module.graph.nodes)
    torch.testing.assert_close(module(*given), function(*given), atol=1e-5, rtol=0)
    return module, left


def test_products_of_one_input_become_one() -> None:
    x, *weights = torch.randn(3, 32), torch.randn(16, 32), torch.randn(8, 32), torch.randn(5, 32)

    def function(x: Tensor, *weights: Tensor) -> Tensor:
        return torch.cat([product(x, weight) * number for number, weight in enumerate(weights, 1)], 1)

    module, left = joined(function, x, *weights)
    assert left == 1
    shapes = [tuple(node.meta["val"].shape) for node in module.graph.nodes if "slice" in str(node.target)]
    assert shapes == [(3, 16), (3, 8), (3, 5)]


def test_an_input_that_is_reshaped_for_each_product_is_one_input() -> None:
    """As the layers of a model do."""
    x, one, two = torch.randn(1, 3, 32), torch.randn(16, 32), torch.randn(8, 32)

    def function(x: Tensor, one: Tensor, two: Tensor) -> Tensor:
        return torch.cat([multiply(x, weight, None, weight, None) for weight in (one, two)], -1)

    assert joined(function, x, one, two)[1] == 1


def test_weights_that_are_read_later_are_brought_forward_and_shared_ones_stay() -> None:
    """Weights of a module are nodes of their own, which stand where they are first read."""
    x, held = torch.randn(2, 32), [torch.randn(16, 32) for _ in range(2)]

    def function(x: Tensor) -> Tensor:
        both = product(x, held[0]) + product(x, held[1])
        double = x * 2
        return both + product(double, held[1]) + product(double, held[0])

    assert joined(function, x)[1] == 2


def test_others_stay_as_they_are() -> None:
    """Other inputs, other types of weights, and weights that are computed on the way."""
    x, one, two = torch.randn(2, 32), torch.randn(16, 32), torch.randn(16, 32)
    assert joined(lambda x, one, two: product(x, one) + product(x + 1, two), x, one, two)[1] == 2
    assert joined(lambda x, one, two: product(x, one) + product(x, two * 2), x, one, two)[1] == 2
    scale = torch.rand(16)

    def mixed(x: Tensor, one: Tensor, two: Tensor, scale: Tensor) -> Tensor:
        return product(x, one) + torch.ops.pastalm.linears(x, [two], [scale], [one])

    assert joined(mixed, x, one, packed(torch.randint(-9, 9, (16, 32), dtype=torch.int8)), scale)[1] == 2
