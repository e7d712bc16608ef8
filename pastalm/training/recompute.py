"""Gradient checkpointing: layers are computed again in the backward pass, with the attention metadata they had."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from transformers import PreTrainedModel

from pastalm.runtime.attention import AttentionContext, AttentionMetadata


def recompute_layers(model: PreTrainedModel, context: AttentionContext) -> None:
    """Make ``model`` keep only the inputs of its layers. Raises ``ValueError`` for models that cannot.

    Attention finds its mask in ``context``, where a later forward pass may have put other metadata by the time of the
    backward pass: each layer remembers those of its own forward pass and puts them there while it is computed again.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _restored(context, context.metadata)

    if not getattr(model, "supports_gradient_checkpointing", False):
        raise ValueError(f"{type(model).__name__} has no gradient checkpointing; train without it.")
    # transformers 5.2x has renamed it, and warns about the old name
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False, "context_fn": contexts})


@contextmanager
def _restored(context: AttentionContext, metadata: AttentionMetadata | None) -> Iterator[None]:
    before, context.metadata = context.metadata, metadata
    try:
        yield
    finally:
        context.metadata = before
