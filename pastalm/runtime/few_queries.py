"""What one step over the cache sees on a CPU, where our own kernel reads it as it lies."""

from __future__ import annotations

import torch
from torch import Tensor

from pastalm.runtime.attention import Scoring
from pastalm.runtime.cache_metadata import CacheMetadata

MOST = 2048  # so many queries times slots the kernel serves: torch's attention multiplies more of them in blocks
EACH = 8  # or so many queries a row, whatever the slots: for fewer there are no blocks
WIDE = 64  # queries that a matrix unit multiplies in blocks, too
LANES = 16  # heads have whole multiples of them, which any vector of the kernel fits
DTYPES = (torch.float32, torch.bfloat16)


class FewQueriesMetadata(CacheMetadata):
    """The :class:`pastalm.runtime.attention.AttentionMetadata` of a step by :mod:`pastalm.runtime.kernels`: a layer is
    one call, which reads what a query sees and copies nothing. What the kernel does not do is left to torch."""

    def attend(self, layer: int, query_1HND: Tensor, key_1HND: Tensor, value_1HND: Tensor, scoring: Scoring) -> Tensor:
        """See :class:`pastalm.runtime.attention.AttentionMetadata`."""
        if not self._served(query_1HND, key_1HND, value_1HND, scoring):
            return super().attend(layer, query_1HND, key_1HND, value_1HND, scoring)
        cached = self.cache.layer(layer, key_1HND, value_1HND)
        scaling = query_1HND.shape[3] ** -0.5 if scoring.scaling is None else scoring.scaling
        places = (self.step.slots, self.step.places, self.step.read, self.seen(scoring.window))
        return torch.ops.pastalm.attend_few.default(query_1HND, key_1HND, value_1HND, *cached, *places, scaling)

    def _served(self, query_1HND: Tensor, key_1HND: Tensor, value_1HND: Tensor, scoring: Scoring) -> bool:
        plain = scoring.softcap is None and scoring.sinks is None
        whole = query_1HND.shape[3] % LANES == value_1HND.shape[3] % LANES == 0
        if not (plain and whole and query_1HND.dtype in DTYPES):
            return False
        if self.shape.queries * self.shape.slots <= MOST or self.shape.queries <= EACH * self.shape.rows:
            return True
        return self.shape.queries <= WIDE and torch.ops.pastalm.attends_in_tiles(query_1HND, key_1HND, value_1HND)
