"""Memory that there is not: how torch says so, and the error that a request ends with."""

from __future__ import annotations

import torch


class OutOfMemoryError(MemoryError):
    """There is no memory for a request beside those that run."""

    def __init__(self) -> None:
        super().__init__(
            "There is no memory for this request: ask for fewer tokens or fewer requests at once, or take a smaller "
            "model, another dtype or another device."
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this says that there is no memory. Torch has a class for that of a GPU, for the host only words."""
    words = isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    return words or isinstance(error, torch.OutOfMemoryError | MemoryError)
