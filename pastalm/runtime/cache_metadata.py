"""What one step over the cache sees: the attention metadata of a running batch."""

from __future__ import annotations

from functools import cached_property
from math import inf

import torch
from torch import Tensor

from pastalm.runtime.attention import Scoring, masked_attention, within
from pastalm.runtime.kv_cache import KVCache
from pastalm.runtime.step_input import StepInput


class CacheMetadata:
    """The :class:`pastalm.runtime.attention.AttentionMetadata` of a step.

    The model is fed all queries in one row of N, without padding. For attention each sequence needs a row of its own:
    L rows of Q places, as many as the sequence with the most queries has.
    """

    def __init__(self, cache: KVCache, step: StepInput) -> None:
        self.cache, self.step, self.shape = cache, step, step.shape
        cache.positions.view(-1).index_copy_(0, step.slots, step.positions[0])
        self._masks: dict[tuple[int | None, int, torch.dtype], Tensor] = {}
        self._seen: dict[int | None, Tensor] = {}

    def attend(self, layer: int, query_1HND: Tensor, key_1HND: Tensor, value_1HND: Tensor, scoring: Scoring) -> Tensor:
        """See :class:`pastalm.runtime.attention.AttentionMetadata`."""
        keys, values = self.extend(layer, key_1HND, value_1HND)
        query = self.spread(query_1HND)
        mask = self.mask(scoring.window, query.shape[1] // keys.shape[1], query.dtype)
        return self.gather(masked_attention(query, keys, values, mask, scoring))

    def extend(self, layer: int, key_1HND: Tensor, value_1HND: Tensor) -> tuple[Tensor, Tensor]:
        """Write the new keys and values into their slots; returns those of all slots that are read, [L, Hkv, S, D]."""
        keys, values = self.write(layer, key_1HND, value_1HND)
        return self._read(keys).transpose(1, 2), self._read(values).transpose(1, 2)

    def write(self, layer: int, key_1HND: Tensor, value_1HND: Tensor) -> tuple[Tensor, Tensor]:
        """The same; returns the layer's part of the cache, [rows, slots, Hkv, D]."""
        keys, values = self.cache.layer(layer, key_1HND, value_1HND)
        for all_slots, new in ((keys, key_1HND), (values, value_1HND)):
            all_slots.view(-1, *all_slots.shape[2:]).index_copy_(0, self.step.slots, new[0].transpose(0, 1))
        return keys, values

    def _read(self, all_slots: Tensor) -> Tensor:
        first, used = self.shape.first, all_slots[:, : self.shape.slots]
        return used.index_select(0, self.step.read) if first is None else used[first : first + self.shape.rows]

    def spread(self, query_1HND: Tensor) -> Tensor:
        """The queries [L, H, Q, D], those of a sequence in a row."""
        if self.shape.rows == 1 and self.shape.dense:  # as they are: a dozen small operations a layer count here
            return query_1HND
        query = query_1HND[0] if self.shape.dense else query_1HND[0].index_select(1, self.step.sources)
        return query.unflatten(1, (self.shape.rows, self.shape.width)).transpose(0, 1)

    def gather(self, out_LHQD: Tensor) -> Tensor:
        """What has been attended to, where :meth:`spread` found its query: [1, N, H, D]."""
        if self.shape.rows == 1 and self.shape.dense:
            return out_LHQD.transpose(1, 2)
        out = out_LHQD.transpose(1, 2).flatten(0, 1)  # [L * Q, H, D]
        return (out if self.shape.dense else out.index_select(0, self.step.places))[None]

    def mask(self, window: int | None, group: int, dtype: torch.dtype) -> Tensor:
        """Numbers to be added to the scores, [L, 1, G * Q, S] for ``group`` query heads to a key head; made once a
        step. Minus infinity for a key that a query does not see, or that is not within ``window`` positions."""
        key = (window, group, dtype)
        if key not in self._masks:
            bias = torch.where(self.seen(window), 0.0, -inf).to(dtype)
            self._masks[key] = bias.repeat(1, 1, group, 1) if group > 1 else bias
        return self._masks[key]

    @cached_property
    def visible(self) -> Tensor:
        """Which slots each place sees, whatever their positions: bool [L, 1, Q, S]."""
        bits = torch.arange(8, dtype=torch.uint8, device=self.step.visible.device)
        return (self.step.visible[..., None] >> bits).bitwise_and_(1).bool().flatten(-2)

    @cached_property
    def query_positions(self) -> Tensor:
        """Where the query in each place stands: [L, Q]."""
        positions = self.step.positions[0]
        placed = positions if self.shape.dense else positions.index_select(0, self.step.sources)
        return placed.view(self.shape.rows, -1)

    def seen(self, window: int | None) -> Tensor:
        """Which slots each place sees, those within ``window`` positions if given: bool [L, 1, Q, S]; made once a
        step."""
        if window is None:
            return self.visible
        if window not in self._seen:
            near = within(window, self.query_positions, self._read(self.cache.positions))
            self._seen[window] = self.visible & near
        return self._seen[window]
