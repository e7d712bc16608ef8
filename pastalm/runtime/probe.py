"""Says whether a model can be driven: by its config, and by what two small passes through it show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import inf
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pastalm.runtime.attention import (
    AttentionContext,
    AttentionMetadata,
    DenseMetadata,
    Scoring,
    attach,
    is_attached,
)

FAR = 128  # positions of a model whose config names none
LOOSE = (0.1, 1e-3)  # how far logits may lie apart that are computed in another order, in half precision and in float32

# Logits [B, N, V] of one pass over tokens and positions [B, N], under attention metadata.
Forward = Callable[[Tensor, Tensor, AttentionMetadata], Tensor]


class UnsupportedModelError(ValueError):
    """A model that PASTA cannot drive, and why."""


def take_over(model: PreTrainedModel, forward: Callable[[AttentionContext], Forward]) -> AttentionContext:
    """Make ``model`` run with our attention, and see that it is the model that it was.

    ``forward`` gives the pass of a model with that attention context. Raises :class:`UnsupportedModelError` for a model
    that cannot be driven, and leaves it as it came.
    """
    require_decoder(model)
    attention = model.config._attn_implementation
    try:
        tokens = torch.arange(4, device=model.device) % model.get_output_embeddings().weight.shape[0]
        own = _own_logits(model, tokens)
        context = attach(model)
        _Probe(model, forward(context)).run(own, tokens)
    except Exception as error:
        model.set_attn_implementation(attention)
        if isinstance(error, UnsupportedModelError):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnsupportedModelError(f"{type(model).__name__} cannot be driven by PASTA: {reason}") from error
    return context


def window_of(config: Any) -> int | None:
    """How many positions a model with this config can be used for; None if the config does not say."""
    text = config.get_text_config()
    known = getattr(text, "max_position_embeddings", None) or getattr(text, "max_target_positions", None)
    return min(filter(None, (known, *_short_windows(text))), default=None)


def require_decoder(model: PreTrainedModel) -> None:
    """Raises :class:`UnsupportedModelError` for models that are no decoders of text."""
    name = type(model).__name__
    if getattr(model.config, "is_encoder_decoder", False):
        raise UnsupportedModelError(f"{name} has an encoder; PASTA decodes with decoder-only models.")
    if not model.can_generate() or model.get_output_embeddings() is None:
        raise UnsupportedModelError(f"{name} does not generate text; load a causal language model (..ForCausalLM).")


class _Probe:
    """Two passes over four tokens, and what is wrong with a model that they show."""

    def __init__(self, model: PreTrainedModel, forward: Forward) -> None:
        self.model, self.forward, self.name = model, forward, type(model).__name__
        self.config = model.config.get_text_config()

    @torch.inference_mode()
    def run(self, own: Tensor | None, tokens: Tensor) -> None:
        """See that every layer asks for our metadata, once, and that the logits stay what the model's ``own`` attention
        gave: a layer with a state of its own cannot be forked, and an attention of its own would not see the mask."""
        noted = _Noted(len(tokens), tokens.device)
        logits = self.forward(tokens[None], noted.positions, noted)
        self._see_layers(noted)
        if own is not None and (logits - own).norm() > 0.1 * own.norm():
            raise UnsupportedModelError(
                f"{self.name} cannot be driven by PASTA: its attention is more than scores, mask and softmax over keys."
            )
        self._see_order(tokens, logits[0])

    def _see_layers(self, noted: _Noted) -> None:
        layers = self.config.num_hidden_layers
        if len(noted.layers) != layers:
            raise UnsupportedModelError(
                f"{self.name} cannot be driven by PASTA: {layers - len(noted.layers)} of its {layers} layers do not "
                "attend through transformers' attention interface, or keep a state of their own (linear attention, a "
                "state space), so a thread cannot be forked there."
            )
        if max(noted.layers.values()) > 1:
            raise UnsupportedModelError(f"{self.name} cannot be driven by PASTA: a layer of it attends more than once.")
        unheard = _windowed(self.config) - noted.windowed
        if unheard:
            raise UnsupportedModelError(
                f"{self.name} cannot be driven by PASTA: {len(unheard)} of its {layers} layers attend within a window "
                "or a chunk that only the model's own mask knows of, so they would see more here."
            )

    def _see_order(self, tokens: Tensor, straight: Tensor) -> None:
        """See that what comes of a token follows from its position and what it sees alone: the same tokens in another
        order, beside one far away that none of them sees, must give the same logits."""
        order = torch.tensor([2, 0, 3, 1], device=tokens.device)
        positions = torch.cat([order, order.new_tensor([(window_of(self.model.config) or FAR) - 1])])
        visible = torch.eye(5, dtype=torch.bool, device=tokens.device)
        visible[:4, :4] = order[:, None] >= order
        metadata = DenseMetadata(visible[None], positions[None])
        found = self.forward(torch.cat([tokens[order], tokens[:1]])[None], positions[None], metadata)[0, :4]
        expected = straight[order]
        if (found - expected).norm() > LOOSE[found.dtype == torch.float32] * expected.norm():
            raise UnsupportedModelError(
                f"{self.name} cannot be driven by PASTA: what it makes of a token depends on tokens of the same pass "
                "that it does not see (a convolution, a recurrent state, positions that it counts by itself), so "
                "threads cannot lie side by side in it."
            )


class _Noted(DenseMetadata):
    """Plain causal metadata that note how often each layer uses them, and which layers slide."""

    def __init__(self, length: int, device: torch.device) -> None:
        causal = torch.ones(1, length, length, dtype=torch.bool, device=device).tril()
        super().__init__(causal, torch.arange(length, device=device)[None])
        self.layers: Counter[int] = Counter()
        self.windowed: set[int] = set()

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring) -> Tensor:
        self.layers[layer] += 1
        if scoring.window is not None:
            self.windowed.add(layer)
        return super().attend(layer, query, key, value, scoring)


@torch.inference_mode()
def _own_logits(model: PreTrainedModel, tokens: Tensor) -> Tensor | None:
    """Logits [1, N, V] with the attention that the model came with; None if it is ours already, and was probed then."""
    return None if is_attached(model) else model(input_ids=tokens[None], use_cache=False).logits


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
