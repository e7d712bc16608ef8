"""Gradient checkpointing: layers are computed again in the backward pass, with the view they were computed with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from transformers import PreTrainedModel

from pastalm.runtime.attention import Seat, View


def recompute_layers(model: PreTrainedModel, seat: Seat) -> None:
    """Make ``model`` keep only the inputs of its layers. Raises ``ValueError`` for models that cannot.

    Attention finds its mask on ``seat``, where a later forward pass may have put another view by the time of the
    backward pass: each layer remembers the view of its own forward pass and puts it there while it is computed again.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _seated(seat, seat.view)

    if not getattr(model, "supports_gradient_checkpointing", False):
        raise ValueError(f"{type(model).__name__} has no gradient checkpointing; train without it.")
    # transformers 5.2x has renamed it, and warns about the old name
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False, "context_fn": contexts})


@contextmanager
def _seated(seat: Seat, view: View | None) -> Iterator[None]:
    before, seat.view = seat.view, view
    try:
        yield
    finally:
        seat.view = before
