"""Decode attention on a GPU that reads each block of the cache once for all threads of a request.

The threads of a request, and the query heads that share a key head, are rows of one tile. A program walks through a
part of the cache (split keys, as in Flash-Decoding) with such a tile; a second kernel puts the parts together. What a
thread sees are bits, 32 slots a word, so that the mask is a sixteenth of what a key of eight bytes would need. All
sizes that change from step to step (used slots, bits) lie in tensors: a captured CUDA graph can be replayed.

``TRITON_INTERPRET=1`` runs the same kernels on a CPU, which is how the tests see them without a GPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_SLOTS = 64  # slots of the cache that a program reads at a time; a multiple of 32
MAX_ROWS = 64  # rows of a tile: more threads than that read the cache again, from L2
SMALLEST_TILE = 16  # what a tensor core multiplies at least
WORD = 32


def pack_bits(visible: Tensor) -> Tensor:
    """Bool [.., S] as int32 [.., ceil(S / 32)], slot s in bit s % 32 of word s // 32."""
    spare = -visible.shape[-1] % WORD
    padded = torch.nn.functional.pad(visible, (0, spare)).unflatten(-1, (-1, WORD))
    weights = torch.ones(WORD, dtype=torch.long, device=visible.device) << torch.arange(WORD, device=visible.device)
    words = (padded * weights).sum(-1)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).int()


def decode_attention(
    query_BHTD: Tensor,
    key_BHSD: Tensor,
    value_BHSD: Tensor,
    bits_BTW: Tensor,
    used_B: Tensor,
    scale: float,
    *,
    softcap: float = 0.0,
    sinks_H: Tensor | None = None,
    splits: int = 8,
) -> Tensor:
    """What each thread reads from the cache: [B, Hq, T, D], in the type of the queries.

    ``query`` [B, Hq, T, D], ``key`` and ``value`` [B, Hkv, S, D]; ``bits`` int32 [B, T, W] from :func:`pack_bits`, W
    words of 32 slots; ``used`` int32 [B], the slots that hold anything. ``softcap`` above 0 bounds scores as Gemma 2
    does; ``sinks`` [Hq] are the scores of a column that takes weight and gives nothing. Each row must see a slot, or
    have a sink. Raises ``ValueError`` for head widths that are no power of two of at least 16.
    """
    batch, heads, threads, width = query_BHTD.shape
    key_heads = key_BHSD.shape[1]
    if width < SMALLEST_TILE or width & (width - 1):
        raise ValueError(f"The kernel reads heads of a width that is a power of two from 16 up, not {width}.")
    rows = heads // key_heads * threads
    tile = max(SMALLEST_TILE, min(MAX_ROWS, triton.next_power_of_2(rows)))
    tiles = triton.cdiv(rows, tile)
    query_BHRD = query_BHTD.reshape(batch, key_heads, rows, width).contiguous()
    parts = query_BHTD.new_empty(batch, key_heads, splits, rows, width, dtype=torch.float32)
    tops = query_BHTD.new_empty(batch, key_heads, splits, rows, dtype=torch.float32)
    sums = torch.empty_like(tops)
    _read_part[(batch * key_heads, splits, tiles)](
        query_BHRD, key_BHSD, value_BHSD, bits_BTW, used_B, parts, tops, sums,
        *key_BHSD.stride()[:3], *value_BHSD.stride()[:3], *bits_BTW.stride()[:2],
        scale, softcap, key_heads, rows, threads, splits, width, tile, BLOCK_SLOTS,
    )  # fmt: skip
    out = torch.empty_like(query_BHRD)
    column = query_BHTD.new_full((heads,), float("-inf"), dtype=torch.float32) if sinks_H is None else sinks_H.float()
    _join_parts[(batch * key_heads, tiles)](
        parts, tops, sums, column, out, key_heads, rows, threads, splits, width, tile
    )
    return out.view(batch, heads, threads, width)


@triton.jit
def _read_part(
    query, key, value, bits, used, parts, tops, sums,
    key_b, key_h, key_s, value_b, value_h, value_s, bits_b, bits_t,
    scale, softcap, key_heads, rows, threads,
    SPLITS: tl.constexpr, WIDTH: tl.constexpr, TILE: tl.constexpr, SLOTS: tl.constexpr,
):  # fmt: skip
    """One tile of rows over one part of the slots: unnormalised sums of values, their weights' sum, the top score."""
    pair, part = tl.program_id(0), tl.program_id(1)
    batch, head = pair // key_heads, pair % key_heads
    row = tl.program_id(2) * TILE + tl.arange(0, TILE)
    column = tl.arange(0, WIDTH)
    there = row < rows
    q = tl.load(query + (pair * rows + row[:, None]) * WIDTH + column[None, :], mask=there[:, None], other=0.0)
    blocks = (tl.load(used + batch) + SLOTS - 1) // SLOTS
    share = (blocks + SPLITS - 1) // SPLITS
    top = tl.full((TILE,), float("-inf"), tl.float32)
    weight = tl.zeros((TILE,), tl.float32)
    total = tl.zeros((TILE, WIDTH), tl.float32)
    words = bits + batch * bits_b + (row % threads)[:, None] * bits_t
    block, end = part * share, tl.minimum((part + 1) * share, blocks)
    while block < end:
        slot = block * SLOTS + tl.arange(0, SLOTS)
        full = slot < tl.load(used + batch)
        at = key + batch * key_b + head * key_h + slot[None, :] * key_s + column[:, None]
        k = tl.load(at, mask=full[None, :], other=0.0)
        score = tl.dot(q, k, input_precision="ieee").to(tl.float32) * scale
        if softcap > 0:
            capped = 2 / (1 + tl.exp(-2 * score / softcap)) - 1  # tanh
            score = capped * softcap
        word = tl.load(words + (slot // 32)[None, :], mask=there[:, None] & full[None, :], other=0)
        seen = ((word >> (slot % 32)[None, :]) & 1) != 0
        score = tl.where(seen, score, float("-inf"))
        higher = tl.maximum(top, tl.max(score, 1))
        base = tl.where(higher == float("-inf"), 0.0, higher)  # nothing seen yet: no difference of infinities
        fade = tl.exp(top - base)
        p = tl.exp(score - base[:, None])
        at = value + batch * value_b + head * value_h + slot[:, None] * value_s + column[None, :]
        v = tl.load(at, mask=full[:, None], other=0.0)
        total = total * fade[:, None] + tl.dot(p.to(v.dtype), v, input_precision="ieee").to(tl.float32)
        weight = weight * fade + tl.sum(p, 1)
        top = higher
        block += 1
    place = (pair * SPLITS + part) * rows + row
    tl.store(tops + place, top, mask=there)
    tl.store(sums + place, weight, mask=there)
    tl.store(parts + place[:, None] * WIDTH + column[None, :], total, mask=there[:, None])


@triton.jit
def _join_parts(
    parts,
    tops,
    sums,
    sinks,
    out,
    key_heads,
    rows,
    threads,
    SPLITS: tl.constexpr,
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,
):
    """Put the parts of a tile together, the column of sinks with them."""
    pair = tl.program_id(0)
    row = tl.program_id(1) * TILE + tl.arange(0, TILE)
    column = tl.arange(0, WIDTH)
    there = row < rows
    head = (pair % key_heads) * (rows // threads) + row // threads
    top = tl.load(sinks + head, mask=there, other=0.0)
    weight = tl.where(top == float("-inf"), 0.0, 1.0)
    total = tl.zeros((TILE, WIDTH), tl.float32)
    for part in range(SPLITS):
        place = (pair * SPLITS + part) * rows + row
        own = tl.load(tops + place, mask=there, other=float("-inf"))
        higher = tl.maximum(top, own)
        base = tl.where(higher == float("-inf"), 0.0, higher)
        fade, rise = tl.exp(top - base), tl.exp(own - base)
        values = tl.load(parts + place[:, None] * WIDTH + column[None, :], mask=there[:, None], other=0.0)
        total = total * fade[:, None] + values * rise[:, None]
        weight = weight * fade + tl.load(sums + place, mask=there, other=0.0) * rise
        top = higher
    at = out + (pair * rows + row[:, None]) * WIDTH + column[None, :]
    tl.store(at, (total / weight[:, None]).to(out.dtype.element_ty), mask=there[:, None])
