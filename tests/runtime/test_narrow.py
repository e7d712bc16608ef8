"""Linear layers for few rows give what PyTorch's give, and leave gradients and other layers alone."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from pastalm.runtime.narrow import ROWS, NarrowLinear, narrow


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1,), (2,), (5,), (8,), (9,), (1, 1), (1, 3), (4, 2), (2, 4), (3, 5), (0,)])
def test_the_same_product(bias: bool, shape: tuple[int, ...]):
    layer = nn.Linear(12, 20, bias=bias)
    own = copy.deepcopy(layer)
    narrow(own)
    x = torch.randn(*shape, 12)
    with torch.inference_mode():
        assert torch.allclose(own(x), layer(x), atol=1e-6) and own(x).is_contiguous()
        assert torch.allclose(own(x.mT.contiguous().mT), layer(x), atol=1e-6)
    assert own(x).requires_grad


def test_the_same_product_in_bfloat16():
    layer = nn.Linear(64, 20).to(torch.bfloat16)
    own = copy.deepcopy(layer)
    narrow(own)
    assert isinstance(own, NarrowLinear)
    with torch.inference_mode():
        for rows in (1, 2, 7, 16, 40):
            x = torch.randn(rows, 64).to(torch.bfloat16)
            torch.testing.assert_close(own(x), layer(x), atol=2e-2, rtol=2e-2)


def test_few_rows_go_their_own_way(monkeypatch: pytest.MonkeyPatch):
    asked: list[int] = []
    monkeypatch.setattr(nn.functional, "linear", lambda x, *_: asked.append(len(x)))
    layer = nn.Linear(4, 4)
    narrow(layer)
    with torch.no_grad():
        for rows in range(1, 12):
            layer(torch.randn(rows, 4))
    assert asked == [rows for rows in range(1, 12) if rows not in ROWS[torch.float32]]


class Odd(nn.Linear):
    """Somebody's own kind of linear layer."""


def test_other_layers_stay():
    model = nn.Sequential(Odd(3, 3), nn.Linear(3, 3).to(torch.float16), nn.Linear(3, 3))
    narrow(model)
    assert [type(layer) for layer in model] == [Odd, nn.Linear, NarrowLinear]
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(again[2].weight, model[2].weight) and model.state_dict().keys() == again.state_dict().keys()
