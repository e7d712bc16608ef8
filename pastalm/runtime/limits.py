"""How much one request may decode."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """``max_tokens``: all threads together. ``max_async_tokens``: one chunk; then it is closed and marked truncated.
    ``max_threads``: how many are decoded in one step; more wait in line, and the answer is the same. ``max_depth``: how
    deep chunks may nest, 1 is flat. ``window``: positions the model knows. ``slots``: what its cache may hold. None
    sets no limit."""

    max_tokens: int = 1024
    max_async_tokens: int | None = None
    max_threads: int | None = None
    max_depth: int = 1
    window: int | None = None
    slots: int | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is None and name not in ("max_tokens", "max_depth"):
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}.")
