"""Examples to batches: layouts side by side in rows, each blind to its neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pastalm.data.examples import Example
from pastalm.lang.positions import PositionPolicy
from pastalm.layout import IGNORE, Layout, layout
from pastalm.views import ViewLayout, view_layout


class Collator:
    """Make a batch of rows, each a list of examples.

    Returns ``input_ids``, ``position_ids``, ``labels`` [B, T], ``visible`` bool [B, T, T] and ``lengths`` [B], each
    row's tokens without padding. Padding sees itself only (a row of the mask must not be empty) and has no label.
    Labels are targets: nothing shifts them later. Rows without examples are left out, unless there are no others.
    """

    def __init__(self, policy: PositionPolicy, pad: int, *, prompt_targets: bool = False) -> None:
        self.policy, self.pad, self.prompt_targets = policy, pad, prompt_targets

    def __call__(self, rows: Sequence[Sequence[Example]]) -> dict[str, Tensor]:
        rows = [row for row in rows if row] or [[]]
        width = max(1, max(sum(map(len, row)) for row in rows))
        shape = (len(rows), width)
        batch = {
            "input_ids": torch.full(shape, self.pad),
            "position_ids": torch.zeros(shape, dtype=torch.long),
            "labels": torch.full(shape, IGNORE),
            "visible": torch.eye(width, dtype=torch.bool).repeat(len(rows), 1, 1),
            "lengths": torch.tensor([sum(map(len, row)) for row in rows]),
        }
        for index, row in enumerate(rows):
            start = 0
            for example in row:
                self._place(batch, index, start, example)
                start += len(example)
        return batch

    def _lay(self, example: Example) -> Layout | ViewLayout:
        if example.in_views:
            return view_layout(example.prompt, example.script, prompt_targets=self.prompt_targets)
        return layout(example.prompt, example.script, self.policy, prompt_targets=self.prompt_targets)

    def _place(self, batch: dict[str, Tensor], row: int, start: int, example: Example) -> None:
        laid = self._lay(example)
        span = slice(start, start + len(example))
        batch["input_ids"][row, span] = laid.tokens
        batch["position_ids"][row, span] = laid.positions
        batch["labels"][row, span] = laid.targets
        batch["visible"][row, span, span] = laid.mask()
