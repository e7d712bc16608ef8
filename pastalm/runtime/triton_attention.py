"""Decode attention on a GPU that reads each block of the cache once for all threads of a request.

The threads of a request, and the query heads that share a key head, are rows of one tile. A program walks through a
part of the cache (split keys, as in Flash-Decoding) with such a tile; a second kernel puts the parts together. What a
thread sees are bits, 32 slots a word, an eighth of what bools would take. All that changes from step to step (used
slots, rows of the cache, bits, positions) lies in tensors: a captured CUDA graph can be replayed.

``TRITON_INTERPRET=1`` runs the same kernels on a CPU, which is how the tests see them without a GPU.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE_BYTES = 1 << 14  # of queries in a tile, of keys and of values in a block: several fit into shared memory
MOST_ROWS = 64  # rows of a tile: more threads than that read the cache again, from L2; and slots of a block
SMALLEST_TILE = 16  # what a tensor core multiplies at least
STAGES = 2  # blocks in flight
WORD = 32
PROGRAMS = 256  # at once: about two for each multiprocessor of a large GPU
MOST_SPLITS = 64  # parts whose sums of values fit into registers


class Window(NamedTuple):
    """Keys less than ``size`` positions behind a query count: positions int64 of the queries [B, T] and of the cache's
    slots [R, S]."""

    size: int
    query_BT: Tensor
    key_RS: Tensor


def pack_bits(visible: Tensor) -> Tensor:
    """Bool [.., S] as int32 [.., ceil(S / 32)], slot s in bit s % 32 of word s // 32."""
    spare = -visible.shape[-1] % WORD
    padded = torch.nn.functional.pad(visible, (0, spare)).unflatten(-1, (-1, WORD))
    weights = torch.ones(WORD, dtype=torch.long, device=visible.device) << torch.arange(WORD, device=visible.device)
    words = (padded * weights).sum(-1)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).int()


def decode_attention(
    query_BHTD: Tensor,
    key_RHSD: Tensor,
    value_RHSD: Tensor,
    bits_BTW: Tensor,
    used_B: Tensor,
    scale: float,
    *,
    rows_B: Tensor | None = None,
    window: Window | None = None,
    softcap: float = 0.0,
    sinks_H: Tensor | None = None,
    splits: int | None = None,
) -> Tensor:
    """What each thread reads from the cache: [B, Hq, T, E], in the type of the queries.

    ``query`` [B, Hq, T, D], ``key`` [R, Hkv, S, D], ``value`` [R, Hkv, S, E]; ``bits`` int32 [B, T, W] from
    :func:`pack_bits`, W words of 32 slots; ``used`` [B], how many slots may hold anything. ``rows`` [B] are the rows of
    the cache that the requests have, row b for request b if None. ``softcap`` above 0 bounds scores as Gemma 2 does;
    ``sinks`` [Hq] are the scores of a column that takes weight and gives nothing. A row that sees no slot gives
    zeros. ``splits`` is in how many parts the cache is read at once; None takes what keeps a GPU busy.
    """
    batch, heads, threads, width = query_BHTD.shape
    key_heads, value_width = key_RHSD.shape[1], value_RHSD.shape[3]
    query = query_BHTD if query_BHTD.stride(3) == 1 else query_BHTD.contiguous()
    rows = heads // key_heads * threads
    most = most_rows(_padded(max(width, value_width)) * query.element_size())
    tile = max(SMALLEST_TILE, min(most, triton.next_power_of_2(rows)))
    tiles = triton.cdiv(rows, tile)
    splits = splits or splits_for(batch * key_heads * tiles, triton.cdiv(bits_BTW.shape[2] * WORD, most))
    near = window or Window(0, used_B[:, None], used_B[:, None])
    placed = torch.arange(batch, device=query.device) if rows_B is None else rows_B
    parts = query.new_empty(batch, key_heads, splits, rows, value_width, dtype=torch.float32)
    tops = query.new_empty(batch, key_heads, splits, rows, dtype=torch.float32)
    sums = torch.empty_like(tops)
    _read_part[(batch * key_heads, splits, tiles)](
        query, key_RHSD, value_RHSD, bits_BTW, used_B, placed, near.query_BT, near.key_RS, parts, tops, sums,
        *query.stride()[:3], *key_RHSD.stride()[:3], *value_RHSD.stride()[:3], *bits_BTW.stride()[:2],
        near.query_BT.stride(0), near.key_RS.stride(0), scale, softcap, key_heads, rows, threads,
        splits, width, _padded(width), value_width, _padded(value_width), near.size, tile, most, num_stages=STAGES,
    )  # fmt: skip
    out = query.new_empty(batch, threads, heads, value_width)
    _join_parts[(batch * key_heads, rows)](
        parts, tops, sums, tops if sinks_H is None else sinks_H, out, key_heads, rows, threads,
        sinks_H is not None, splits, triton.next_power_of_2(splits), value_width, _padded(value_width),
    )  # fmt: skip
    return out.transpose(1, 2)


def splits_for(programs: int, blocks: int) -> int:
    """In how many parts so many blocks of slots should be read by so many programs each: a power of two, since each
    number is compiled apart."""
    most = min(PROGRAMS // programs, blocks, MOST_SPLITS)
    return 1 << max(0, most.bit_length() - 1)


def most_rows(head_bytes: int) -> int:
    """How many rows a tile has at most, and how many slots a block, for padded heads of so many bytes."""
    return max(SMALLEST_TILE, min(MOST_ROWS, TILE_BYTES // head_bytes))


def _padded(width: int) -> int:
    """The width of a tile that holds heads of this width."""
    return max(SMALLEST_TILE, triton.next_power_of_2(width))


@triton.jit
def _read_part(
    query, key, value, bits, used, placed, query_positions, key_positions, parts, tops, sums,
    query_b, query_h, query_t, key_r, key_h, key_s, value_r, value_h, value_s, bits_b, bits_t,
    query_positions_b, key_positions_r, scale, softcap, key_heads, rows, threads,
    SPLITS: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr, VALUE_WIDTH: tl.constexpr,
    VALUE_PADDED: tl.constexpr, WINDOW: tl.constexpr, TILE: tl.constexpr, SLOTS: tl.constexpr,
):  # fmt: skip
    """One tile of rows over one part of the slots: unnormalised sums of values, their weights' sum, the top score."""
    pair, part = tl.program_id(0), tl.program_id(1)
    batch, head = pair // key_heads, pair % key_heads
    cache_row = tl.load(placed + batch).to(tl.int64)  # a large cache has more numbers than 32 bits count
    row = tl.program_id(2) * TILE + tl.arange(0, TILE)
    thread = row % threads
    column, value_column = tl.arange(0, PADDED), tl.arange(0, VALUE_PADDED)
    there, inside, value_inside = row < rows, column < WIDTH, value_column < VALUE_WIDTH
    own_head = head * (rows // threads) + row // threads
    place = query + batch * query_b + own_head * query_h + thread * query_t
    q = tl.load(place[:, None] + column[None, :], mask=there[:, None] & inside[None, :], other=0.0)
    if WINDOW > 0:
        own_position = tl.load(query_positions + batch * query_positions_b + thread, mask=there, other=0)
    filled = tl.load(used + batch).to(tl.int32)
    blocks = (filled + SLOTS - 1) // SLOTS
    share = (blocks + SPLITS - 1) // SPLITS
    top = tl.full((TILE,), float("-inf"), tl.float32)
    weight = tl.zeros((TILE,), tl.float32)
    total = tl.zeros((TILE, VALUE_PADDED), tl.float32)
    words = bits + batch * bits_b + thread[:, None] * bits_t
    keys, values = key + cache_row * key_r + head * key_h, value + cache_row * value_r + head * value_h
    for block in tl.range(part * share, tl.minimum((part + 1) * share, blocks)):
        slot = block * SLOTS + tl.arange(0, SLOTS)
        full = slot < filled
        k_at = keys + slot[None, :] * key_s + column[:, None]
        k = tl.load(k_at, mask=full[None, :] & inside[:, None], other=0.0)
        score = _bounded(tl.dot(q, k, input_precision="ieee").to(tl.float32) * scale, softcap)
        word = tl.load(words + (slot // 32)[None, :], mask=there[:, None] & full[None, :], other=0)
        seen = ((word >> (slot % 32)[None, :]) & 1) != 0
        if WINDOW > 0:
            position = tl.load(key_positions + cache_row * key_positions_r + slot, mask=full, other=0)
            seen = seen & (own_position[:, None] - position[None, :] < WINDOW)
        v_at = values + slot[:, None] * value_s + value_column[None, :]
        v = tl.load(v_at, mask=full[:, None] & value_inside[None, :], other=0.0)
        top, weight, total = _fold(top, weight, total, tl.where(seen, score, float("-inf")), v)
    kept = (pair * SPLITS + part) * rows + row
    tl.store(tops + kept, top, mask=there)
    tl.store(sums + kept, weight, mask=there)
    tl.store(
        parts + kept[:, None] * VALUE_WIDTH + value_column[None, :], total, mask=there[:, None] & value_inside[None, :]
    )


@triton.jit
def _bounded(score, softcap):
    """Scores bounded by ``softcap``, if that is above 0: its tanh."""
    if softcap > 0:
        capped = 2 / (1 + tl.exp(-2 * score / softcap)) - 1
        score = capped * softcap
    return score


@triton.jit
def _fold(top, weight, total, score, v):
    """Take the scores of a block and its values in: the rows' top scores, sums of weights and of values."""
    higher = tl.maximum(top, tl.max(score, 1))
    base = tl.where(higher == float("-inf"), 0.0, higher)  # nothing seen yet: no difference of infinities
    fade = tl.exp(top - base)
    p = tl.exp(score - base[:, None])
    total = total * fade[:, None] + tl.dot(p.to(v.dtype), v, input_precision="ieee").to(tl.float32)
    return higher, weight * fade + tl.sum(p, 1), total


@triton.jit
def _join_parts(
    parts, tops, sums, sinks, out, key_heads, rows, threads,
    SINKS: tl.constexpr, SPLITS: tl.constexpr, SPLITS_PADDED: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    """Put the parts of a row together, the column of sinks with them; ``out`` is [B, T, Hq, E]."""
    pair, row = tl.program_id(0), tl.program_id(1)
    part, column = tl.arange(0, SPLITS_PADDED), tl.arange(0, PADDED)
    there, inside = part < SPLITS, column < WIDTH
    kept = (pair * SPLITS + part) * rows + row
    own = tl.load(tops + kept, mask=there, other=float("-inf"))
    head = (pair % key_heads) * (rows // threads) + row // threads
    top, weight = tl.max(own, 0), 0.0
    if SINKS:
        sink = tl.load(sinks + head).to(tl.float32)
        top = tl.maximum(top, sink)
        weight = tl.exp(sink - top)
    rise = tl.exp(own - tl.where(top == float("-inf"), 0.0, top))
    weight += tl.sum(tl.load(sums + kept, mask=there, other=0.0) * rise, 0)
    at = parts + kept[:, None] * WIDTH + column[None, :]
    values = tl.load(at, mask=there[:, None] & inside[None, :], other=0.0)
    total = tl.sum(values * rise[:, None], 0) / tl.where(weight > 0, weight, 1.0)  # a row that sees nothing: zeros
    heads = key_heads * (rows // threads)
    at_out = out + (((pair // key_heads) * threads + row % threads) * heads + head) * WIDTH + column
    tl.store(at_out, total.to(out.dtype.element_ty), mask=inside)
