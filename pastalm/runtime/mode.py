"""How an answer is decoded. In a file of its own, so that a command line can name the modes without importing torch."""

from __future__ import annotations

from enum import StrEnum


class Mode(StrEnum):
    """How an answer is decoded: in parallel where the model says so, or token by token."""

    ASYNC = "async"
    SEQUENTIAL = "sequential"
