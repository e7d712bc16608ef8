"""Runs a model: one forward pass over the new tokens of some requests, all threads of a request side by side."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from math import inf
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pastalm.runtime.attention import DenseMetadata, attach, is_attached
from pastalm.runtime.narrow import narrow
from pastalm.runtime.pool import CacheMetadata, Lane, Pool, Queries
from pastalm.runtime.thread import Operation, Path

FAR = 128  # positions of a model whose config names none
LOOSE = (0.1, 1e-3)  # how far logits may lie apart that are computed in another order, in half precision and in float32
PREFILL_CHUNK = 512  # prompt tokens a pass: bounds the mask, chunk x slots


class UnsupportedModelError(ValueError):
    """A model that PASTA cannot drive, and why."""


class Runner:
    """A decoder-only model and what is needed to run it. Raises :class:`UnsupportedModelError` for other models."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model.eval()
        self.device = model.device
        _require_decoder(model)
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.forward).parameters
        attention = model.config._attn_implementation
        try:
            self._take_over()
        except Exception as error:
            model.set_attn_implementation(attention)  # a refused model stays as it came
            if isinstance(error, UnsupportedModelError):
                raise
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UnsupportedModelError(f"{type(model).__name__} cannot be driven by PASTA: {reason}") from error
        narrow(model)

    def _take_over(self) -> None:
        """Make the model run with our attention, and see that it is the model that it was."""
        tokens = torch.arange(4, device=self.device) % self.vocabulary_size
        own = _own_logits(self.model, tokens)
        self._context = attach(self.model)
        self._probe(own, tokens)

    @property
    def window(self) -> int | None:
        """How many positions the model can be used for; None if its config does not say."""
        config = self.model.config.get_text_config()
        known = getattr(config, "max_position_embeddings", None) or getattr(config, "max_target_positions", None)
        return min(filter(None, (known, *_short_windows(config))), default=None)

    @property
    def vocabulary_size(self) -> int:
        """How many ids the model's head scores."""
        return self.model.get_output_embeddings().weight.shape[0]

    @property
    def known_tokens(self) -> int:
        """How many ids the model can both read and write."""
        return min(self.vocabulary_size, self.model.get_input_embeddings().weight.shape[0])

    @torch.inference_mode()
    def prefill(self, pool: Pool, lane: Lane, prompt: Sequence[int]) -> Tensor:
        """Read a prompt into an empty lane; returns the logits [V] of its last token."""
        logits = torch.empty(0)
        for start in range(0, len(prompt), PREFILL_CHUNK):
            queries = lane.prefill(prompt[start : start + PREFILL_CHUNK], start)
            keep = torch.tensor([len(queries) - 1], device=self.device)
            logits = self._forward(pool, [lane], [queries], keep)
        return logits[0, -1]

    @torch.inference_mode()
    def decode(
        self,
        pool: Pool,
        lanes: Sequence[Lane],
        operations: Sequence[Sequence[Operation]],
        paths: Sequence[Sequence[Path]],
    ) -> list[Tensor]:
        """Carry out each lane's operations in one pass; returns for each the logits [threads, V] of its ``paths``."""
        queries = [lane.apply(ops) for lane, ops in zip(lanes, operations, strict=True)]
        starts = accumulate(map(len, queries), initial=0)
        wanted = [start + query.last[path] for start, query, own in zip(starts, queries, paths) for path in own]
        logits = self._forward(pool, lanes, queries, torch.tensor(wanted, device=self.device))[0]
        return list(logits.split([len(own) for own in paths]))

    def _forward(self, pool: Pool, lanes: Sequence[Lane], queries: Sequence[Queries], keep: Tensor) -> Tensor:
        view = CacheMetadata(pool, lanes, queries)
        return self._logits(view.tokens, view.positions, view, keep)

    def _logits(self, tokens_BQ: Tensor, positions_BQ: Tensor, view: Any, keep: Tensor | None) -> Tensor:
        """Logits [B, Q, V] of one pass; with ``keep`` [K] only those of these queries, [B, K, V]."""
        extra = {"logits_to_keep": keep} if keep is not None and self._keeps_logits else {}
        self._context.metadata = view
        try:
            logits = self.model(input_ids=tokens_BQ, position_ids=positions_BQ, use_cache=False, **extra).logits
        finally:
            self._context.metadata = None  # it holds on to the pool
        return logits[:, keep] if keep is not None and not extra else logits

    @torch.inference_mode()
    def dense(self, tokens: Tensor, positions: Tensor, visible: Tensor) -> Tensor:
        """Logits [n, V] of a whole layout at once, without a cache: the oracle. ``visible`` bool [n, n]."""
        return self.dense_rows(tokens[None], positions[None], visible[None])[0]

    @torch.inference_mode()
    def dense_rows(
        self, tokens_BT: Tensor, positions_BT: Tensor, visible_BTT: Tensor, keep: Tensor | None = None
    ) -> Tensor:
        """Logits [B, T, V] of several layouts side by side; with ``keep`` [K] only those of these tokens, [B, K, V]."""
        positions = positions_BT.to(self.device)
        view = DenseMetadata(visible_BTT.to(self.device), positions)
        return self._logits(tokens_BT.to(self.device), positions, view, None if keep is None else keep.to(self.device))

    @torch.inference_mode()
    def _probe(self, own: Tensor | None, tokens: Tensor) -> None:
        """See that every layer asks our view, once, and that the logits stay what the model's ``own`` attention gave: a
        layer with a state of its own cannot be forked, and an attention of its own would not see the mask."""
        view, name = _Probe(len(tokens), self.device), type(self.model).__name__
        logits = self._logits(tokens[None], view.positions, view, None)
        layers = self.model.config.get_text_config().num_hidden_layers
        if len(view.layers) != layers:
            raise UnsupportedModelError(
                f"{name} cannot be driven by PASTA: {layers - len(view.layers)} of its {layers} layers do not attend "
                "through transformers' attention interface, or keep a state of their own (linear attention, a state "
                "space), so a thread cannot be forked there."
            )
        if max(view.layers.values()) > 1:
            raise UnsupportedModelError(f"{name} cannot be driven by PASTA: a layer of it attends more than once.")
        unheard = _windowed(self.model.config.get_text_config()) - view.windowed
        if unheard:
            raise UnsupportedModelError(
                f"{name} cannot be driven by PASTA: {len(unheard)} of its {layers} layers attend within a window or a "
                "chunk that only the model's own mask knows of, so they would see more here."
            )
        if own is not None and (logits - own).norm() > 0.1 * own.norm():
            raise UnsupportedModelError(
                f"{name} cannot be driven by PASTA: its attention is more than scores, mask and softmax over keys."
            )
        self._probe_order(tokens, logits[0])

    def _probe_order(self, tokens: Tensor, straight: Tensor) -> None:
        """See that what comes of a token follows from its position and what it sees alone: the same tokens in another
        order, beside one far away that none of them sees, must give the same logits."""
        order = torch.tensor([2, 0, 3, 1], device=self.device)
        positions = torch.cat([order, order.new_tensor([(self.window or FAR) - 1])])
        visible = torch.eye(5, dtype=torch.bool, device=self.device)
        visible[:4, :4] = order[:, None] >= order
        found = self.dense(torch.cat([tokens[order], tokens[:1]]), positions, visible)[:4]
        expected = straight[order]
        if (found - expected).norm() > LOOSE[found.dtype == torch.float32] * expected.norm():
            raise UnsupportedModelError(
                f"{type(self.model).__name__} cannot be driven by PASTA: what it makes of a token depends on tokens of "
                "the same pass that it does not see (a convolution, a recurrent state, positions that it counts by "
                "itself), so threads cannot lie side by side in it."
            )


class _Probe(DenseMetadata):
    """A plain causal view that notes how often each layer uses it, and which layers slide."""

    def __init__(self, length: int, device: torch.device) -> None:
        causal = torch.ones(1, length, length, dtype=torch.bool, device=device).tril()
        super().__init__(causal, torch.arange(length, device=device)[None])
        self.layers: Counter[int] = Counter()
        self.windowed: set[int] = set()
        self.layer = -1  # the one that is attending

    def extend(self, layer: int, key_BHQD: Tensor, value_BHQD: Tensor) -> tuple[Tensor, Tensor]:
        self.layer = layer
        self.layers[layer] += 1
        return super().extend(layer, key_BHQD, value_BHQD)

    def mask(self, window: int | None, group: int, dtype: torch.dtype) -> Tensor:
        if window is not None:
            self.windowed.add(self.layer)
        return super().mask(window, group, dtype)


def _windowed(config: Any) -> set[int]:
    """The layers that, as a text config says, do not see all that the model has positions for."""
    sizes = {
        "sliding_attention": getattr(config, "sliding_window", None),
        "chunked_attention": getattr(config, "attention_chunk_size", None),
    }
    kinds = getattr(config, "layer_types", None)
    if kinds is None:  # all layers are alike
        sliding = sizes["sliding_attention"] and getattr(config, "use_sliding_window", True)
        kinds = ["sliding_attention" if sliding else "chunked_attention"] * config.num_hidden_layers
    positions = getattr(config, "max_position_embeddings", None) or inf
    return {layer for layer, kind in enumerate(kinds) if 0 < (sizes.get(kind) or 0) < positions}


def _short_windows(config: Any) -> list[int]:
    """Where a model begins to treat all tokens of a pass by positions that are not theirs. "longrope": one position
    beyond gives all of them the long factors, while keys in the cache, and those of other requests, have the short
    ones. A temperature that grows with the position: the model counts that by itself."""
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope, *(kind for kind in rope.values() if isinstance(kind, dict))]  # one for all layers, or one a kind
    turns = [kind["original_max_position_embeddings"] for kind in kinds if kind.get("rope_type") == "longrope"]
    if getattr(config, "attn_temperature_tuning", False) and getattr(config, "floor_scale", None):
        turns.append(int(config.floor_scale) - 1)
    return turns


@torch.inference_mode()
def _own_logits(model: PreTrainedModel, tokens: Tensor) -> Tensor | None:
    """Logits [1, Q, V] with the attention that the model came with; None if it is ours already, and was probed then."""
    return None if is_attached(model) else model(input_ids=tokens[None], use_cache=False).logits


def _require_decoder(model: PreTrainedModel) -> None:
    name = type(model).__name__
    if getattr(model.config, "is_encoder_decoder", False):
        raise UnsupportedModelError(f"{name} has an encoder; PASTA decodes with decoder-only models.")
    if not model.can_generate() or model.get_output_embeddings() is None:
        raise UnsupportedModelError(f"{name} does not generate text; load a causal language model (..ForCausalLM).")
