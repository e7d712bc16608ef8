"""A sampler by itself: logits and how each row is drawn, in through the buffers that a step fills, tokens out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pastalm.runtime.sampler import Draw, Sampler
from pastalm.runtime.step_input import StepBuffers, StepShape

CPU = torch.device("cpu")


def sample(logits: Tensor, draws: Sequence[Draw], sampler: Sampler | None = None) -> list[int]:
    """One token for each row."""
    sampler = sampler or Sampler(logits.shape[-1], CPU)
    step = StepBuffers(CPU).input(StepShape.choice(len(draws)))
    return sampler.settle(sampler.choose(logits, step.fill_draws(draws, sampler.masks)), draws)
