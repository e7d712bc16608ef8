"""The losses of both stages against their arithmetic, and the log-probabilities they are made of."""

from __future__ import annotations

from functools import partial
from math import exp, log

import pytest
import torch
from torch.nn.functional import cross_entropy

from pastalm.layout import IGNORE
from pastalm.training import losses
from pastalm.training.config import PreferConfig
from pastalm.training.losses import (
    answer_log_probabilities,
    bonbon,
    dpo,
    ipo,
    margin,
    pair_loss,
    target_nats,
    token_loss,
)

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


@pytest.mark.parametrize("at_once", [1, 3 * 11, 1 << 22])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nats_and_their_gradient_are_those_of_torch(
    at_once: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "AT_ONCE", at_once)  # a target at a time, three, all
    torch.manual_seed(0)
    weights = torch.randn(2, 4)
    logits, targets = 5 * torch.randn(2, 4, 11), torch.randint(0, 11, (2, 4))
    targets[0, 1] = targets[1, 3] = IGNORE
    counted, found = targets != IGNORE, []
    for nats in (target_nats, lambda x, y: cross_entropy(x[counted].float(), y[counted], reduction="none")):
        own = logits.to(dtype).requires_grad_()
        each = nats(own, targets)
        (each * weights[counted]).sum().backward()
        found.append((each.detach(), own.grad))
    torch.testing.assert_close(*(one for one, _ in found), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        *(gradient for _, gradient in found), atol=1e-6, rtol=1e-6 if dtype == torch.float32 else 8e-3
    )


# Two pairs: log p(y+), log p(y-), log p0(y+), log p0(y-). Their advantages:
# (-20 + 26) - (-22 + 24) = 4 and (-7 + 5) - (-4 + 4) = -2.
PAIRS = [torch.tensor(one) for one in ([-20.0, -7.0], [-26.0, -5.0], [-22.0, -4.0], [-24.0, -4.0])]


def test_the_margin_is_that_of_the_best_of_n():
    assert margin(2) == 1
    assert margin(4) == pytest.approx(3 * (1 + 1 / 2 + 1 / 3))
    assert margin(10) == pytest.approx(25.46, abs=0.005)
    with pytest.raises(ValueError, match="at least 2"):
        margin(1)


def test_the_margin_is_the_mean_gain_of_the_best_on_the_worst():
    """The best-of-N policy has N u^(N-1) times the density; u are uniform quantiles of N samples."""
    n = 6
    u = torch.rand(200_000, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gain = (n - 1) * (u.amax(1).log() - u.amin(1).log())
    assert gain.mean().item() == pytest.approx(margin(n), rel=0.01)


def test_bonbon():
    losses = bonbon(*PAIRS, alpha=0.005, margin=25.0)
    assert losses.tolist() == pytest.approx([0.005 * 20 + 0.995 * 21**2, 0.005 * 7 + 0.995 * 27**2])


def test_ipo():
    assert ipo(*PAIRS, tau=0.1).tolist() == pytest.approx([(4 - 5) ** 2, (-2 - 5) ** 2])


def test_dpo():
    assert dpo(*PAIRS, beta=0.5).tolist() == pytest.approx([log(1 + exp(-2)), log(1 + exp(1))])


@pytest.mark.parametrize(
    "loss", [partial(bonbon, alpha=0.3, margin=2.0), partial(ipo, tau=0.2), partial(dpo, beta=0.7)]
)
def test_gradients(loss):
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(3, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(4)]
    assert torch.autograd.gradcheck(loss, inputs)


def test_bonbon_pulls_towards_its_margin_and_no_further():
    def pull(gained: float) -> tuple[float, float]:
        chosen, rejected = (torch.zeros(1, requires_grad=True) for _ in range(2))
        bonbon(chosen, rejected, torch.tensor([-gained]), torch.zeros(1), alpha=0.0, margin=5.0).sum().backward()
        return -chosen.grad.item(), -rejected.grad.item()

    assert pull(1.0) == (8.0, -8.0)  # 2 (m - gained)
    assert pull(5.0) == (0.0, 0.0)
    assert pull(6.0) == (-2.0, 2.0)


def test_the_settings_choose_the_loss():
    settings = {"model": "m", "data": "d", "out": "o", "samples": 4}
    assert torch.equal(pair_loss(PreferConfig(**settings))(*PAIRS), bonbon(*PAIRS, alpha=0.005, margin=margin(4)))
    assert torch.equal(pair_loss(PreferConfig(**settings, margin=7))(*PAIRS), bonbon(*PAIRS, alpha=0.005, margin=7))
    assert torch.equal(pair_loss(PreferConfig(**settings, loss="ipo", beta=0.3))(*PAIRS), ipo(*PAIRS, tau=0.3))
    assert torch.equal(pair_loss(PreferConfig(**settings, loss="dpo", beta=0.3))(*PAIRS), dpo(*PAIRS, beta=0.3))


def test_log_probabilities_are_sums_over_an_answers_targets():
    logits = torch.tensor([[[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]], [[1.0, 1.0, 1.0], [5.0, 0.0, -5.0]]])
    targets = torch.tensor([[2, IGNORE], [0, 1]])
    answer = torch.tensor([[0, 0], [1, 0]])  # answer 0 lies in both rows
    first = 2 - log(1 + exp(1) + exp(2))
    last = -log(exp(5) + 1 + exp(-5))
    found = answer_log_probabilities(logits, targets, answer, 3)
    assert found.tolist() == pytest.approx([first + last, -log(3), 0.0])
    assert answer_log_probabilities(logits.bfloat16(), targets, answer, 3).dtype == torch.float32
