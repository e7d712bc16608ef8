"""Tasks by seed, for processes that draw them side by side and so import no torch."""

from __future__ import annotations

from pastalm.tasks import sample, to_json

SHARD = 1100  # tasks of one seed: what is drawn does not depend on the number of processes


def shard(seed: int) -> list[str]:
    """The tasks of one seed as lines."""
    return [to_json(task) for task in sample("train", seed, SHARD)]
