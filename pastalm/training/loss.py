"""The loss of stage 1: next token of the own thread (SPEC 6)."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy

from pastalm.layout import IGNORE


def token_loss(logits_BTV: Tensor, targets_BT: Tensor, count: Tensor | int | None = None) -> Tensor:
    """Cross-entropy in nats, summed over the tokens that have a target and divided by ``count``.

    ``count`` is the number of targets in the whole optimiser step (all processes, all accumulation steps); None takes
    this batch's own. ``targets[b, t]`` is what position t predicts: nothing is shifted here.
    """
    total = cross_entropy(logits_BTV.flatten(0, 1).float(), targets_BT.flatten(), ignore_index=IGNORE, reduction="sum")
    if count is None:
        count = (targets_BT != IGNORE).sum().clamp(min=1)
    return total / count
