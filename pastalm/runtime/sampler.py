"""From logits to tokens, for all rows of a step at once.

What the grammar forbids is masked, and promises are made likelier or rarer on request. Then each row takes its
likeliest token, or draws one.

Why a draw does not depend on the batch: one number decides it, :func:`uniform`, a hash of the request's seed, the path
of the thread and how many tokens the thread has written. It is compared with the running sum of the row's own weights,
and no operation here mixes rows. So (seed, path) alone decides what a thread writes, whatever runs beside it, in
whichever order, and no generator has to be kept for it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from pastalm.lang.recogniser import Legal
from pastalm.runtime.thread import Path

MAX_SPEED = 3
TEMPERATURES = (1e-6, 1e6)  # beyond these float32 has no numbers left, and the draws would be the same
NUCLEUS = 256  # so many of the likeliest tokens hold the nucleus of most rows; the others' rows are sorted
STRIDE = 64  # weights are summed in blocks of so many
REFUSED = -1  # in the place of a token: more of the row must be looked at


@dataclass(frozen=True)
class SamplingParams:
    """``temperature`` 0 is greedy; ``top_p`` keeps the likeliest tokens that make up this share of the probability.
    ``speed``, in nats, is added to the logit of starting a promise, before all else: 0 is the model itself."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    speed: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < inf:
            raise ValueError(f"temperature must be a number from 0 (greedy) up, not {self.temperature}.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is a share above 0 and at most 1, not {self.top_p}.")
        if not -MAX_SPEED <= self.speed <= MAX_SPEED:
            raise ValueError(
                f"speed is a number from -{MAX_SPEED} (fewer chunks) to {MAX_SPEED} (more chunks), not {self.speed}."
            )


@dataclass(frozen=True)
class Draw:
    """How one token is chosen: the request's parameters, what is legal, whose token it is, and its number in that
    thread."""

    params: SamplingParams
    legal: Legal
    path: Path = ()
    number: int = 0


def uniform(seed: int, path: Path, number: int) -> float:
    """The number in [0, 1) that decides token ``number`` of a thread: 48 bits of a hash."""
    digest = hashlib.sha256(f"{seed} {path} {number}".encode()).digest()
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
    """The draws of a step as tensors [K] on the device: rows of the legal masks, and of those that count instead where
    the best token is illegal; promise tokens with what is added to their logits, temperatures, shares, uniform numbers.
    ``drawn`` are the rows that draw, ``cut`` those with a ``top_p`` below 1 among them; both as indices on the host.
    ``moved`` says that a speed is set anywhere, ``replaced`` that ``instead`` differs from ``legal`` anywhere."""

    legal: Tensor
    instead: Tensor
    promise: Tensor
    speed: Tensor
    temperature: Tensor
    top_p: Tensor
    uniform: Tensor
    drawn: list[int]
    cut: list[int]
    moved: bool
    replaced: bool = False


class Sampler:
    """Chooses the next token of each row, for a head of ``size`` tokens."""

    def __init__(self, size: int, device: torch.device) -> None:
        self.masks = LegalMasks(size, device)

    @torch.inference_mode()
    def sample(self, logits_KV: Tensor, rows: SamplingInput) -> list[int]:
        """One token for each row of logits, which stay as they are. The ids go to the host in one copy; rows whose
        nucleus is large take a second one."""
        scores = self._scores(logits_KV, rows)
        if not rows.drawn:
            return scores.argmax(-1).tolist()
        drawn = _Rows(scores, rows.temperature, rows.top_p, rows.uniform)
        if len(rows.drawn) < len(scores):
            drawn = drawn.some(rows.drawn)
        tokens = self._draw(drawn, [rows.drawn.index(row) for row in rows.cut])
        if len(rows.drawn) < len(scores):
            tokens = scores.argmax(-1).index_copy(0, torch.tensor(rows.drawn, device=tokens.device), tokens)
        found = tokens.tolist()
        refused = [row for row, token in enumerate(found) if token == REFUSED]
        if refused:
            again = _Rows(scores, rows.temperature, rows.top_p, rows.uniform).some(refused)
            for row, token in zip(refused, draw_nucleus(again, scores.shape[-1]).tolist(), strict=True):
                found[row] = token
        return found

    def _scores(self, logits_KV: Tensor, rows: SamplingInput) -> Tensor:
        """The logits in float32, as the grammar and the speeds have them: half precision would swallow a small bias."""
        scores = logits_KV.float().masked_fill(self._illegal(logits_KV, rows), -inf)
        if rows.moved:
            scores[torch.arange(len(scores), device=scores.device), rows.promise] += rows.speed
        return scores

    def _illegal(self, logits_KV: Tensor, rows: SamplingInput) -> Tensor:
        """Bool [K, V]: what the grammar forbids, which may depend on whether it forbids the best token."""
        illegal = self.masks.illegal[rows.legal]
        if not rows.replaced:
            return illegal
        refused = illegal.gather(-1, logits_KV.argmax(-1, keepdim=True))
        return self.masks.illegal[torch.where(refused[:, 0], rows.instead, rows.legal)]

    def _draw(self, rows: _Rows, cut: list[int]) -> Tensor:
        if not cut:
            return draw(rows)
        if len(cut) == len(rows.scores):
            return draw_nucleus(rows, NUCLEUS)
        tokens = draw(rows)
        tokens[cut] = draw_nucleus(rows.some(cut), NUCLEUS)
        return tokens


@dataclass(frozen=True)
class _Rows:
    """Rows that draw: ``scores`` [K, V], the others [K]."""

    scores: Tensor
    temperature: Tensor
    top_p: Tensor
    uniform: Tensor

    def some(self, rows: list[int]) -> _Rows:
        return _Rows(self.scores[rows], self.temperature[rows], self.top_p[rows], self.uniform[rows])

    def weights(self) -> Tensor:
        """Probabilities [K, V] but for a factor a row; no temperature, however low, makes them infinite."""
        scores = self.scores - self.scores.amax(-1, keepdim=True)
        return scores.div_(self.temperature[:, None]).exp_()


def draw(rows: _Rows) -> Tensor:
    """A token [K] for each row, by its weight: the first whose running sum passes the uniform number's share."""
    weights = rows.weights()
    blocks = torch.nn.functional.pad(weights, (0, -weights.shape[-1] % STRIDE)).unflatten(-1, (-1, STRIDE))
    block, inside = _pick(blocks.sum(-1).double(), rows.uniform)
    chosen = blocks[torch.arange(len(block), device=block.device), block].double()
    return block * STRIDE + _pick(chosen, inside)[0]


def draw_nucleus(rows: _Rows, count: int) -> Tensor:
    """A token [K] for each row, by its weight among those that ``top_p`` keeps, likeliest first. ``REFUSED`` where the
    ``count`` likeliest tokens do not make up the nucleus."""
    weights = rows.weights()
    values, ids, kept = nucleus(weights, rows.top_p, count)
    place, _ = _pick(
        values.double().masked_fill_(torch.arange(values.shape[-1], device=ids.device) >= kept, 0), rows.uniform
    )
    tokens = ids.gather(-1, place[:, None])[:, 0]
    return tokens.masked_fill(kept[:, 0] == 0, REFUSED)


def nucleus(weights_KV: Tensor, top_p_K: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The ``count`` largest weights of each row in order, equal ones by id, [K, count]; their ids; and how many of them
    are the smallest set that makes up ``top_p``, [K, 1]: 0 where that set may be larger, or cut through equal weights
    of which some are not here."""
    size = weights_KV.shape[-1]
    if count < size:
        ids = weights_KV.topk(count, sorted=False).indices.sort(-1).values
        values, order = weights_KV.gather(-1, ids).sort(dim=-1, descending=True, stable=True)
        ids = ids.gather(-1, order)
    else:
        values, ids = weights_KV.sort(dim=-1, descending=True, stable=True)
    share = top_p_K.double() * weights_KV.sum(-1).double()
    before = values.double().cumsum(-1) - values  # what stands before a token does not suffice yet
    kept = (before < share[:, None]).sum(-1, keepdim=True).clamp_(min=1)
    if count < size:
        last = values.gather(-1, kept.clamp(max=count) - 1)
        kept = kept.masked_fill((kept >= count) | (last <= values[:, -1:]), 0)
    return values, ids, kept


def _pick(weights: Tensor, uniform_K: Tensor) -> tuple[Tensor, Tensor]:
    """The place [K] in each row of weights [K, n] where the running sum passes the uniform number's share; and how far
    the share goes into that place's weight, [K] in [0, 1)."""
    sums = weights.cumsum(-1)
    share = uniform_K[:, None] * sums[:, -1:]
    place = (sums <= share).sum(-1, keepdim=True).clamp_(max=weights.shape[-1] - 1)
    own = weights.gather(-1, place)
    into = (share - (sums.gather(-1, place) - own)) / own
    return place[:, 0], into[:, 0].clamp(0, 1 - 2**-40)
