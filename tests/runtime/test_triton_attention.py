"""The decode kernel against the arithmetic written out, by Triton's interpreter where there is no GPU."""

from __future__ import annotations

from math import inf

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="the kernel needs Triton")

from pastalm.runtime.triton_attention import decode_attention, pack_bits

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def reference(
    q: Tensor, k: Tensor, v: Tensor, visible: Tensor, scale: float, softcap: float = 0.0, sinks: Tensor | None = None
) -> Tensor:
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1).float(), v.repeat_interleave(group, 1).float()
    scores = q.float() @ k.transpose(-1, -2) * scale
    if softcap:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores.masked_fill(~visible[:, None], -inf)
    if sinks is not None:
        column = sinks.float()[None, :, None, None].expand(*scores.shape[:3], 1)
        return (torch.cat([scores, column], -1).softmax(-1)[..., :-1]) @ v
    return scores.softmax(-1) @ v


def case(
    batch: int, heads: int, key_heads: int, threads: int, slots: int, width: int, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Queries, keys, values, what is visible and how many slots are used; unused slots hold noise that would show."""
    make = torch.Generator().manual_seed(seed)
    q = torch.randn(batch, heads, threads, width, generator=make)
    k, v = (torch.randn(batch, key_heads, slots, width, generator=make) * 3 for _ in range(2))
    used = torch.randint(1, slots + 1, (batch,), generator=make, dtype=torch.int32)
    visible = torch.rand(batch, threads, slots, generator=make) < 0.4
    visible &= torch.arange(slots) < used[:, None, None]
    visible[:, :, 0] = True
    return (*(one.to(DEVICE) for one in (q, k, v, visible)), used.to(DEVICE))  # type: ignore[return-value]


SHAPES = [
    (1, 4, 4, 1, 40, 16),
    (1, 9, 3, 4, 130, 64),  # SmolLM2's heads
    (2, 14, 2, 8, 200, 64),  # Qwen 2.5's: a group of seven
    (3, 8, 1, 32, 97, 32),  # more rows than a tile
    (2, 4, 2, 3, 64, 128),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("splits", [1, 3, 8])
def test_equals_the_arithmetic(shape: tuple[int, ...], splits: int) -> None:
    q, k, v, visible, used = case(*shape)
    found = decode_attention(q, k, v, pack_bits(visible), used, 0.2, splits=splits)
    assert torch.allclose(found, reference(q, k, v, visible, 0.2), atol=1e-5)


def test_softcap_and_sinks() -> None:
    q, k, v, visible, used = case(2, 8, 4, 5, 100, 32)
    sinks = torch.randn(8, device=DEVICE)
    found = decode_attention(q, k, v, pack_bits(visible), used, 0.3, softcap=5.0, sinks_H=sinks)
    assert torch.allclose(found, reference(q, k, v, visible, 0.3, 5.0, sinks), atol=1e-5)


def test_a_row_that_sees_nothing_but_its_sink_gives_zero() -> None:
    q, k, v, visible, used = case(1, 2, 2, 2, 70, 16)
    visible[:] = False
    found = decode_attention(q, k, v, pack_bits(visible), used, 0.3, sinks_H=torch.zeros(2, device=DEVICE))
    assert (found == 0).all()


def test_layers_may_be_parts_of_a_larger_cache() -> None:
    """Rows of the batch and slots of the cache that are not next to each other are read where they lie."""
    q, k, v, visible, used = case(2, 4, 2, 4, 60, 16)
    wide = torch.full((4, 2, 100, 16), 7.0, device=DEVICE)
    wide_k, wide_v = wide.clone(), wide.clone()
    wide_k[1:3, :, :60], wide_v[1:3, :, :60] = k, v
    found = decode_attention(q, wide_k[1:3, :, :60], wide_v[1:3, :, :60], pack_bits(visible), used, 0.2)
    assert torch.allclose(found, reference(q, k, v, visible, 0.2), atol=1e-5)


def test_half_precision() -> None:
    dtype = torch.bfloat16 if DEVICE == "cuda" else torch.float16  # the interpreter multiplies no bfloat16
    q, k, v, visible, used = case(1, 4, 2, 4, 90, 32)
    q, k, v = (one.to(dtype) for one in (q, k, v))
    found = decode_attention(q, k, v, pack_bits(visible), used, 0.1)
    assert found.dtype == dtype
    assert torch.allclose(found.float(), reference(q, k, v, visible, 0.1), atol=5e-2)


@pytest.mark.parametrize("slots", [1, 31, 32, 33, 100])
def test_bits_hold_what_is_visible(slots: int) -> None:
    visible = torch.rand(2, 3, slots, generator=torch.Generator().manual_seed(slots)) < 0.5
    words = pack_bits(visible)
    assert words.shape[-1] == -(-slots // 32)
    unpacked = [[[(int(row[s // 32]) >> (s % 32)) & 1 for s in range(slots)] for row in rows] for rows in words]
    assert torch.equal(torch.tensor(unpacked, dtype=torch.bool), visible)


def test_a_width_that_no_tensor_core_takes_is_refused() -> None:
    q, k, v, visible, used = case(1, 2, 2, 2, 20, 24)
    with pytest.raises(ValueError, match="power of two from 16 up, not 24"):
        decode_attention(q, k, v, pack_bits(visible), used, 0.2)
