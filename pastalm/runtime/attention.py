"""The attention function that every model runs with here: visibility comes from our metadata, not from the model.

The metadata of a forward pass say which keys each query sees and, when decoding, where keys and values are kept. They
are put into the model's attention context before each pass: not all families pass keyword arguments on to their
attention layers, but every layer can hold on to one context. The function is registered with transformers under a name
that has no mask function, so that transformers builds no mask of its own.
"""

from __future__ import annotations

from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

NAME = "pasta"
KNOWN = frozenset(["position_ids", "cache_position", "logits_to_keep"])  # they say nothing that the metadata do not


class AttentionMetadata(Protocol):
    """What a forward pass sees. Shapes: B rows that the model is fed, L rows that attend, each with keys of its own, H
    heads, N or Q queries in such a row, S keys, D head width. L and Q are B and N except in a batch of sequences."""

    def extend(self, layer: int, key_BHND: Tensor, value_BHND: Tensor) -> tuple[Tensor, Tensor]:
        """Take a layer's new keys and values in; return all there are, [L, H, S, D] each."""
        ...

    def spread(self, query_BHND: Tensor) -> Tensor:
        """The queries [L, H, Q, D], those of a sequence in a row."""
        ...

    def gather(self, out_LHQD: Tensor) -> Tensor:
        """What has been attended to, where :meth:`spread` found its query: [B, N, H, D]."""
        ...

    def mask(self, window: int | None, group: int, dtype: torch.dtype) -> Tensor:
        """Which keys a query sees, within ``window`` positions if the layer slides: [L, 1, G * Q, S] for ``group``
        query heads to a key head, bools or numbers of ``dtype`` to be added to the scores."""
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

    def extend(self, layer: int, key_BHQD: Tensor, value_BHQD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values as they are: everything is in this one pass."""
        return key_BHQD, value_BHQD

    def spread(self, query_BHQD: Tensor) -> Tensor:
        """Queries as they are."""
        return query_BHQD

    def gather(self, out_BHQD: Tensor) -> Tensor:
        """The outcome in the order of the queries."""
        return out_BHQD.transpose(1, 2)

    def mask(self, window: int | None, group: int, dtype: torch.dtype) -> Tensor:
        """Bools; see :class:`AttentionMetadata`."""
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
    return attend(context, layer, query, key, value, scaling, sliding_window, softcap, s_aux, dropout), None


def attend(
    context: AttentionContext,
    layer: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
    sinks: Tensor | None,
    dropout: float = 0.0,
) -> Tensor:
    """What a layer's queries take from the keys that the context's metadata show them: [B, N, Hq, D]."""
    metadata = context.metadata
    if metadata is None:
        raise RuntimeError("No attention metadata: put them into the context that attach() returned before a pass.")
    key, value = metadata.extend(layer, key, value)
    query = metadata.spread(query)
    heads, group = query.shape[1], query.shape[1] // key.shape[1]
    mask = metadata.mask(window, group, query.dtype)
    # The query heads of one key head become further queries of it: bit-identical, and every fused kernel takes a mask.
    folded = query.reshape(query.shape[0], key.shape[1], group * query.shape[2], query.shape[3])
    if softcap is None and sinks is None:
        out = scaled_dot_product_attention(folded, key, value, mask, dropout_p=dropout, scale=scaling)
    else:
        out = _explicit(folded, key, value, mask, scaling, softcap, sinks)
    out = out.reshape(query.shape[0], heads, query.shape[2], value.shape[3])
    return metadata.gather(out).contiguous()


def _explicit(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    scaling: float | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """What no fused kernel does: capped scores and sinks. The same arithmetic, in float32 where it matters."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = (query @ key.transpose(-1, -2)) * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    hidden = torch.finfo(scores.dtype).min
    scores = scores.masked_fill(~mask, hidden) if mask.dtype == torch.bool else scores + mask
    if sinks is not None:  # one more column of scores, that takes weight and gives nothing
        column = sinks.to(scores.dtype).view(1, key.shape[1], -1, 1)
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
