"""How much a block needs its siblings: its log-likelihood with and without a view of those before it.

Two passes over one layout are compared: same tokens, same positions, same targets. *Hidden* is the mask of training and
runtime. *Seen* changes one row of the layout's ``release``: the block sees the siblings that stand open before it, from
their first token on, and nothing else changes. Those siblings stay blind to each other, and the main thread to all of
them, so what the block attends to is what the runtime would show it had a ``<sync/>`` stood before its promise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pastalm.lang.script import Script
from pastalm.layout import IGNORE, Layout
from pastalm.runtime.runner import Runner


def open_before(script: Script, block: int) -> list[int]:
    """The siblings of a block that stand before it and that no sync has released where it begins."""
    start, own = script.block.index(block), script.blocks[block]
    before = enumerate(script.blocks[1:block], 1)
    return [index for index, other in before if other.parent == own.parent and other.release > start]


def show_siblings(laid: Layout, script: Script, block: int) -> Layout:
    """The layout with the open siblings before ``block`` visible to it, all that is nested in them included.

    Nothing else changes; a block without such siblings gets the layout as it is.
    """
    release = laid.release.clone()
    shown = set(open_before(script, block))
    for index, other in enumerate(script.blocks[1:], 1):
        if index in shown or other.parent in shown:  # parents stand before what is nested in them
            shown.add(index)
            release[block, index] = 0
    return replace(laid, release=release)


def scored(laid: Layout, block: int) -> Tensor:
    """Indices of the tokens that predict the block's own content and its ``</async>``."""
    return torch.nonzero((laid.block == block) & (laid.targets != IGNORE))[:, 0]


@dataclass(frozen=True)
class ScoredLayout:
    """One pass: a layout, and the indices [k] of the tokens whose predictions are scored."""

    laid: Layout
    scored: Tensor

    def __len__(self) -> int:
        """Tokens that are needed: nothing sees what stands behind it."""
        return int(self.scored[-1]) + 1


def log_probabilities(runner: Runner, rows: Sequence[ScoredLayout]) -> list[Tensor]:
    """Of each row, the log-probabilities [k] in nats, float32 on the CPU, of the scored tokens' targets."""
    width = max(map(len, rows))
    tokens, positions = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
    visible = torch.eye(width, dtype=torch.bool).repeat(len(rows), 1, 1)  # padding sees itself: a row must not be empty
    for index, row in enumerate(rows):
        size, laid = len(row), row.laid
        tokens[index, :size], positions[index, :size] = laid.tokens[:size], laid.positions[:size]
        visible[index, :size, :size] = laid.mask()[:size, :size]
    keep = torch.cat([row.scored for row in rows]).unique()  # logits of a large vocabulary only where they are scored
    logits = runner.dense_rows(tokens, positions, visible, keep)
    found = []
    for row, of_row in zip(rows, logits, strict=True):
        own = of_row[torch.searchsorted(keep, row.scored).to(of_row.device)].float().log_softmax(-1)
        targets = row.laid.targets[row.scored].to(own.device)
        found.append(own.gather(1, targets[:, None])[:, 0].cpu())
    return found
