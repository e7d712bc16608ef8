"""From logits to tokens, for all rows of a step at once.

What the grammar forbids is masked, and promises are made likelier or rarer on request. Then each row takes its
likeliest token, or draws one.

Why a draw does not depend on the batch: one number decides it, :meth:`Draw.uniform`, a hash of the request's seed, the
path of the thread and how many tokens the thread has written. It is compared with the running sum of the row's own
weights, and no operation here mixes rows. So (seed, path) alone decides what a thread writes, whatever runs beside it,
in whichever order, and no generator has to be kept for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from math import inf

import torch
from torch import Tensor

from pastalm.lang.recogniser import Legal
from pastalm.runtime.thread import Path

MAX_SPEED = 3
MAX_PENALTY = 2
MAX_BIAS = 100
TEMPERATURES = (1e-6, 1e6)  # beyond these float32 has no numbers left, and the draws would be the same
STRIDE = 64  # a row is looked at in blocks of so many tokens
NUCLEUS = (
    64,
    2048,
)  # so many of the likeliest tokens are tried, until they hold the nucleus; then the whole row is sorted
REFUSED = -1  # in the place of a token: more of the row must be looked at


@dataclass(frozen=True)
class SamplingParams:
    """``temperature`` 0 is greedy; ``top_p`` keeps the likeliest tokens that make up this share of the probability.
    ``speed``, in nats, is added to the logit of starting a promise, before all else: 0 is the model itself.
    ``logit_bias`` is added to the logits of these tokens. ``presence_penalty`` is taken from those of all tokens that
    the thread sees in the answer's text so far, ``frequency_penalty`` once for each time that it sees them."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    speed: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < inf:
            raise ValueError(f"temperature must be a number from 0 (greedy) up, not {self.temperature}.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is a share above 0 and at most 1, not {self.top_p}.")
        if not -MAX_SPEED <= self.speed <= MAX_SPEED:
            raise ValueError(
                f"speed is a number from -{MAX_SPEED} (fewer chunks) to {MAX_SPEED} (more chunks), not {self.speed}."
            )
        for name in ("presence_penalty", "frequency_penalty"):
            if not -MAX_PENALTY <= getattr(self, name) <= MAX_PENALTY:
                raise ValueError(f"{name} is a number from -{MAX_PENALTY} to {MAX_PENALTY}, not {getattr(self, name)}.")
        for token, bias in self.logit_bias:
            if token < 0 or not -MAX_BIAS <= bias <= MAX_BIAS:
                raise ValueError(f"logit_bias is ids with numbers from -{MAX_BIAS} to {MAX_BIAS}, not {token}: {bias}.")

    @property
    def penalised(self) -> bool:
        """Whether what a thread has seen counts."""
        return bool(self.presence_penalty or self.frequency_penalty)


@dataclass(frozen=True)
class Draw:
    """How one token is chosen: the request's parameters, what is legal, whose token it is, and its number in that
    thread; and how often the thread has ``seen`` each token, where that counts."""

    params: SamplingParams
    legal: Legal
    path: Path = ()
    number: int = 0
    seen: Mapping[int, int] = field(default_factory=dict)

    def changes(self) -> Iterator[tuple[int, float]]:
        """What is added to the logits of which tokens."""
        yield from self.params.logit_bias
        for token, times in self.seen.items():
            yield token, -self.params.presence_penalty - self.params.frequency_penalty * times

    def uniform(self, attempt: int = 0) -> float:
        """The number in [0, 1) that decides it: 48 bits of a hash. Another one for each ``attempt``."""
        digest = hashlib.sha256(f"{self.params.seed} {self.path} {self.number} {attempt}".encode()).digest()
        return int.from_bytes(digest[:6], "big") / (1 << 48)


class LegalMasks:
    """Bool [sets, V]: which tokens are illegal, a row for each set that the grammar has asked for."""

    def __init__(self, size: int, device: torch.device) -> None:
        self.size, self.device = size, device
        self.illegal = torch.zeros(0, size, dtype=torch.bool, device=device)
        self._rows: dict[tuple[object, ...], int] = {}

    def row(self, legal: Legal) -> int:
        """The row of a set."""
        if legal.key not in self._rows:
            mask = torch.full((1, self.size), legal.only, dtype=torch.bool)
            mask[0, [token for token in legal.ids if token < self.size]] = not legal.only
            self.illegal = torch.cat([self.illegal, mask.to(self.device)])
            self._rows[legal.key] = len(self._rows)
        return self._rows[legal.key]


@dataclass(frozen=True)
class SamplingInput:
    """The ``draws`` of a step, and as tensors [K] on the device: rows of the legal masks, and of those that count
    instead where the best token is illegal; promise tokens with what is added to their logits; temperatures, shares,
    uniform numbers. ``drawn`` are the rows that are not greedy. ``mixed`` says that the rows have different masks,
    ``replaced`` that ``instead`` differs from ``legal`` anywhere, ``moved`` that a speed is set anywhere."""

    draws: Sequence[Draw]
    legal: Tensor
    instead: Tensor
    promise: Tensor
    speed: Tensor
    temperature: Tensor
    top_p: Tensor
    uniform: Tensor
    drawn: list[int]
    mixed: bool
    replaced: bool
    moved: bool


class Sampler:
    """Chooses the next token of each row, for a head of ``size`` tokens. Its work space is kept between steps."""

    def __init__(self, size: int, device: torch.device) -> None:
        self.size, self.masks = size, LegalMasks(size, device)
        self._space = torch.empty(2, 0, -(-size // STRIDE) * STRIDE, device=device)

    def sample(self, logits_KV: Tensor, rows: SamplingInput) -> list[int]:
        """One token for each row of logits, which stay as they are. The ids go to the host in one copy; a row that
        draws a token that ``top_p`` drops takes another."""
        scores = self._scores(logits_KV, rows)
        if not rows.drawn:
            return likeliest(scores).tolist()
        if len(rows.drawn) == len(scores):
            return self._draw(scores, rows.temperature, rows.top_p, rows.uniform, rows.draws)
        tokens = likeliest(scores).tolist()
        some = torch.tensor(rows.drawn, device=scores.device)
        draws = [rows.draws[row] for row in rows.drawn]
        drawn = self._draw(scores[some], rows.temperature[some], rows.top_p[some], rows.uniform[some], draws)
        for row, token in zip(rows.drawn, drawn, strict=True):
            tokens[row] = token
        return tokens

    def _scores(self, logits_KV: Tensor, rows: SamplingInput) -> Tensor:
        """The logits in float32, in blocks [K, n, STRIDE], as the grammar and the speeds have them: half precision
        would swallow a small bias."""
        number = len(logits_KV)
        if number > self._space.shape[1]:
            self._space = self._space.new_empty(2, number, self._space.shape[2])
        scores = self._space[0, :number]
        scores[:, self.size :] = -inf
        own, blocks = scores[:, : self.size].copy_(logits_KV), scores.view(number, -1, STRIDE)
        own.masked_fill_(self._illegal(blocks, rows), -inf)
        if changes := [(row, *one) for row, draw in enumerate(rows.draws) for one in draw.changes()]:
            places = torch.tensor([(row, token) for row, token, _ in changes], device=scores.device)
            values = torch.tensor([value for *_, value in changes], dtype=scores.dtype, device=scores.device)
            scores.index_put_(places.unbind(1), values, accumulate=True)
        if rows.moved:
            scores[torch.arange(number, device=scores.device), rows.promise] += rows.speed
        return blocks

    def _illegal(self, scores_KnS: Tensor, rows: SamplingInput) -> Tensor:
        """Bool [K or 1, V]: what the grammar forbids, which may depend on whether it forbids the best token."""
        illegal = self.masks.illegal
        if rows.replaced:
            refused = illegal[rows.legal, likeliest(scores_KnS).clamp_(max=self.size - 1)]
            return illegal[torch.where(refused, rows.instead, rows.legal)]
        return illegal[rows.legal if rows.mixed else rows.legal[:1]]

    def _draw(
        self, scores_KnS: Tensor, temperature_K: Tensor, top_p_K: Tensor, uniform_K: Tensor, draws: Sequence[Draw]
    ) -> list[int]:
        """A token for each row by its weight, among those that ``top_p`` keeps. Spends the scores.

        A row draws from all its tokens. One that ``top_p`` drops is thrown back, and the row draws again from those
        likelier than it: so draws follow the weights of what is kept, exactly, and no row is sorted.
        """
        top = scores_KnS.amax((-1, -2), keepdim=True)  # no temperature, however low, makes weights infinite
        weights = scores_KnS.sub_(top).div_(temperature_K[:, None, None]).exp_()
        tokens = draw(weights, uniform_K)
        if all(one.params.top_p == 1 for one in draws):
            return tokens.tolist()
        share = top_p_K * weights.sum((-1, -2)).double()
        own = weights.flatten(1).gather(1, tokens[:, None])
        above = torch.ge(weights.flatten(1), own, out=self._space[1, : len(weights)])
        sure = torch.linalg.vecdot(weights.flatten(1), above) - own[:, 0] < share  # kept, whatever equals it
        found = tokens.where(sure | (top_p_K == 1), -1 - tokens).tolist()
        for row, token in enumerate(found):
            if token < 0:
                found[row] = redraw(weights[row], float(share[row]), -1 - token, draws[row])
        return found


def likeliest(scores_KnS: Tensor) -> Tensor:
    """The token [K] with the highest score in each row, the first of equal ones. By blocks: a plain argmax over a large
    vocabulary takes several times as long on a CPU."""
    if scores_KnS.shape[1] <= STRIDE:
        return scores_KnS.flatten(1).argmax(-1)
    block = scores_KnS.amax(-1).argmax(-1)
    own = scores_KnS[torch.arange(len(block), device=block.device), block]
    return block * STRIDE + own.argmax(-1)


def draw(weights_KnS: Tensor, uniform_K: Tensor) -> Tensor:
    """A token [K] for each row, by its weight: the first whose running sum passes the uniform number's share."""
    block, inside = _pick(weights_KnS.sum(-1).double(), uniform_K)
    own = weights_KnS[torch.arange(len(block), device=block.device), block].double()
    return block * STRIDE + _pick(own, inside)[0]


def redraw(weights_nS: Tensor, share: float, token: int, how: Draw) -> int:
    """``token`` if it is among the likeliest that make up ``share``, or the first one drawn after it that is."""
    for attempt in count(1):
        ahead = weights_nS.where(likelier(weights_nS, token), 0)
        if float(ahead.sum()) < share:  # what is likelier does not suffice yet
            break
        weights_nS = ahead
        number = weights_nS.new_tensor([how.uniform(attempt)], dtype=torch.float64)
        token = int(draw(weights_nS[None], number))
    return token


def likelier(weights_nS: Tensor, token: int) -> Tensor:
    """Bool [n, STRIDE]: which tokens come before ``token`` in the order of weights, equal ones by id."""
    own = weights_nS.view(-1)[token]
    first = torch.arange(weights_nS.numel(), device=own.device).view_as(weights_nS) < token
    return (weights_nS > own) | ((weights_nS == own) & first)


def _pick(weights: Tensor, uniform_K: Tensor) -> tuple[Tensor, Tensor]:
    """The place [K] in each row of weights [K, n] where the running sum passes the uniform number's share; and how far
    the share goes into that place's weight, [K] in [0, 1)."""
    sums = weights.cumsum(-1)
    share = uniform_K[:, None] * sums[:, -1:]
    place = (sums <= share).sum(-1, keepdim=True).clamp_(max=weights.shape[-1] - 1)
    own = weights.gather(-1, place)
    into = (share - (sums.gather(-1, place) - own)) / own
    return place[:, 0], into[:, 0].clamp(0, 1 - 2**-40)
