"""The stage-1 loss against its arithmetic."""

from __future__ import annotations

from math import exp, log

import pytest
import torch

from pastalm.layout import IGNORE
from pastalm.training.loss import token_loss

LOGITS = torch.tensor([[[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]], [[1.0, 1.0, 1.0], [5.0, 0.0, -5.0]]])
TARGETS = torch.tensor([[2, IGNORE], [0, 1]])
# -log softmax of each target: log(1 + e + e^2) - 2, none, log 3, log(e^5 + 1 + e^-5) - 0
TERMS = [log(1 + exp(1) + exp(2)) - 2, log(3), log(exp(5) + 1 + exp(-5))]


def test_is_the_mean_over_tokens_with_a_target() -> None:
    assert token_loss(LOGITS, TARGETS).item() == pytest.approx(sum(TERMS) / 3, rel=1e-6)


def test_divides_by_a_given_count() -> None:
    assert token_loss(LOGITS, TARGETS, 12).item() == pytest.approx(sum(TERMS) / 12, rel=1e-6)
    assert token_loss(LOGITS, TARGETS, torch.tensor(6)).item() == pytest.approx(sum(TERMS) / 6, rel=1e-6)


def test_parts_with_the_whole_count_add_up_to_the_whole() -> None:
    parts = token_loss(LOGITS[:1], TARGETS[:1], 3) + token_loss(LOGITS[1:], TARGETS[1:], 3)
    assert parts.item() == pytest.approx(token_loss(LOGITS, TARGETS).item(), rel=1e-6)


def test_without_targets_it_is_zero_and_flat() -> None:
    logits = LOGITS.clone().requires_grad_()
    loss = token_loss(logits, torch.full_like(TARGETS, IGNORE))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


def test_half_precision_is_summed_in_single() -> None:
    assert token_loss(LOGITS.bfloat16(), TARGETS).dtype == torch.float32
