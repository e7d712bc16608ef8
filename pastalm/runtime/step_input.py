"""The input of one step: what the model is fed, what each token sees, which rows are wanted and how they are sampled.

All of it lies in one buffer on the host, which is filled in place and copied to the device once. Every shape has fixed
places in the buffer, so what was compiled or captured for a shape is fed by filling the same places again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor

from pastalm.runtime.kv_cache import in_blocks
from pastalm.runtime.sampler import TEMPERATURES, Draw, LegalMasks, SamplingInput
from pastalm.runtime.visibility import JUNK, Query

NOTHING = 1 << JUNK  # what a place without a query sees
KNOWN_SHAPES = 512  # more than a batch meets; then the views are made anew


@dataclass(frozen=True)
class Part:
    """One sequence's part of a step: its ``row`` of the cache, the tokens it feeds, the indices of those whose logits
    are ``wanted``, and how the token after each of these is chosen; without draws none is."""

    row: int
    queries: Sequence[Query]
    wanted: Sequence[int]
    draws: Sequence[Draw] = ()

    @property
    def used(self) -> int:
        """How many slots of its row, from the first on, are written or seen."""
        return max(query.end for query in self.queries)


@dataclass(frozen=True)
class StepShape:
    """``queries`` N tokens are fed; L ``rows`` of the cache attend, ``width`` Q places each; ``slots`` S of each are
    read; ``wanted`` K logits are asked for. The rows follow each other from ``first`` on, or with ``first`` None they
    lie far apart, and are copied together. ``dense`` says that query n stands in place n."""

    queries: int
    first: int | None
    rows: int
    width: int
    slots: int
    wanted: int
    dense: bool

    @classmethod
    def of(cls, parts: Sequence[Part]) -> StepShape:
        """The smallest shape that holds a step; ``parts`` are in order of their rows.

        Rows are read where they lie, so one goes for it even if some in between are idle; many of those would cost
        more than the copy.
        """
        counts = [len(part.queries) for part in parts]
        first, last = parts[0].row, parts[-1].row
        near = last - first < 2 * len(parts)
        rows, width = last - first + 1 if near else len(parts), max(counts)
        return cls(
            queries=sum(counts),
            first=first if near else None,
            rows=rows,
            width=width,
            slots=in_blocks(max(part.used for part in parts)),
            wanted=sum(len(part.wanted) for part in parts),
            dense=sum(counts) == rows * width,
        )

    @classmethod
    def full(cls, rows: int, width: int, slots: int) -> StepShape:
        """A shape with a query in each place, whose logits are all wanted, and with any rows of the cache."""
        return cls(rows * width, None, rows, width, slots, rows * width, dense=True)

    @classmethod
    def choice(cls, wanted: int) -> StepShape:
        """A shape without queries, for a choice from logits that are there."""
        return cls(0, None, 0, 0, 0, wanted, dense=True)


class StepInput:
    """The tensors of one shape, on the device, and the same places on the host.

    ``tokens``, ``positions`` [1, N]; ``follows`` [N], 0 or one more than the row of the step before whose token is fed
    instead; ``slots`` [N], flat over the cache; ``places`` [N], of each query among the L * Q that attend; ``sources``
    [L * Q], the query in each place; ``read`` [L], the rows that attend, and how many of their slots are ``used`` [L];
    ``wanted`` [K]; ``visible`` uint8 [L, 1, Q, S / 8], bits; and [K] each what
    :class:`pastalm.runtime.sampler.SamplingInput` holds.
    """

    def __init__(self, shape: StepShape, host: np.ndarray, device: Tensor) -> None:
        n, k, places = shape.queries, shape.wanted, shape.rows * shape.width
        self.shape, self.size = shape, 0
        self._host, self._device = host, device
        self._filled: dict[str, np.ndarray] = {}
        self.tokens = self._section("tokens", (1, n), torch.int64)
        self.follows = self._section("follows", (n,), torch.int64)
        self.positions = self._section("positions", (1, n), torch.int64)
        self.slots = self._section("slots", (n,), torch.int64)
        self.places = self._section("places", (n,), torch.int64)
        self.sources = self._section("sources", (places,), torch.int64)
        self.read = self._section("read", (shape.rows,), torch.int64)
        self.used = self._section("used", (shape.rows,), torch.int64)
        self.wanted = self._section("wanted", (k,), torch.int64)
        self.legal = self._section("legal", (k,), torch.int64)
        self.promise = self._section("promise", (k,), torch.int64)
        self.uniform = self._section("uniform", (k,), torch.float64)
        self.top_p = self._section("top_p", (k,), torch.float64)
        self.temperature = self._section("temperature", (k,), torch.float32)
        self.promise_bias = self._section("promise_bias", (k,), torch.float32)
        self.random = self._section("random", (k,), torch.bool)
        self.visible = self._section("visible", (shape.rows, 1, shape.width, shape.slots // 8), torch.uint8)

    def _section(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """The next places of the buffer, on both sides."""
        count = prod(shape) * dtype.itemsize
        span = slice(self.size, self.size + count)
        self.size += -(-count // 8) * 8
        kind = np.dtype(str(dtype).removeprefix("torch."))
        self._filled[name] = self._host[span].view(kind)
        return self._device[span].view(dtype).view(shape)

    def follow(self, tokens_K: Tensor) -> None:
        """On the device: feed what follows tokens of the step before."""
        before = tokens_K[(self.follows - 1).clamp(min=0)]
        self.tokens[0].copy_(torch.where(self.follows > 0, before, self.tokens[0]))

    def fill_queries(self, parts: Sequence[Part], cache_slots: int) -> None:
        """Write what a step is fed into the host's places."""
        shape, size = self.shape, self.shape.slots // 8
        queries = [query for part in parts for query in part.queries]
        rows = [part.row for part in parts] if shape.first is None else range(shape.first, shape.first + shape.rows)
        index = {row: number for number, row in enumerate(rows)}
        places = [index[part.row] * shape.width + k for part in parts for k in range(len(part.queries))]
        seen = [NOTHING.to_bytes(size, "little")] * (shape.rows * shape.width)
        used = [JUNK + 1] * shape.rows
        wanted, start = [], 0
        for part in parts:
            wanted += [start + number for number in part.wanted]
            start += len(part.queries)
            used[index[part.row]] = part.used
        for place, query in zip(places, queries, strict=True):
            seen[place] = query.visible.to_bytes(size, "little")
        where = places if shape.queries > len(queries) else None  # in a shape with padding each query has its place
        self._write("tokens", [query.token for query in queries], where)
        self._write("follows", [0 if query.follows is None else query.follows + 1 for query in queries], where)
        self._write("positions", [query.position for query in queries], where)
        self._write("slots", [part.row * cache_slots + query.slot for part in parts for query in part.queries], where)
        self._write("places", places, where)
        self._write("sources", where or range(len(queries)), places)
        self._write("read", list(rows))
        self._write("used", used)
        self._write("wanted", [where[number] for number in wanted] if where else wanted)
        self._filled["visible"][:] = np.frombuffer(b"".join(seen), dtype=np.uint8)

    def fill_draws(self, draws: Sequence[Draw], masks: LegalMasks) -> SamplingInput:
        """Write how tokens are drawn, and return it."""
        low, high = TEMPERATURES
        params = [draw.params for draw in draws]
        drawn = [row for row, one in enumerate(params) if one.temperature > 0]
        promises = [draw.legal.promise for draw in draws]
        may = [promise is not None and promise < masks.size for promise in promises]
        biases = [one.promise_bias if allowed else 0.0 for one, allowed in zip(params, may, strict=True)]
        legal = [masks.index(draw.legal) for draw in draws]
        self._write("legal", legal)
        self._write("promise", [promise if ok and promise else 0 for promise, ok in zip(promises, may, strict=True)])
        self._write("promise_bias", biases)
        self._write("random", [one.temperature > 0 for one in params])
        self._write("temperature", [min(max(one.temperature, low), high) for one in params])
        self._write("top_p", [one.top_p for one in params])
        self._write("uniform", [draw.uniform() if draw.params.temperature > 0 else 0.0 for draw in draws])
        return SamplingInput(
            draws,
            self.legal,
            self.promise,
            self.promise_bias,
            self.random,
            self.temperature,
            self.top_p,
            self.uniform,
            drawn,
            [(row, *one) for row, draw in enumerate(draws) for one in draw.changes()],
            mixed=len(set(legal)) > 1,
            replaced=any(draw.legal.instead or draw.legal.in_place_of for draw in draws),
            moved=any(biases),
            cut=any(one.top_p < 1 for one in params),
        )

    def _write(self, name: str, values: Sequence[float], where: Sequence[int] | None = None) -> None:
        """Fill a section, from its beginning on or at some places; all others are padding, and hold zeros."""
        section = self._filled[name]
        if where is None:
            section[: len(values)] = values
            if len(values) < len(section):
                section[len(values) :] = 0
        else:
            section[:] = 0
            section[where] = values


class StepBuffers:
    """The buffer on the host, pinned where there is a GPU, and its copy on the device, ``memory``; on a CPU both are
    one. The places of a shape stay where they are as long as ``memory`` is the same tensor."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._inputs: dict[StepShape, StepInput] = {}
        self._copied = torch.cuda.Event() if device.type == "cuda" else None
        self._allocate(1 << 16)

    def input(self, shape: StepShape) -> StepInput:
        """The places of a shape."""
        if self._copied is not None:
            self._copied.synchronize()  # the last step's copy may still be reading what is filled next
        if shape not in self._inputs:
            if len(self._inputs) >= KNOWN_SHAPES:
                self._inputs.clear()
            if _size(shape) > len(self._host):
                self._allocate(2 * _size(shape))
            self._inputs[shape] = StepInput(shape, self._host.numpy(), self.memory)
        return self._inputs[shape]

    def copy(self, step: StepInput) -> None:
        """Bring a filled input to the device, in one piece."""
        if self.memory is not self._host:
            self.memory[: step.size].copy_(self._host[: step.size], non_blocking=self._copied is not None)
        if self._copied is not None:
            self._copied.record(torch.cuda.current_stream(self.device))

    def _allocate(self, size: int) -> None:
        host = torch.zeros(size, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        memory = host if self.device.type == "cpu" else torch.zeros_like(host, device=self.device)
        self._host, self.memory, self._inputs = host, memory, {}  # all or none: there may be no room for the second


def _size(shape: StepShape) -> int:
    """At most so many bytes a shape takes: see the sections of :class:`StepInput`."""
    places = shape.rows * shape.width
    return 8 * (5 * shape.queries + places + 2 * shape.rows + 8 * shape.wanted + 16) + places * shape.slots // 8
