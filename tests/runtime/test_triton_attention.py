"""The decode kernel against the arithmetic written out, by Triton's interpreter where there is no GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from math import inf

import pytest
import torch
from torch import Tensor

from tests.runtime.triton_on_cpu import DEVICE, loops  # isort: skip  # noqa: F401  (it needs Triton, or skips)

from pastalm.runtime.triton_attention import Window, decode_attention, pack_bits, splits_for


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
    (1, 14, 2, 8, 130, 64),  # Qwen 2.5's: a group of seven
    (2, 6, 1, 12, 65, 32),  # more rows than a tile
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
    assert (decode_attention(q, k, v, pack_bits(visible), used, 0.3) == 0).all(), "nor does one without a sink"
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


@pytest.mark.parametrize("width, value_width", [(24, 24), (8, 8), (32, 16)])
def test_heads_may_have_any_width(width: int, value_width: int) -> None:
    q, k, v, visible, used = case(1, 4, 2, 3, 80, width)
    v = v[..., :value_width].contiguous()
    found = decode_attention(q, k, v, pack_bits(visible), used, 0.2)
    assert torch.allclose(found, reference(q, k, v, visible, 0.2), atol=1e-5)


def test_requests_may_have_any_rows_of_the_cache() -> None:
    q, k, v, visible, used = case(2, 4, 2, 3, 70, 16)
    rows = torch.tensor([4, 1], device=DEVICE)
    wide_k, wide_v = (torch.full((6, *one.shape[1:]), 7.0, device=DEVICE) for one in (k, v))
    wide_k[rows], wide_v[rows] = k, v
    found = decode_attention(q, wide_k, wide_v, pack_bits(visible), used, 0.2, rows_B=rows)
    assert torch.allclose(found, reference(q, k, v, visible, 0.2), atol=1e-5)


def test_windows_go_by_positions() -> None:
    q, k, v, visible, used = case(2, 4, 2, 5, 70, 16)
    make = torch.Generator().manual_seed(1)
    key_positions = torch.randint(0, 30, (2, 70), generator=make).to(DEVICE)
    positions = torch.randint(0, 30, (2, 5), generator=make).to(DEVICE)
    key_positions[:, 0] = 30  # each row sees a slot
    window = Window(8, positions, key_positions)
    near = positions[:, :, None] - key_positions[:, None] < 8
    assert not near.all()
    found = decode_attention(q, k, v, pack_bits(visible), used, 0.2, window=window)
    assert torch.allclose(found, reference(q, k, v, visible & near, 0.2), atol=1e-5)


def test_few_programs_read_a_long_cache_in_parts() -> None:
    assert [splits_for(2, blocks) for blocks in (1, 3, 50, 4096)] == [1, 2, 32, 64]
    assert [splits_for(programs, 128) for programs in (8, 24, 256, 1000)] == [32, 8, 1, 1]


@pytest.mark.slow
@pytest.mark.parametrize("number, width, window", [("bf16", 128, 0), ("bf16", 80, 512), ("fp16", 256, 0)])
def test_the_kernels_compile_for_a_gpu_that_is_not_here(number: str, width: int, window: int) -> None:
    """The interpreter takes programs that the compiler refuses; and shared memory is small on most GPUs."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    program = f"from tests.runtime.compiling import shared; print(shared({number!r}, {width}, {window}))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert found.returncode == 0, found.stderr
    assert 0 < int(found.stdout) <= 99 << 10
