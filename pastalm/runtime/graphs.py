"""Steps as CUDA graphs: what a step does on the device is captured once for each bucket, and replayed.

A graph reads and writes the same memory each time, in the same sizes. So a step is padded to a *bucket*: sequences,
places a sequence and cache slots rounded up. What differs from step to step lies in the buffer of
:mod:`pastalm.runtime.step_input`, which is filled in place before the replay. Here is the bookkeeping; how a function
is captured is :class:`CudaCapture`'s alone.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from weakref import WeakSet, ref

import torch
from torch import Tensor

from pastalm.runtime.reason import reason
from pastalm.runtime.sampler import Chosen
from pastalm.runtime.step_input import Part, StepShape

LEAST_SLOTS = 1024  # of a bucket; the next has four times as many
MOST_WIDTH = 32  # places of a sequence
MOST_QUERIES = 128  # of a bucket; larger steps are bound by other things than launches
MOST_GRAPHS = 128  # that are kept

_log = logging.getLogger(__name__)

# The logits of a step, and the tokens that were chosen from them inside the graph.
StepOutput = tuple[Tensor, Chosen | None]
# A bucket, and what is in its graph besides the logits: greedy tokens, drawn ones (True), or none (None).
GraphKey = tuple[StepShape, bool | None]
# Captures a function, and gives what replays it; the outcome lies in the same memory each time.
Capture = Callable[[Callable[[], StepOutput]], Callable[[], StepOutput]]


def bucket(parts: Sequence[Part], slots: int) -> StepShape | None:
    """The bucket of a step over a cache with so many slots a row; None for one that is not worth a graph: a long piece
    of a prompt, or one from which no token is drawn."""
    rows, width = _power(len(parts)), _power(max(len(part.queries) for part in parts))
    if width > MOST_WIDTH or rows * width > MOST_QUERIES or not all(part.draws for part in parts):
        return None
    used = max(part.used for part in parts)
    return StepShape.full(rows, width, next(size for size in _slot_sizes(slots) if size >= used))


def choice_bucket(draws: int) -> int | None:
    """The size of a choice of so many tokens; None for one that is not worth a graph."""
    return _power(draws) if draws <= MOST_QUERIES else None


def buckets(rows: int, slots: int) -> list[StepShape]:
    """All buckets of a cache of this size, the largest first."""
    widths = [1 << power for power in range(MOST_QUERIES.bit_length())]
    pairs = [(one, other) for one in widths for other in widths if one <= _power(rows) and other <= MOST_WIDTH]
    found = [StepShape.full(*pair, size) for pair in pairs for size in _slot_sizes(slots)]
    found = [shape for shape in found if shape.queries <= MOST_QUERIES]
    return sorted(found, key=lambda shape: (shape.queries, shape.slots), reverse=True)


def _slot_sizes(slots: int) -> list[int]:
    sizes = [LEAST_SLOTS << 2 * power for power in range(slots.bit_length())]
    return [size for size in sizes if size < slots] + [slots]


def _power(number: int) -> int:
    """The power of two from ``number`` up."""
    return 1 << (number - 1).bit_length()


class Graphs:
    """The graphs of a runner's steps, or of choices alone, and which are kept: at most ``most``, those used last.

    What they read must stay where it is: where it has moved, all are captured anew. If one cannot be captured, there
    are none from then on, and one warning: no request ends because of it. ``capture`` None is a device without graphs.
    """

    def __init__(self, capture: Capture | None, most: int = MOST_GRAPHS) -> None:
        self.capture, self.most = capture, most
        self._replays: OrderedDict[GraphKey, Callable[[], StepOutput]] = OrderedDict()
        self._reads: list[ref[Tensor]] = []

    @property
    def active(self) -> bool:
        """Whether steps run as graphs."""
        return self.capture is not None

    @property
    def keys(self) -> list[GraphKey]:
        """The graphs that are there, the one used last at the end."""
        return list(self._replays)

    def run(self, key: GraphKey, reads: Sequence[Tensor], function: Callable[[], StepOutput]) -> StepOutput:
        """What ``function`` gives for a bucket: replayed; or called, where it has not been captured, and then captured
        for the next time. ``reads`` are the tensors that it reads besides the weights and that may be replaced."""
        if not self._reads or self._moved(reads):
            self.clear()
            self._reads = [ref(tensor) for tensor in reads]
        if key in self._replays:
            self._replays.move_to_end(key)
            return self._replays[key]()
        outcome = function()  # what is compiled, and what is made once, is so outside of the graph
        if self.capture is not None:
            self._add(key, self.capture, function)
        return outcome

    def _moved(self, reads: Sequence[Tensor]) -> bool:
        kept = [held() for held in self._reads]
        return len(kept) != len(reads) or any(held is not own for held, own in zip(kept, reads, strict=True))

    def clear(self) -> None:
        """Let go of all graphs and their memory."""
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()  # one may be running
        self._replays.clear()

    def _add(self, key: GraphKey, capture: Capture, function: Callable[[], StepOutput]) -> None:
        while len(self._replays) >= self.most:
            self._replays.popitem(last=False)
        try:
            self._replays[key] = capture(function)
        except Exception as error:
            self.capture = None
            self._replays.clear()
            _log.warning(
                "A step cannot be captured as a CUDA graph (%s); steps run without, more slowly.", reason(error)
            )


class CudaCapture:
    """Captures functions as CUDA graphs that share one memory pool: no two of them run at once. The pool lives as long
    as one of its graphs; after that there is another."""

    def __init__(self) -> None:
        self._graphs: WeakSet[torch.cuda.CUDAGraph] = WeakSet()

    def __call__(self, function: Callable[[], StepOutput]) -> Callable[[], StepOutput]:
        """See :data:`Capture`."""
        graph, pool = torch.cuda.CUDAGraph(), next((one.pool() for one in self._graphs), None)
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            outcome = function()
        self._graphs.add(graph)

        def replay() -> StepOutput:
            graph.replay()
            return outcome

        return replay


def capture_on(device: torch.device) -> Capture | None:
    """How steps on a device are captured; None where they are not."""
    return CudaCapture() if device.type == "cuda" else None
