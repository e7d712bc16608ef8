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
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import count
from math import inf
from numbers import Real

import torch
from torch import Tensor

from pastalm.lang.recogniser import Legal
from pastalm.runtime.thread import ThreadPath

MAX_PROMISE_BIAS = 3
MAX_PENALTY = 2
MAX_BIAS = 100
TEMPERATURES = (1e-6, 1e6)  # beyond these float32 has no numbers left, and the draws would be the same
ROOM = 32  # sets of legal tokens that a table begins with
STRIDE = 64  # a row is looked at in blocks of so many tokens


@dataclass(frozen=True)
class SamplingParams:
    """``temperature`` 0 is greedy; ``top_p`` keeps the likeliest tokens that make up this share of the probability.
    ``promise_bias``, in nats, is added to the logit of starting a promise, before all else: 0 is the model itself.
    ``logit_bias`` is added to the logits of these tokens. ``presence_penalty`` is taken from those of all tokens that
    the thread sees in the answer's text so far, ``frequency_penalty`` once for each time that it sees them."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    promise_bias: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0

    def __post_init__(self) -> None:
        for name in ("temperature", "top_p", "promise_bias", "presence_penalty", "frequency_penalty"):
            if not isinstance(getattr(self, name), Real):
                raise ValueError(f"{name} must be a number, not {getattr(self, name)!r}.")
        if not 0 <= self.temperature < inf:
            raise ValueError(f"temperature must be a number from 0 (greedy) up, not {self.temperature}.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is a share above 0 and at most 1, not {self.top_p}.")
        if not -MAX_PROMISE_BIAS <= self.promise_bias <= MAX_PROMISE_BIAS:
            raise ValueError(
                f"promise_bias is a number from -{MAX_PROMISE_BIAS} (fewer chunks) to {MAX_PROMISE_BIAS} "
                f"(more chunks), not {self.promise_bias}."
            )
        for name in ("presence_penalty", "frequency_penalty"):
            if not -MAX_PENALTY <= getattr(self, name) <= MAX_PENALTY:
                raise ValueError(f"{name} is a number from -{MAX_PENALTY} to {MAX_PENALTY}, not {getattr(self, name)}.")
        for token, bias in self.logit_bias:
            known = isinstance(token, int) and token >= 0 and isinstance(bias, Real)
            if not known or not -MAX_BIAS <= bias <= MAX_BIAS:
                raise ValueError(
                    f"logit_bias is ids with numbers from -{MAX_BIAS} to {MAX_BIAS}, not {token!r}: {bias!r}."
                )

    @property
    def redrawn(self) -> bool:
        """Whether the host may draw a token again that the device has drawn: ``top_p`` drops some."""
        return self.temperature > 0 and self.top_p < 1

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
    path: ThreadPath = ()
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


# How a row is chosen whose token nobody wants.
UNWANTED = Draw(SamplingParams(), Legal(("any",), ()))


class LegalMasks:
    """Which tokens are illegal, a row for each set that the grammar has asked for.

    ``table`` is bool [room, V], and the same tensor as long as it has room. ``following`` int16 [room, V], alike, says
    which row counts in a set's place, given the best token.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self.size = size
        self.table = torch.zeros(ROOM, size, dtype=torch.bool, device=device)
        self.following = torch.zeros_like(self.table, dtype=torch.int16)
        self._rows: dict[tuple[object, ...], int] = {}

    def index(self, legal: Legal) -> int:
        """Which row of the table a set has."""
        if legal.key not in self._rows:
            instead = self.index(legal.instead) if legal.instead else None
            others = {token: self.index(other) for token, other in legal.in_place_of.items() if token < self.size}
            number = len(self._rows)
            illegal = torch.full((self.size,), legal.only, dtype=torch.bool)
            illegal[[token for token in legal.ids if token < self.size]] = not legal.only
            following = torch.full((self.size,), number, dtype=torch.int16)
            if instead is not None:
                following[illegal] = instead
            for token, other in others.items():
                following[token] = other
            self._make_room(number)
            self.table[number].copy_(illegal)
            self.following[number].copy_(following)
            self._rows[legal.key] = number  # last: whatever ends this sooner leaves a row that nobody reads
        return self._rows[legal.key]

    def _make_room(self, number: int) -> None:
        """Have a row of this number, in both tables or in neither."""
        if number == len(self.table):
            larger = [torch.cat([table, torch.zeros_like(table)]) for table in (self.table, self.following)]
            self.table, self.following = larger


@dataclass(frozen=True)
class SamplingInput:
    """The ``draws`` of a step, and as tensors [K] on the device: rows of the legal masks; promise tokens with what is
    added to their logits; whether a row is drawn, and with which temperature, share and uniform number. ``drawn`` are
    the rows that are, the others are greedy. ``changes`` are rows, tokens and what is added to their logits. ``mixed``
    says that the rows have different masks, ``replaced`` that the best token may call for another one anywhere,
    ``moved`` that a promise bias is set anywhere, ``cut`` that a share is below 1."""

    draws: Sequence[Draw]
    legal: Tensor
    promise: Tensor
    promise_bias: Tensor
    random: Tensor
    temperature: Tensor
    top_p: Tensor
    uniform: Tensor
    drawn: list[int]
    changes: list[tuple[int, int, float]]
    mixed: bool
    replaced: bool
    moved: bool
    cut: bool

    def complete(self) -> SamplingInput:
        """The same tensors with all that they can ask for, whatever this step needs of it; ``changes`` are none."""
        return replace(self, draws=(), changes=[], mixed=True, replaced=True, moved=True, cut=True)


@dataclass(frozen=True)
class Chosen:
    """``tokens`` [K] on the device, -1 - token for one that ``top_p`` may drop; the ``weights`` [K, n, STRIDE] that
    they were drawn by, and the ``share`` [K] of these that is kept."""

    tokens: Tensor
    weights: Tensor | None = None
    share: Tensor | None = None

    def clone(self, *, weights: bool) -> Chosen:
        """The same in memory of its own, with the weights or without."""
        if not weights or self.weights is None or self.share is None:
            return Chosen(self.tokens.clone())
        return Chosen(self.tokens.clone(), self.weights.clone(), self.share.clone())


class SamplerOutput:
    """The tokens of a step on their way to the host, which may do other things meanwhile."""

    def __init__(self, sampler: Sampler, chosen: Chosen, draws: Sequence[Draw]) -> None:
        self.chosen, self._sampler, self._draws = chosen, sampler, draws
        on_gpu = chosen.tokens.is_cuda  # nowhere else could one wait for the end of a copy
        self._ids = chosen.tokens[: len(draws)].to("cpu", non_blocking=on_gpu)  # from a GPU into pinned memory
        self._copied = torch.cuda.Event() if on_gpu else None
        if self._copied is not None:
            self._copied.record(torch.cuda.current_stream(chosen.tokens.device))

    @cached_property
    @torch.inference_mode()
    def tokens(self) -> list[int]:
        """One for each draw; waits until they are there."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._sampler.settle(replace(self.chosen, tokens=self._ids), self._draws)


class Sampler:
    """Chooses the next token of each row, for a head of ``size`` tokens."""

    def __init__(self, size: int, device: torch.device) -> None:
        self.size, self.masks = size, LegalMasks(size, device)
        self._space = torch.empty(2, 0, -(-size // STRIDE) * STRIDE, device=device)

    def settle(self, chosen: Chosen, draws: Sequence[Draw]) -> list[int]:
        """The tokens of a choice, in one copy to the host; a row that drew what ``top_p`` drops takes another."""
        found = chosen.tokens[: len(draws)].tolist()
        for row, token in enumerate(found):
            if token < 0 and chosen.weights is not None and chosen.share is not None:
                found[row] = redraw(chosen.weights[row], float(chosen.share[row]), -1 - token, draws[row])
        return found

    def choose(self, logits_KV: Tensor, rows: SamplingInput) -> Chosen:
        """Choose on the device: nothing here waits for it, so that a graph can hold it.

        A row draws from all its tokens. One that ``top_p`` drops is thrown back, and the row draws again from those
        likelier than it: so draws follow the weights of what is kept, exactly, and no row is sorted.
        """
        scores = self._scores(logits_KV, rows)
        if not rows.drawn:
            return Chosen(likeliest(scores))
        greedy = None if len(rows.drawn) == len(rows.draws) else likeliest(scores)
        top = scores.amax((-1, -2), keepdim=True)  # no temperature, however low, makes weights infinite
        weights = scores.sub_(top).div_(rows.temperature[:, None, None]).exp_()
        tokens, share = draw(weights, rows.uniform), None
        if rows.cut:
            share = rows.top_p * weights.sum((-1, -2)).double()
            tokens = tokens.where(self._surely_kept(weights, tokens, share) | (rows.top_p == 1), -1 - tokens)
        return Chosen(tokens if greedy is None else tokens.where(rows.random, greedy), weights, share)

    def _surely_kept(self, weights_KnS: Tensor, tokens_K: Tensor, share_K: Tensor) -> Tensor:
        """Bool [K]: the likelier tokens do not make up the share, whatever equals them."""
        weights = weights_KnS.flatten(1)
        own = weights.gather(1, tokens_K[:, None])
        above = torch.ge(weights, own, out=self._room(len(weights))[1])
        return torch.linalg.vecdot(weights, above) - own[:, 0] < share_K

    def _room(self, rows: int) -> Tensor:
        """Room for two numbers a token: [2, rows, n * STRIDE]. A CPU keeps it between steps; a GPU allocates as fast,
        and a graph must have its own."""
        if self._space.is_cuda:
            return self._space.new_empty(2, rows, self._space.shape[2])
        if rows > self._space.shape[1]:
            self._space = self._space.new_empty(2, rows, self._space.shape[2])
        return self._space[:, :rows]

    def _scores(self, logits_KV: Tensor, rows: SamplingInput) -> Tensor:
        """The logits in float32, in blocks [K, n, STRIDE], as the grammar and the promise biases have them: half
        precision would swallow a small bias."""
        scores = self._room(len(logits_KV))[0]
        scores[:, self.size :] = -inf
        own, blocks = scores[:, : self.size].copy_(logits_KV), scores.view(len(scores), -1, STRIDE)
        own.masked_fill_(self._illegal(blocks, rows), -inf)
        if rows.changes:
            places = torch.tensor([(row, token) for row, token, _ in rows.changes], device=scores.device)
            values = torch.tensor([value for *_, value in rows.changes], dtype=scores.dtype, device=scores.device)
            scores.index_put_(places.unbind(1), values, accumulate=True)
        if rows.moved:
            scores[torch.arange(len(scores), device=scores.device), rows.promise] += rows.promise_bias
        return blocks

    def _illegal(self, scores_KnS: Tensor, rows: SamplingInput) -> Tensor:
        """Bool [K or 1, V]: what the grammar forbids, which may depend on which token is the best."""
        illegal = self.masks.table
        if rows.replaced:
            best = likeliest(scores_KnS).clamp_(max=self.size - 1)
            return illegal[self.masks.following[rows.legal, best].long()]
        return illegal[rows.legal if rows.mixed else rows.legal[:1]]


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
