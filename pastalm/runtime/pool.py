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

JUNK = 0  # the slot that padding queries write to and look at; no thread ever sees it


class Lane:
    """The slots of one request. ``rows`` [S] say what each thread sees, ``positions`` [S] where slots' tokens stand."""

    def __init__(self, index: int, slots: int, device: torch.device) -> None:
        self.index, self.slots, self.device = index, slots, device
        self.positions = torch.zeros(slots, dtype=torch.long, device=device)
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

    def padded(self, width: int) -> Queries:
        """The same with ``width`` queries; those added see and write the junk slot only."""
        more = width - len(self)
        if not more:
            return self
        zeros = self.tokens.new_full((more,), JUNK)
        blind = self.visible.new_zeros(more, self.visible.shape[1])
        blind[:, JUNK] = True
        tokens, positions, slots = (torch.cat([part, zeros]) for part in (self.tokens, self.positions, self.slots))
        return Queries(tokens, positions, slots, torch.cat([self.visible, blind]), self.last)


class Pool:
    """Keys and values of all layers, [lanes, Hkv, S, D] each, made when a layer first writes."""

    def __init__(self, lanes: int, slots: int, device: torch.device) -> None:
        self.lanes = [Lane(index, slots, device) for index in range(lanes)]
        self.slots = slots
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}

    def layer(self, layer: int, key_BHQD: Tensor, value_BHQD: Tensor) -> tuple[Tensor, Tensor]:
        """The pair of tensors of a layer, of the shape and type that its keys and values need."""
        if layer not in self.keys:
            for held, new in ((self.keys, key_BHQD), (self.values, value_BHQD)):
                held[layer] = new.new_zeros(len(self.lanes), new.shape[1], self.slots, new.shape[3])
        return self.keys[layer], self.values[layer]


class PoolView:
    """What one step of some lanes sees: a :class:`pastalm.runtime.attention.View` over the pool.

    ``queries`` are of equal width, one for each of ``lanes``.
    """

    def __init__(self, pool: Pool, lanes: Sequence[Lane], queries: Sequence[Queries]) -> None:
        self.pool = pool
        self.used = max(lane.used for lane in lanes)
        self.index = torch.tensor([lane.index for lane in lanes], device=queries[0].tokens.device)
        run = slice(lanes[0].index, lanes[0].index + len(lanes))
        self.run = run if [lane.index for lane in lanes] == list(range(run.start, run.stop)) else None
        self.slots_BQ = torch.stack([query.slots for query in queries])
        self.positions_BQ = torch.stack([query.positions for query in queries])
        self.visible = torch.stack([query.visible[:, : self.used] for query in queries])[:, None]
        self.key_positions_BS = torch.stack([lane.positions[: self.used] for lane in lanes])
        self.windows: dict[int, Tensor] = {}

    def extend(self, layer: int, key_BHQD: Tensor, value_BHQD: Tensor) -> tuple[Tensor, Tensor]:
        """Write the new keys and values into their slots; returns those of all used slots."""
        keys, values = self.pool.layer(layer, key_BHQD, value_BHQD)
        where = (self.index[:, None], slice(None), self.slots_BQ)
        keys[where] = key_BHQD.transpose(1, 2)
        values[where] = value_BHQD.transpose(1, 2)
        if self.run:  # lanes side by side are read where they lie
            return keys[self.run, :, : self.used], values[self.run, :, : self.used]
        return keys[self.index, :, : self.used], values[self.index, :, : self.used]

    def mask(self, window: int | None) -> Tensor:
        """Bool [B, 1, Q, S]; see :class:`pastalm.runtime.attention.View`."""
        if window is None:
            return self.visible
        if window not in self.windows:
            self.windows[window] = self.visible & within(window, self.positions_BQ, self.key_positions_BS)
        return self.windows[window]
