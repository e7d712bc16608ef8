"""The key-value cache: one pool a request, one pair of tensors a layer, isolation by mask only (SPEC 5).

Every token takes the next free slot of its request, whatever thread it belongs to. What a thread sees is a row of bools
over the slots: a fork copies a row, a join ORs rows; no key or value is ever copied, moved or recomputed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pastalm.runtime.attention import within
from pastalm.runtime.thread import Feed, Fork, Operation, Path

JUNK = 0  # the slot that nobody writes and no thread sees: what a place without a query looks at


class Lane:
    """The slots of one request. ``rows`` [S] say what each thread sees, ``positions`` [S] where slots' tokens stand."""

    def __init__(self, index: int, positions: Tensor) -> None:
        self.index, self.positions = index, positions
        self.slots, self.device = len(positions), positions.device
        self.rows: dict[Path, Tensor] = {}
        self.used = 1  # the junk slot

    def __lt__(self, other: Lane) -> bool:
        return self.index < other.index

    def clear(self) -> None:
        """Free all slots."""
        self.rows, self.used = {}, 1

    def prefill(self, tokens: Sequence[int], start: int) -> Queries:
        """Give the main thread a piece of the prompt, whose first token stands at position ``start``."""
        first, self.used = self.used, self.used + len(tokens)
        row = self.rows.setdefault((), torch.zeros(self.slots, dtype=torch.bool, device=self.device))
        slots = torch.arange(first, self.used, device=self.device)
        positions = torch.arange(start, start + len(tokens), device=self.device)
        index = torch.arange(self.slots, device=self.device)
        visible = row | ((index >= first) & (index <= slots[:, None]))
        row[first : self.used] = True
        self.positions[first : self.used] = positions
        return Queries(torch.tensor(tokens, device=self.device), positions, slots, visible, {(): len(tokens) - 1})

    def apply(self, operations: Sequence[Operation]) -> Queries:
        """Carry out what the interpreter asks for, in order; returns the tokens to be fed and what each sees."""
        feeds: list[Feed] = []
        seen: list[Tensor] = []
        last: dict[Path, int] = {}
        start = self.used
        for op in operations:
            if isinstance(op, Feed):
                row = self.rows[op.thread]
                if op.thread in last:  # an earlier token of this step keeps the row as it was then
                    row = self.rows[op.thread] = row.clone()
                row[self.used] = True
                last[op.thread] = len(feeds)
                feeds.append(op)
                seen.append(row)
                self.used += 1
            elif isinstance(op, Fork):
                self.rows[op.child] = self.rows[op.parent].clone()
            else:
                row = self.rows[op.parent].clone()
                for child in op.children:
                    row |= self.rows.pop(child)
                self.rows[op.parent] = row
        positions = torch.tensor([op.position for op in feeds], device=self.device)
        slots = torch.arange(start, self.used, device=self.device)
        self.positions[start : self.used] = positions
        tokens = torch.tensor([op.token for op in feeds], device=self.device)
        return Queries(tokens, positions, slots, torch.stack(seen), last)


class Queries:
    """The tokens that one request feeds in one step.

    ``tokens``, ``positions``, ``slots`` [Q]; ``visible`` bool [Q, S]; ``last`` the index of each thread's last token,
    the one whose logits tell what comes next.
    """

    def __init__(
        self, tokens: Tensor, positions: Tensor, slots: Tensor, visible: Tensor, last: dict[Path, int]
    ) -> None:
        self.tokens, self.positions, self.slots, self.visible, self.last = tokens, positions, slots, visible, last

    def __len__(self) -> int:
        return len(self.tokens)


class Pool:
    """Keys and values of all layers, [lanes, Hkv, S, D] each, made when a layer first writes; ``positions`` [lanes, S]
    is where each slot's token stands."""

    def __init__(self, lanes: int, slots: int, device: torch.device) -> None:
        self.positions = torch.zeros(lanes, slots, dtype=torch.long, device=device)
        self.lanes = [Lane(index, positions) for index, positions in enumerate(self.positions)]
        self.slots = slots
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}

    def layer(self, layer: int, key_BHQD: Tensor, value_BHQD: Tensor) -> tuple[Tensor, Tensor]:
        """The pair of tensors of a layer, of the shape and type that its keys and values need."""
        if layer not in self.keys:
            made = [
                new.new_zeros(len(self.lanes), new.shape[1], self.slots, new.shape[3]) for new in (key_BHQD, value_BHQD)
            ]
            self.keys[layer], self.values[layer] = made  # both or none: there may be no room for the second
        return self.keys[layer], self.values[layer]


class CacheMetadata:
    """What one step of some lanes sees: a :class:`pastalm.runtime.attention.AttentionMetadata` over the pool.

    The model is fed all queries in one row of N (``tokens``, ``positions`` [1, N]), without padding. For attention each
    lane needs a row of its own: L lanes x Q queries, as many as the lane with the most has.
    """

    def __init__(self, pool: Pool, lanes: Sequence[Lane], queries: Sequence[Queries]) -> None:
        self.pool = pool
        self.used = max(lane.used for lane in lanes)
        self.read, rows = _reading([lane.index for lane in lanes])
        device, counts = queries[0].tokens.device, torch.tensor([len(query) for query in queries])
        self.shape = (max(rows) + 1, int(counts.max()))
        self.rows_N = torch.tensor(rows).repeat_interleave(counts).to(device)
        self.columns_N = torch.cat([torch.arange(len(query)) for query in queries]).to(device)
        self.lanes_N = torch.tensor([lane.index for lane in lanes]).repeat_interleave(counts).to(device)
        self.slots_N = torch.cat([query.slots for query in queries])
        self.tokens = torch.cat([query.tokens for query in queries])[None]
        self.positions = torch.cat([query.positions for query in queries])[None]
        self.visible = torch.zeros(*self.shape, self.used, dtype=torch.bool, device=device)
        self.visible[..., JUNK] = True
        self.visible[self.rows_N, self.columns_N] = torch.cat([query.visible[:, : self.used] for query in queries])
        self.visible = self.visible[:, None]
        self.windows: dict[int, Tensor] = {}

    def extend(self, layer: int, key_1HND: Tensor, value_1HND: Tensor) -> tuple[Tensor, Tensor]:
        """Write the new keys and values into their slots; returns those of all used slots, [L, Hkv, S, D] each."""
        keys, values = self.pool.layer(layer, key_1HND, value_1HND)
        where = (self.lanes_N, slice(None), self.slots_N)
        keys[where] = key_1HND[0].transpose(0, 1)
        values[where] = value_1HND[0].transpose(0, 1)
        return keys[self.read, :, : self.used], values[self.read, :, : self.used]

    def spread(self, query_1HND: Tensor) -> Tensor:
        """See :class:`pastalm.runtime.attention.AttentionMetadata`."""
        if self.shape[0] == 1:
            return query_1HND
        rows, columns = self.shape
        query_LHQD = query_1HND.new_zeros(rows, query_1HND.shape[1], columns, query_1HND.shape[3])
        query_LHQD[self.rows_N, :, self.columns_N] = query_1HND[0].transpose(0, 1)
        return query_LHQD

    def gather(self, out_LHQD: Tensor) -> Tensor:
        """See :class:`pastalm.runtime.attention.AttentionMetadata`."""
        if self.shape[0] == 1:
            return out_LHQD
        return out_LHQD[self.rows_N, :, self.columns_N].transpose(0, 1)[None]

    def mask(self, window: int | None, group: int, dtype: torch.dtype) -> Tensor:
        """Bool [L, 1, G * Q, S]; see :class:`pastalm.runtime.attention.AttentionMetadata`."""
        visible = self._within(window)
        return visible.repeat(1, 1, group, 1) if group > 1 else visible

    def _within(self, window: int | None) -> Tensor:
        if window is None:
            return self.visible
        if window not in self.windows:
            positions_LQ = self.positions.new_zeros(self.shape)
            positions_LQ[self.rows_N, self.columns_N] = self.positions[0]
            key_positions_LS = self.pool.positions[self.read, : self.used]
            self.windows[window] = self.visible & within(window, positions_LQ, key_positions_LS)
        return self.windows[window]


def _reading(lanes: list[int]) -> tuple[slice | list[int], list[int]]:
    """Which lanes' keys to read, and the row of each of ``lanes`` (ascending) among them.

    A slice is read where it lies, so one goes for it even if some lanes in between are idle; many of those would cost
    more than the copy.
    """
    first, last = lanes[0], lanes[-1]
    if last - first < 2 * len(lanes):
        return slice(first, last + 1), [lane - first for lane in lanes]
    return lanes, list(range(len(lanes)))
