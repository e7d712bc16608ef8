"""PASTA: learned asynchronous decoding for language models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pastalm.runtime.engine import Engine
    from pastalm.runtime.response import Response

__all__ = ["Engine", "Response"]


def __getattr__(name: str) -> Any:
    # Imported on first use: the language alone must not need torch.
    if name == "Engine":
        from pastalm.runtime.engine import Engine

        return Engine
    if name == "Response":
        from pastalm.runtime.response import Response

        return Response
    raise AttributeError(f"module 'pastalm' has no attribute {name!r}")
