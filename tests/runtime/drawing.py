"""A sampler by itself: logits and how each row is drawn, in through the buffers that a step fills, tokens out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pastalm.runtime.sampler import Draw, Sampler
from pastalm.runtime.step_input import Part, StepBuffers, StepShape
from pastalm.runtime.visibility import Query

CPU = torch.device("cpu")


def sample(logits: Tensor, draws: Sequence[Draw], sampler: Sampler | None = None) -> list[int]:
    """One token for each row."""
    sampler = sampler or Sampler(logits.shape[-1], CPU)
    parts = [Part(0, [Query(0, 0, 1, 2)], [0] * len(draws), draws)]
    step = StepBuffers(CPU).input(StepShape.of(parts))
    return sampler.sample(logits, step.fill(parts, 64, sampler.masks))
