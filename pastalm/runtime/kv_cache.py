"""The key-value cache: slots for each sequence of a batch, one pair of tensors a layer (SPEC 5)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK = 64  # slots are allotted and read in blocks: few shapes, and whole bytes of visibility


def in_blocks(slots: int) -> int:
    """``slots`` rounded up to whole blocks."""
    return -(-slots // BLOCK) * BLOCK


class KVCache:
    """Keys and values of ``max_batch`` sequences with ``max_model_len`` slots each, and the junk slot.

    ``keys``, ``values``: [rows, slots, Hkv, D] for each layer, made when the layer first writes. ``positions``
    [rows, slots] is where each slot's token stands.
    """

    def __init__(self, max_batch: int, max_model_len: int, device: torch.device) -> None:
        self.rows, self.slots = max_batch, in_blocks(max_model_len + 1)
        self.positions = torch.zeros(self.rows, self.slots, dtype=torch.long, device=device)
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}

    def layer(self, layer: int, key_BHND: Tensor, value_BHND: Tensor) -> tuple[Tensor, Tensor]:
        """The pair of tensors of a layer, of the shape and type that its keys and values need."""
        if layer not in self.keys:
            made = [new.new_zeros(self.rows, self.slots, new.shape[1], new.shape[3]) for new in (key_BHND, value_BHND)]
            self.keys[layer], self.values[layer] = made  # both or none: there may be no room for the second
        return self.keys[layer], self.values[layer]

    @property
    def bytes(self) -> int:
        """What its tensors take."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self._tensors())

    def _tensors(self) -> Iterator[Tensor]:
        yield self.positions
        yield from self.keys.values()
        yield from self.values.values()
