"""What one step over the cache sees on a GPU, where :mod:`pastalm.runtime.triton_attention` reads it as it lies."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from pastalm.runtime.attention import Scoring
from pastalm.runtime.cache_metadata import CacheMetadata
from pastalm.runtime.triton_attention import Window, decode_attention


class KernelMetadata(CacheMetadata):
    """The :class:`pastalm.runtime.attention.AttentionMetadata` of a step by the kernel: no bit is unpacked, no row of
    the cache copied, and each block of the cache is read once for all threads of a sequence."""

    def attend(self, layer: int, query_1HND: Tensor, key_1HND: Tensor, value_1HND: Tensor, scoring: Scoring) -> Tensor:
        """See :class:`pastalm.runtime.attention.AttentionMetadata`."""
        keys, values = self.write(layer, key_1HND, value_1HND)
        near = None
        if scoring.window is not None:
            near = Window(scoring.window, self.query_positions, self.cache.positions)
        out = decode_attention(
            self.spread(query_1HND),
            keys.transpose(1, 2),
            values.transpose(1, 2),
            self.bits,
            self.step.used,
            query_1HND.shape[3] ** -0.5 if scoring.scaling is None else scoring.scaling,
            rows_B=self.step.read,
            window=near,
            softcap=scoring.softcap or 0.0,
            sinks_H=scoring.sinks,
        )
        return self.gather(out)

    @cached_property
    def bits(self) -> Tensor:
        """What each place sees, as words of 32 slots: int32 [L, Q, S / 32]."""
        return self.step.visible[:, 0].view(torch.int32)
