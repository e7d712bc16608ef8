"""The attention function that every model runs with here: visibility comes from our metadata, not from the model.

The metadata of a forward pass say which keys each query sees and, when decoding, where keys and values are kept. They
are put into the model's attention context before each pass: not all families pass keyword arguments on to their
attention layers, but every layer can hold on to one context. The function is registered with transformers under a name
that has no mask function, so that transformers builds no mask of its own.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

NAME = "pasta"
KNOWN = frozenset(["position_ids", "cache_position", "logits_to_keep"])  # they say nothing that the metadata do not


class Scoring(NamedTuple):
    """How a layer scores keys: ``scaling`` of the products (None: one over the root of the head's width), only keys
    within ``window`` positions, scores bounded by ``softcap`` as in Gemma 2, attention ``sinks`` [Hq], ``dropout``."""

    scaling: float | None = None
    window: int | None = None
    softcap: float | None = None
    sinks: Tensor | None = None
    dropout: float = 0.0


class AttentionMetadata(Protocol):
    """What a forward pass sees."""

    def attend(self, layer: int, query_BHND: Tensor, key_BHND: Tensor, value_BHND: Tensor, scoring: Scoring) -> Tensor:
        """Take a layer's new keys and values in; return what its queries take from the keys they see: [B, N, Hq, D].
        Shapes: B rows that the model is fed, N tokens in each, H heads, D head width."""
        ...


class AttentionContext:
    """Where a model's attention layers find the metadata of the forward pass that is running. ``opaque`` is the number
    under which a compiled pass calls :func:`attend` as one operator; None lets a compiler look inside."""

    metadata: AttentionMetadata | None = None
    opaque: int | None = None


class DenseMetadata:
    """A whole layout at once, without a cache: training and the oracle. ``visible`` [B, T, T], ``positions`` [B, T]."""

    def __init__(self, visible_BTT: Tensor, positions_BT: Tensor) -> None:
        self.visible, self.positions = visible_BTT[:, None], positions_BT
        self.windows: dict[int, Tensor] = {}

    def attend(self, layer: int, query_BHQD: Tensor, key_BHQD: Tensor, value_BHQD: Tensor, scoring: Scoring) -> Tensor:
        """See :class:`AttentionMetadata`: everything is in this one pass."""
        mask = self.mask(scoring.window, query_BHQD.shape[1] // key_BHQD.shape[1])
        return masked_attention(query_BHQD, key_BHQD, value_BHQD, mask, scoring).transpose(1, 2)

    def mask(self, window: int | None, group: int) -> Tensor:
        """Which keys a query sees, as :func:`masked_attention` takes them; within ``window`` positions if given."""
        if window is None:
            visible = self.visible
        else:
            if window not in self.windows:
                self.windows[window] = self.visible & within(window, self.positions, self.positions)
            visible = self.windows[window]
        return visible.repeat(1, 1, group, 1) if group > 1 else visible


def within(window: int, query_BQ: Tensor, key_BS: Tensor) -> Tensor:
    """Bool [B, 1, Q, S]: keys less than ``window`` positions behind the query. A sliding window goes by positions, not
    by slots: a chunk is as far away as the promise said, however its tokens lie in the cache."""
    return (query_BQ[:, None, :, None] - key_BS[:, None, None, :]) < window


def pasta_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention in the form transformers calls: q [B, Hq, N, D], k and v [B, Hkv, N, D] -> [B, N, Hq, D].

    ``softcap`` bounds scores as Gemma 2 does; ``s_aux`` [Hq] are attention sinks. Raises ``RuntimeError`` if the
    context of :func:`attach` holds no metadata, for a mask (the metadata's is the only one), for other tensors that
    would steer the attention, and for a layer that looks ahead.
    """
    if attention_mask is not None:
        raise RuntimeError("It makes an attention mask of its own, which would be passed over.")
    if not getattr(module, "is_causal", True):
        raise RuntimeError("It is an encoder: its attention looks ahead.")
    passed_over = [name for name, other in others.items() if isinstance(other, Tensor) and name not in KNOWN]
    if passed_over:
        raise RuntimeError(f"It gives its attention {passed_over[0]!r}, which would be passed over.")
    context, layer = cast(AttentionContext, module.pasta_context), cast(int, module.layer_idx)
    if context.opaque is not None and torch.compiler.is_compiling():
        numbers = (context.opaque, layer, scaling, sliding_window, softcap)
        return torch.ops.pastalm.attend(query, key, value, s_aux, *numbers), None
    dropout = dropout if module.training else 0.0
    return attend(context, layer, query, key, value, Scoring(scaling, sliding_window, softcap, s_aux, dropout)), None


def attend(
    context: AttentionContext, layer: int, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring
) -> Tensor:
    """What a layer's queries take from the keys that the context's metadata show them: [B, N, Hq, D]."""
    if context.metadata is None:
        raise RuntimeError("No attention metadata: put them into the context that attach() returned before a pass.")
    return context.metadata.attend(layer, query, key, value, scoring).contiguous()


def masked_attention(query_BHQD: Tensor, key: Tensor, value: Tensor, mask: Tensor, scoring: Scoring) -> Tensor:
    """Attention of torch under a mask: [B, Hq, Q, D].

    ``key`` and ``value`` are [B, Hkv, S, D]. ``mask`` [B, 1, G * Q, S] for G query heads to a key head: bools, or
    numbers to be added to the scores.
    """
    # The query heads of one key head become further queries of it: bit-identical, and every fused kernel takes a mask.
    query = query_BHQD.reshape(len(query_BHQD), key.shape[1], -1, query_BHQD.shape[3])
    if scoring.softcap is None and scoring.sinks is None:
        out = scaled_dot_product_attention(query, key, value, mask, dropout_p=scoring.dropout, scale=scoring.scaling)
    else:
        out = _explicit(query, key, value, mask, scoring)
    return out.reshape(*query_BHQD.shape[:3], value.shape[3])


def _explicit(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scoring: Scoring) -> Tensor:
    """What no fused kernel does: capped scores and sinks. The same arithmetic, in float32 where it matters."""
    scale = query.shape[-1] ** -0.5 if scoring.scaling is None else scoring.scaling
    scores = (query @ key.transpose(-1, -2)) * scale
    if scoring.softcap is not None:
        scores = torch.tanh(scores / scoring.softcap) * scoring.softcap
    hidden = torch.finfo(scores.dtype).min
    scores = scores.masked_fill(~mask, hidden) if mask.dtype == torch.bool else scores + mask
    if scoring.sinks is not None:  # one more column of scores, that takes weight and gives nothing
        column = scoring.sinks.to(scores.dtype).view(1, key.shape[1], -1, 1)
        column = column.repeat_interleave(query.shape[2] // column.shape[2], dim=2).expand(len(query), -1, -1, 1)
        scores = torch.cat([scores, column], dim=-1)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    return weights[..., : key.shape[2]] @ value


def attach(model: PreTrainedModel) -> AttentionContext:
    """Make ``model`` run with :func:`pasta_attention`; returns the context for the metadata of each forward pass."""
    AttentionInterface.register(NAME, pasta_attention)
    model.set_attn_implementation(NAME)
    layers: list[Any] = [module for module in model.modules() if hasattr(module, "layer_idx")]
    known = [layer.pasta_context for layer in layers if hasattr(layer, "pasta_context")]
    context = known[0] if known else AttentionContext()
    for layer in layers:
        layer.pasta_context = context
    return context


def is_attached(model: PreTrainedModel) -> bool:
    """Whether ``model`` runs with :func:`pasta_attention` already."""
    return model.config._attn_implementation == NAME
