"""The key-value cache: slots for each sequence of a batch, one pair of tensors a layer."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

MOST = 1 << 48  # slots of all rows: more than any machine has, and torch has other words for what no integer holds
GROWTH = 256  # slots that a cache grows by at the least: growing copies it
# Slots are allotted and read in blocks: fewer shapes, and whole words of visibility. CHUNK (kernels/heads.h) equals it.
BLOCK = 32


def in_blocks(slots: int) -> int:
    """``slots`` rounded up to whole blocks."""
    return -(-slots // BLOCK) * BLOCK


def in_growth(slots: int) -> int:
    """``slots`` rounded up to what a cache grows by."""
    return -(-slots // GROWTH) * GROWTH


class KVCache:
    """Keys and values of ``max_batch`` sequences with ``max_model_len`` slots each, and the junk slot; both may grow.

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

    @torch.inference_mode()
    def grow(self, rows: int, slots: int) -> None:
        """Have at least so many rows, and slots in each; what is there stays. Raises what torch raises where there is
        no room, or ``MemoryError``, and is then as before."""
        rows, slots = max(rows, self.rows), max(in_growth(slots + 1), self.slots)
        if rows * slots > MOST:
            raise MemoryError(f"A cache of {rows} rows with {slots} slots is larger than any memory.")
        if (rows, slots) != (self.rows, self.slots):
            positions, *made = [self._larger(tensor, rows, slots) for tensor in self._tensors()]
            self.positions, layers = positions, list(self.keys)
            self.keys = dict(zip(layers, made[: len(layers)], strict=True))
            self.values = dict(zip(layers, made[len(layers) :], strict=True))
            self.rows, self.slots = rows, slots

    @torch.inference_mode()
    def copy(self, source: int, target: int, slots: int) -> None:
        """Copy the first slots of a row to another row."""
        for tensor in self._tensors():
            tensor[target, :slots] = tensor[source, :slots]

    @staticmethod
    def _larger(old: Tensor, rows: int, slots: int) -> Tensor:
        new = old.new_zeros(rows, slots, *old.shape[2:])
        new[: old.shape[0], : old.shape[1]] = old
        return new

    @property
    def bytes(self) -> int:
        """What its tensors take."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self._tensors())

    def _tensors(self) -> Iterator[Tensor]:
        yield self.positions
        yield from self.keys.values()
        yield from self.values.values()
