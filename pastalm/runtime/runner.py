"""Runs a model: build the input, one forward pass over the new tokens of a batch, sample."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pastalm.progress import track
from pastalm.runtime.attention import AttentionContext, AttentionMetadata, DenseMetadata
from pastalm.runtime.cache_metadata import CacheMetadata
from pastalm.runtime.compiled import CompiledPass, Pass
from pastalm.runtime.few_queries import FewQueriesMetadata
from pastalm.runtime.graphs import Graphs, StepOutput, bucket, buckets, capture_on, choice_bucket
from pastalm.runtime.kernels import load_kernels
from pastalm.runtime.kv_cache import KVCache
from pastalm.runtime.narrow import narrow
from pastalm.runtime.probe import Forward, take_over, window_of
from pastalm.runtime.reason import reason
from pastalm.runtime.sampler import UNWANTED, Chosen, Draw, Sampler, SamplerOutput, SamplingInput
from pastalm.runtime.step_input import NOTHING, Part, StepBuffers, StepInput, StepShape
from pastalm.runtime.visibility import JUNK, Query

WIDE = 64  # queries that fill the largest tile of the kernel, whatever the heads

_log = logging.getLogger(__name__)


def metadata_on(device: torch.device) -> type[CacheMetadata]:
    """How steps on a device attend: on a GPU by the kernel, where Triton is installed, else by torch."""
    if device.type != "cuda" or find_spec("triton") is None:
        return CacheMetadata
    from pastalm.runtime.kernel_metadata import KernelMetadata  # it needs Triton

    return KernelMetadata


@dataclass(frozen=True)
class Launched:
    """A step that the device runs: the ``logits`` [K, V] that were asked for, and the ``choice`` from them, if it has
    been made."""

    logits: Tensor
    choice: SamplerOutput | None = None


class Runner:
    """A decoder-only model and what is needed to run it. Raises ``UnsupportedModelError`` for other models.
    ``compile`` makes graphs of its pass (:mod:`pastalm.runtime.compiled`), on a CPU with our own kernels
    (:mod:`pastalm.runtime.kernels`); ``cuda_graphs`` captures steps on a GPU (:mod:`pastalm.runtime.graphs`); ``ahead``
    is for a scheduler that launches passes before the last one's tokens are seen (:mod:`pastalm.runtime.ahead`; None:
    where steps are captured): then a choice is no part of a pass, which may come before it is known how to choose.

    One pass at a time: its buffers and the model's attention context hold the input of the one that is launched.
    """

    def __init__(
        self, model: PreTrainedModel, *, compile: bool = False, cuda_graphs: bool = True, ahead: bool | None = None
    ) -> None:
        self.model = model.eval()
        self.device = model.device
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._context = take_over(model, self._forward_in)
        on_cpu = self.device.type == "cpu"
        kernel = compile and on_cpu and load_kernels()
        narrow(model, kernel=kernel)
        self.sampler = Sampler(self.vocabulary_size, self.device)
        self.graphs = Graphs(capture_on(self.device) if cuda_graphs else None)
        self.ahead = self.graphs.active if ahead is None else ahead
        self._buffers = StepBuffers(self.device)
        # Of choices behind passes, which have graphs, inputs and logits of their own: another pass may be on its way.
        self.choices = Graphs(self.graphs.capture)
        self._draws = StepBuffers(self.device)
        self._kept = torch.zeros(0, self.vocabulary_size, device=self.device)
        self.run_model: Pass = self._logits
        self.metadata = metadata_on(self.device)
        if kernel:
            self.metadata = FewQueriesMetadata
        elif self.metadata is not CacheMetadata:
            self._try_kernel()
        if compile:
            self.run_model = CompiledPass(self._logits, self._context, fold=on_cpu and not kernel)
            self._warm_up()

    def _forward_in(self, context: AttentionContext) -> Forward:
        self._context = context
        return self.forward

    @property
    def window(self) -> int | None:
        """How many positions the model can be used for; None if its config does not say."""
        return window_of(self.model.config)

    @property
    def vocabulary_size(self) -> int:
        """How many ids the model's head scores."""
        return self.model.get_output_embeddings().weight.shape[0]

    @property
    def known_tokens(self) -> int:
        """How many ids the model can both read and write."""
        return min(self.vocabulary_size, self.model.get_input_embeddings().weight.shape[0])

    @torch.inference_mode()
    def step(self, cache: KVCache, parts: Sequence[Part]) -> tuple[list[int], Tensor]:
        """Feed the queries of some sequences, in order of their rows, and choose a token for each wanted one.

        Returns the tokens, and the logits [K, V] that they were chosen from; no tokens for parts without draws.
        """
        found = self.launch(cache, parts)
        return found.choice.tokens if found.choice else [], found.logits

    @torch.inference_mode()
    def launch(self, cache: KVCache, parts: Sequence[Part]) -> Launched:
        """The same without waiting for a device that works by itself."""
        if self.ahead:
            found, draws = self.launch_after(None, cache, parts), [draw for part in parts for draw in part.draws]
            return replace(found, choice=self.choose(found.logits, draws)) if draws else found
        step, sampling, captured = self._fill(cache, parts)
        logits, chosen = self._replay(cache, step, sampling) if captured else self._compute(cache, step, sampling)
        found = Launched(logits[: sum(len(part.wanted) for part in parts)])
        if sampling is None:
            return found
        chosen = chosen or self.sampler.choose(logits, sampling)
        return replace(found, choice=SamplerOutput(self.sampler, chosen, sampling.draws))

    @torch.inference_mode()
    def launch_after(self, before: SamplerOutput | None, cache: KVCache, parts: Sequence[Part]) -> Launched:
        """Launch a pass whose queries may follow tokens of ``before``. Its own tokens are chosen later."""
        step, _, captured = self._fill(cache, parts)
        if before is not None:
            step.follow(before.chosen.tokens)
        logits, _ = self._replay(cache, step, None) if captured else self._compute(cache, step, None)
        return Launched(logits[: sum(len(part.wanted) for part in parts)])

    @torch.inference_mode()
    def choose(self, logits_KV: Tensor, draws: Sequence[Draw]) -> SamplerOutput:
        """Choose a token from each row of logits, without waiting."""
        size = choice_bucket(len(draws)) if self.choices.active else None
        step = self._draws.input(StepShape.choice(size or len(draws)))
        sampling = step.fill_draws(draws, self.sampler.masks)
        self._draws.copy(step)
        logits = logits_KV if size is None else self._in_place(logits_KV, size)
        captured = size is not None and not sampling.changes
        chosen = self._replay_choice(logits, sampling) if captured else self.sampler.choose(logits, sampling)
        return SamplerOutput(self.sampler, chosen, draws)

    def _in_place(self, logits_KV: Tensor, size: int) -> Tensor:
        """The same logits, with so many rows, where graphs read them."""
        if size > len(self._kept):
            self._kept = self._kept.new_zeros(size, self._kept.shape[1])
        self._kept[: len(logits_KV)] = logits_KV
        return self._kept[:size]

    def _replay_choice(self, logits: Tensor, sampling: SamplingInput) -> Chosen:
        whole = sampling.complete()
        key = (StepShape.choice(len(logits)), bool(whole.drawn))
        reads = (self.sampler.masks.table, self._draws.memory, self._kept)
        chosen = self.choices.run(key, reads, lambda: (logits, self.sampler.choose(logits, whole)))[1]
        if chosen is None:
            raise RuntimeError("A choice was captured as a pass.")
        return chosen.clone(weights=sampling.cut)

    def _fill(
        self, cache: KVCache, parts: Sequence[Part], shape: StepShape | None = None
    ) -> tuple[StepInput, SamplingInput | None, bool]:
        """The input of a step, on the device; how its tokens are chosen, if the pass holds that; and whether its shape
        is a bucket."""
        shape = shape or (bucket(parts, cache.slots) if self.graphs.active else None)
        step = self._buffers.input(shape or StepShape.of(parts))
        step.fill_queries(parts, cache.slots)
        draws = [] if self.ahead else [draw for part in parts for draw in part.draws]
        sampling = step.fill_draws(draws, self.sampler.masks) if draws else None
        self._buffers.copy(step)
        return step, sampling, shape is not None

    def _compute(self, cache: KVCache, step: StepInput, sampling: SamplingInput | None) -> StepOutput:
        """What a step does on the device."""
        with self._seeing(self.metadata(cache, step)):
            logits = self.run_model(step.tokens, step.positions, step.wanted)[0]
        return logits, None if sampling is None else self.sampler.choose(logits, sampling)

    def _replay(self, cache: KVCache, step: StepInput, sampling: SamplingInput | None) -> StepOutput:
        """The same as a graph. Only lists of changed logits, as long as requests make them, are left out of it."""
        inside = None if sampling is None or sampling.changes else sampling.complete()
        key = (step.shape, None if inside is None else bool(inside.drawn))
        reads = (cache.positions, self._buffers.memory, *(() if self.ahead else (self.sampler.masks.table,)))
        logits, chosen = self.graphs.run(key, reads, lambda: self._compute(cache, step, inside))
        return logits.clone(), chosen  # the next replay writes over it

    @torch.inference_mode()
    def make_layers(self, cache: KVCache) -> None:
        """Make the layers of a cache now, by a pass that leaves nothing in it."""
        self._feed_nothing(cache, 1, 1)

    @torch.inference_mode()
    def reserve(self, cache: KVCache) -> None:
        """Make the layers of a cache now, and the graphs of greedy steps over it: the largest first, whose memory
        serves the others too."""
        self.make_layers(cache)
        if self.graphs.active:
            nothing = Part(0, [Query(0, 0, JUNK, NOTHING)], [0], [UNWANTED])
            for shape in track(buckets(cache.rows, cache.slots), "Capturing steps", unit="graphs"):
                step, sampling, _ = self._fill(cache, [nothing], shape)
                logits, _ = self._replay(cache, step, sampling)
                if self.ahead:
                    self.choose(logits, [UNWANTED] * len(logits))

    @torch.inference_mode()
    def forward(
        self, tokens_BN: Tensor, positions_BN: Tensor, metadata: AttentionMetadata, keep: Tensor | None = None
    ) -> Tensor:
        """Logits [B, N, V] of one pass; with ``keep`` [K] only those of these queries, [B, K, V]."""
        with self._seeing(metadata):
            return self._logits(tokens_BN, positions_BN, keep)

    @contextmanager
    def _seeing(self, metadata: AttentionMetadata) -> Iterator[None]:
        self._context.metadata = metadata
        try:
            yield
        finally:
            self._context.metadata = None  # it holds on to the cache

    def _logits(self, tokens_BN: Tensor, positions_BN: Tensor, keep: Tensor | None) -> Tensor:
        extra = {"logits_to_keep": keep} if keep is not None and self._keeps_logits else {}
        logits = self.model(input_ids=tokens_BN, position_ids=positions_BN, use_cache=False, **extra).logits
        return logits[:, keep] if keep is not None and not extra else logits

    def _try_kernel(self) -> None:
        """See that the kernel runs here with this model's heads and its largest tile; steps attend by torch if not."""
        try:
            self._feed_nothing(KVCache(1, 2, self.device), WIDE, 1)
        except Exception as error:
            self.metadata = CacheMetadata
            _log.warning(
                "The attention kernel cannot run here (%s); steps attend by torch, more slowly.", reason(error)
            )

    def _warm_up(self) -> None:
        """Compile now, not with the first request: a graph for one query, and one for several of which some are wanted
        (sizes that are equal in the first pass would be taken for the same one)."""
        cache = KVCache(1, 2, self.device)
        for fed, wanted in track(((1, 1), (3, 2)), "Compiling", total=2, unit="graphs"):
            self._feed_nothing(cache, fed, wanted)

    def _feed_nothing(self, cache: KVCache, fed: int, wanted: int) -> None:
        """A step of so many queries that nobody has asked for, without a draw."""
        self.step(cache, [Part(0, [Query(0, 0, JUNK, NOTHING)] * fed, list(range(wanted)))])

    def dense(self, tokens: Tensor, positions: Tensor, visible: Tensor) -> Tensor:
        """Logits [n, V] of a whole layout at once, without a cache: the oracle. ``visible`` bool [n, n]."""
        return self.dense_rows(tokens[None], positions[None], visible[None])[0]

    def dense_rows(
        self, tokens_BT: Tensor, positions_BT: Tensor, visible_BTT: Tensor, keep: Tensor | None = None
    ) -> Tensor:
        """Logits [B, T, V] of several layouts side by side; with ``keep`` [K] only those of these tokens, [B, K, V]."""
        positions = positions_BT.to(self.device)
        metadata = DenseMetadata(visible_BTT.to(self.device), positions)
        wanted = None if keep is None else keep.to(self.device)
        return self.forward(tokens_BT.to(self.device), positions, metadata, wanted)
