"""What all task families share: splits that have nothing in common, and annotations as imperfect as asked for."""

from __future__ import annotations

from functools import cache
from random import Random
from typing import Any

import pytest

from pastalm import tasks
from pastalm.lang.answer import Answer, Sync
from pastalm.tasks import FAMILIES, SPLITS, sample
from pastalm.tasks.task import Chunk, Draft, Noise, annotate

PERFECT = Noise(0, 0, 0)


def test_the_splits_share_no_combination_and_no_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[Any, ...]] = []

    def noted(draft: Draft, noise: Noise, rng: Random) -> Answer:
        drawn.append(draft.combination)
        return annotate(draft, noise, rng)

    monkeypatch.setattr(tasks, "annotate", noted)
    found = {}
    for split in SPLITS:
        drawn.clear()
        made = sample(split, 0, 60 * len(FAMILIES))
        found[split] = {(task.family, one) for task, one in zip(made, drawn, strict=True)}, {t.prompt for t in made}
    for train, held_out in zip(*found.values(), strict=True):
        assert len(train) > 200 and len(held_out) > 50 and not train & held_out


@cache
def drafts() -> tuple[Draft, ...]:
    """Forty drafts of each family."""
    return tuple(family.draw(Random(seed)) for family in FAMILIES.values() for seed in range(40))


def marks(noise: Noise) -> tuple[int, int]:
    """How many blocks and syncs the drafts have when they are annotated with this noise."""
    rng = Random(5)
    answers = [annotate(draft, noise, rng) for draft in drafts()]
    blocks = sum(len(list(answer.blocks())) for answer in answers)
    return blocks, sum(isinstance(node, Sync) for answer in answers for node in answer.nodes)


@pytest.mark.parametrize("share", [0.04, 0.3, 1.0])
def test_noise_comes_in_the_shares_asked_for(share: float) -> None:
    chunks = [part for draft in drafts() for part in draft.parts if isinstance(part, Chunk)]
    independent = sum(chunk.independent for chunk in chunks)
    dependent = len(chunks) - independent
    blocks, syncs = marks(PERFECT)
    assert blocks == independent > 500 and dependent > 100 and syncs > 100
    for count, made, noise in (
        (independent, independent - marks(Noise(share, 0, 0))[0], "missed"),
        (dependent, marks(Noise(0, share, 0))[0] - independent, "wrong"),
        (syncs, syncs - marks(Noise(0, 0, share))[1], "unsynced"),
    ):
        error = 3 * (share * (1 - share) / count) ** 0.5
        assert made / count == pytest.approx(share, abs=error + 1e-9), noise
