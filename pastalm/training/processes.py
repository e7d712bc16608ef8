"""The processes of one run, as `accelerate launch` starts them: which one this is, and waiting for the others."""

from __future__ import annotations

import os
from collections.abc import Callable
from time import sleep

POLL_SECONDS = 0.5


def rank() -> int:
    """The number of this process among those that a launcher started."""
    return int(os.environ.get("RANK", 0))


def leads() -> bool:
    """Whether this process is the first: the one that prints, and that writes what is written once."""
    return rank() == 0


def processes() -> int:
    """How many processes a launcher started for this run."""
    return int(os.environ.get("WORLD_SIZE", 1))


def own_device() -> str:
    """Where this process runs: on the GPU of its number, if there are any."""
    import torch

    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"


def wait_until(ready: Callable[[], bool]) -> None:
    """Wait for another process. By files, which all see, since collective operations time out long before a stage of
    sampling ends; should the other fail, the launcher ends this one too."""
    while not ready():
        sleep(POLL_SECONDS)


def disband() -> None:
    """End the processes' group, all at once: one that left while others still listen would make them abort."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()
