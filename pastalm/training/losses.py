"""The losses of both stages, as pure functions of logits and log-probabilities.

Targets are thread-wise: ``targets[b, t]`` is what position t predicts, and nothing is shifted here.

The losses of stage 2 are of whole answers: ``log p(y)`` is the *sum* over an answer's target tokens, in nats.
``chosen`` and ``rejected`` come from the model that is trained, ``chosen_reference`` and ``rejected_reference`` from
the stage-1 model. Every tensor is [pairs], and so is what the functions return; their mean is what training minimises.

Sums, not means over tokens: the margin of BoNBoN is derived for the probability of the whole answer, and a mean would
make it stricter the longer the answer is. So a loss may be in the hundreds (at the start BoNBoN is the squared margin,
648 at N = 10). Adam divides its size out again, and the clipping of gradients makes all steps of a run equally long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pastalm.layout import IGNORE
from pastalm.training.config import PreferConfig

AT_ONCE = 1 << 22  # logits that are float32 at once: on a CPU, as many as caches hold

# From the log-probabilities [P] of chosen and rejected, then those of the reference, to the losses [P].
PairLoss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def target_nats(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """The cross-entropy of each target, the next token of the own thread: nats, float32 [targets], in the order of
    ``targets_BT[targets_BT != IGNORE]``."""
    places = (targets_BT.flatten() != IGNORE).nonzero()[:, 0]
    return _Nats.apply(logits_BTV.flatten(0, -2), places, targets_BT.flatten()[places])


class _Nats(torch.autograd.Function):
    """Cross-entropy in float32, some targets at a time: of all logits at once float32 copies, which are larger than
    everything else that training holds, would be made three times."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, places: Tensor, targets: Tensor) -> Tensor:
        """Logits [positions, vocabulary], the positions with a target, and these targets, to nats [targets]."""
        nats, sums = (torch.empty(len(places), device=logits.device) for _ in range(2))
        for part in _parts(places, logits):
            rows = logits[places[part]].float()
            sums[part] = rows.logsumexp(1)
            nats[part] = sums[part] - rows.gather(1, targets[part, None])[:, 0]
        ctx.save_for_backward(logits, places, targets, sums)
        return nats

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Probabilities less 1 at the target, times the gradient of each target's nats."""
        logits, places, targets, sums = ctx.saved_tensors
        result = torch.zeros_like(logits)
        for part in _parts(places, logits):
            rows = (logits[places[part]].float() - sums[part, None]).exp_()
            rows.scatter_add_(1, targets[part, None], torch.full_like(rows[:, :1], -1))
            result[places[part]] = rows.mul_(gradient[part, None]).to(result.dtype)
        return result, None, None


def _parts(places: Tensor, logits: Tensor) -> Iterator[slice]:
    """Slices of ``places``, each of at most :data:`AT_ONCE` logits, or of one place."""
    size = max(1, AT_ONCE // logits.shape[-1])
    return (slice(start, start + size) for start in range(0, len(places), size))


def token_loss(logits_BTV: Tensor, targets_BT: Tensor, count: Tensor | int | None = None) -> Tensor:
    """The loss of stage 1: :func:`target_nats`, summed and divided by ``count``.

    ``count`` is the number of targets in the whole optimiser step (all processes, all accumulation steps); None takes
    this batch's own.
    """
    nats = target_nats(logits_BTV, targets_BT)
    return nats.sum() / (max(len(nats), 1) if count is None else count)


def answer_log_probabilities(logits_BTV: Tensor, targets_BT: Tensor, answer_BT: Tensor, answers: int) -> Tensor:
    """``log p(y)`` of each answer, [answers]: the sum over its target tokens, in float32.

    ``answer[b, t]`` is the number of the answer that position t belongs to; several answers may share a row. Positions
    without a target count nothing.
    """
    nats = target_nats(logits_BTV, targets_BT)
    return torch.zeros(answers, device=nats.device).index_add(0, answer_BT[targets_BT != IGNORE], -nats)


def margin(samples: int) -> float:
    """By how many nats the best of N answers should gain on the worst: ``(N - 1) * H(N - 1)``, H the harmonic number.

    The policy that answers with the best of N has N u^(N-1) times the model's density, with u the answer's quantile of
    score. Between the best and the worst of N samples the logarithm of that differs by (N-1) (E log U_max - E log
    U_min) = (N-1) (H(N) - 1/N) on average, which is BoNBoN's 1 / (2 beta*). Raises ``ValueError`` for fewer than two
    samples.
    """
    if samples < 2:
        raise ValueError(f"A pair needs at least 2 samples a prompt, not {samples}.")
    return (samples - 1) * sum(1 / k for k in range(1, samples))


def advantage(chosen: Tensor, rejected: Tensor, chosen_reference: Tensor, rejected_reference: Tensor) -> Tensor:
    """How many nats the chosen answer has gained on the rejected one since the reference."""
    return (chosen - rejected) - (chosen_reference - rejected_reference)


def bonbon(
    chosen: Tensor,
    rejected: Tensor,
    chosen_reference: Tensor,
    rejected_reference: Tensor,
    *,
    alpha: float,
    margin: float,
) -> Tensor:
    """``-alpha log p(y+) + (1 - alpha) (advantage - margin)^2`` (BoNBoN, arXiv 2406.00832)."""
    gained = advantage(chosen, rejected, chosen_reference, rejected_reference)
    return -alpha * chosen + (1 - alpha) * (gained - margin).square()


def ipo(
    chosen: Tensor, rejected: Tensor, chosen_reference: Tensor, rejected_reference: Tensor, *, tau: float
) -> Tensor:
    """``(advantage - 1 / (2 tau))^2`` (IPO, arXiv 2310.12036)."""
    return (advantage(chosen, rejected, chosen_reference, rejected_reference) - 1 / (2 * tau)).square()


def dpo(
    chosen: Tensor, rejected: Tensor, chosen_reference: Tensor, rejected_reference: Tensor, *, beta: float
) -> Tensor:
    """``-log sigmoid(beta advantage)`` (DPO, arXiv 2305.18290)."""
    return -logsigmoid(beta * advantage(chosen, rejected, chosen_reference, rejected_reference))


def pair_loss(config: PreferConfig) -> PairLoss:
    """The loss of stage 2 that the settings name."""
    if config.loss == "bonbon":
        return partial(bonbon, alpha=config.alpha, margin=config.margin or margin(config.samples))
    return partial(ipo, tau=config.beta) if config.loss == "ipo" else partial(dpo, beta=config.beta)
