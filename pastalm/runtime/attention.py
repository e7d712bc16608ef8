"""The attention function that every model runs with here: visibility comes from a view, not from the model.

A view says which keys each query sees and, when decoding, where keys and values are kept. It is put on the model's seat
before each forward pass: not all families pass keyword arguments on to their attention layers, but every layer can hold
on to one seat. The function is registered with transformers under a name that has no mask function, so that
transformers builds no mask of its own.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

NAME = "pasta"
KNOWN = frozenset(["position_ids", "cache_position", "logits_to_keep"])  # they say nothing that the view does not


class View(Protocol):
    """What a forward pass sees. Shapes: B rows that the model is fed, L rows that attend, each with keys of its own, H
    heads, N or Q queries in such a row, S keys, D head width. L and Q are B and N except in a batch of requests."""

    def extend(self, layer: int, key_BHND: Tensor, value_BHND: Tensor) -> tuple[Tensor, Tensor]:
        """Take a layer's new keys and values in; return all there are, [L, H, S, D] each."""
        ...

    def spread(self, query_BHND: Tensor) -> Tensor:
        """The queries [L, H, Q, D], those of a request in a row."""
        ...

    def gather(self, out_LHQD: Tensor) -> Tensor:
        """What has been attended to, where :meth:`spread` found its query: [B, H, N, D]."""
        ...

    def mask(self, window: int | None) -> Tensor:
        """Bool [L, 1, Q, S]: which keys a query sees, within ``window`` positions if the layer slides."""
        ...


class Seat:
    """Where a model's attention layers find the view of the forward pass that is running."""

    view: View | None = None


class DenseView:
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
        """The outcome as it is."""
        return out_BHQD

    def mask(self, window: int | None) -> Tensor:
        """See :class:`View`."""
        if window is None:
            return self.visible
        if window not in self.windows:
            self.windows[window] = self.visible & within(window, self.positions, self.positions)
        return self.windows[window]


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

    ``softcap`` bounds scores as Gemma 2 does; ``s_aux`` [Hq] are attention sinks. Raises ``RuntimeError`` if no view
    is on the seat of :func:`attach`, for a mask (the view's is the only one), for other tensors that would steer the
    attention, and for a layer that looks ahead.
    """
    if attention_mask is not None:
        raise RuntimeError("It makes an attention mask of its own, which would be passed over.")
    if not getattr(module, "is_causal", True):
        raise RuntimeError("It is an encoder: its attention looks ahead.")
    passed_over = [name for name, other in others.items() if isinstance(other, Tensor) and name not in KNOWN]
    if passed_over:
        raise RuntimeError(f"It gives its attention {passed_over[0]!r}, which would be passed over.")
    seat = getattr(module, "pasta_seat", None)
    view = seat.view if isinstance(seat, Seat) else None
    if view is None:
        raise RuntimeError("No view: put one on the seat that attach() returned before a forward pass.")
    key, value = view.extend(module.layer_idx, key, value)
    query, mask = view.spread(query), view.mask(sliding_window)
    heads, group = query.shape[1], query.shape[1] // key.shape[1]
    # The query heads of one key head become further queries of it: bit-identical, and every fused kernel takes a mask.
    folded = query.reshape(query.shape[0], key.shape[1], group * query.shape[2], query.shape[3])
    if group > 1:
        mask = mask.repeat(1, 1, group, 1)
    if softcap is None and s_aux is None:
        dropout = dropout if module.training else 0.0
        out = scaled_dot_product_attention(folded, key, value, mask, dropout_p=dropout, scale=scaling)
    else:
        out = _explicit(folded, key, value, mask, scaling, softcap, s_aux)
    out = out.reshape(query.shape[0], heads, query.shape[2], value.shape[3])
    return view.gather(out).transpose(1, 2).contiguous(), None


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
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    if sinks is not None:  # one more column of scores, that takes weight and gives nothing
        column = sinks.to(scores.dtype).view(1, key.shape[1], -1, 1)
        column = column.repeat_interleave(query.shape[2] // column.shape[2], dim=2).expand(len(query), -1, -1, 1)
        scores = torch.cat([scores, column], dim=-1)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    return weights[..., : key.shape[2]] @ value


def attach(model: PreTrainedModel) -> Seat:
    """Make ``model`` run with :func:`pasta_attention`; returns the seat where the view of each forward pass goes."""
    AttentionInterface.register(NAME, pasta_attention)
    model.set_attn_implementation(NAME)
    layers = [module for module in model.modules() if hasattr(module, "layer_idx")]
    seat = next((layer.pasta_seat for layer in layers if hasattr(layer, "pasta_seat")), None) or Seat()
    for layer in layers:
        layer.pasta_seat = seat
    return seat


def is_attached(model: PreTrainedModel) -> bool:
    """Whether ``model`` runs with :func:`pasta_attention` already."""
    return model.config._attn_implementation == NAME
