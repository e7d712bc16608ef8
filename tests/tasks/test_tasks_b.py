"""The families distance, totals, chain, rewrite and sharing: what is drawn is well formed and passes its check."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from random import Random

import pytest

from pastalm.lang.answer import Sync
from pastalm.tasks import chain, distance, rewrite, sharing, totals
from pastalm.tasks.assembly import tidy
from pastalm.tasks.task import Chunk, Draft, Family

FAMILIES = [module.FAMILY for module in (distance, totals, chain, rewrite, sharing)]
SEEDS = range(300)

every_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


@cache
def drafts(draw: Callable[[Random], Draft]) -> list[Draft]:
    """One draft for each seed."""
    return [draw(Random(seed)) for seed in SEEDS]


def joined(parts: list[str | Chunk | Sync] | tuple[str | Chunk | Sync, ...]) -> str:
    """The plain text of an answer's parts."""
    return "".join(part.text if isinstance(part, Chunk) else part for part in parts if not isinstance(part, Sync))


def chunks_of(draft: Draft) -> list[Chunk]:
    """The chunks of a draft in order."""
    return [part for part in draft.parts if isinstance(part, Chunk)]


@every_family
def test_own_answer_passes(family: Family) -> None:
    for draft in drafts(family.draw):
        assert family.check(draft.facts, joined(draft.parts)), draft


@every_family
def test_checks_from_stored_facts(family: Family) -> None:
    for draft in drafts(family.draw):
        assert family.check(json.loads(json.dumps(draft.facts)), joined(draft.parts))


@every_family
def test_draw_is_deterministic(family: Family) -> None:
    assert [family.draw(Random(seed)) for seed in range(50)] == drafts(family.draw)[:50]
    assert len({draft.prompt for draft in drafts(family.draw)}) > 290


@every_family
def test_lengths(family: Family) -> None:
    lengths = [len(draft.prompt) + len(joined(draft.parts)) for draft in drafts(family.draw)]
    assert max(lengths) <= 1400
    assert sum(length <= 1000 for length in lengths) >= 0.9 * len(lengths)


@every_family
def test_chunks_are_well_formed(family: Family) -> None:
    for draft in drafts(family.draw):
        chunks = chunks_of(draft)
        topics = [chunk.topic for chunk in chunks]
        assert len(chunks) >= 2
        assert len(set(topics)) == len(topics)
        assert all(1 <= len(topic.split()) <= 3 for topic in topics)
        for chunk in chunks:
            assert len(chunk.text.split()) >= 5
            assert not set('"<>\n') & set(chunk.text)
            assert chunk.text == chunk.text.strip()
            if family.forks:
                assert 75 <= len(chunk.text) <= 200, chunk.text
        assert draft.prompt == tidy(draft.prompt)


@every_family
def test_chunks_are_apart(family: Family) -> None:
    for draft in drafts(family.draw):
        before: str | Chunk | Sync = " "
        for part in draft.parts:
            if isinstance(part, Chunk) and not isinstance(before, Sync):
                assert isinstance(before, str) and before[-1].isspace(), draft.parts
            before = part


@every_family
def test_prompts_and_combinations_vary(family: Family) -> None:
    found = drafts(family.draw)
    assert len({draft.prompt[:12] for draft in found}) >= 20
    assert len({draft.combination for draft in found}) >= 60
    assert 0.05 < sum(draft.held_out for draft in found) / len(found) < 0.25


@pytest.mark.parametrize("family", [chain.FAMILY, rewrite.FAMILY], ids=lambda family: family.name)
def test_serial_families_have_no_independent_chunk(family: Family) -> None:
    assert not family.forks
    for draft in drafts(family.draw):
        assert not any(chunk.independent for chunk in chunks_of(draft))
        assert not any(isinstance(part, Sync) for part in draft.parts)


@pytest.mark.parametrize("family", [distance.FAMILY, totals.FAMILY], ids=lambda family: family.name)
def test_conclusion_follows_a_sync(family: Family) -> None:
    for draft in drafts(family.draw):
        assert all(chunk.independent for chunk in chunks_of(draft))
        assert isinstance(draft.parts[-2], Sync) and isinstance(draft.parts[-1], str)


def test_sharing_styles_have_their_shares() -> None:
    found = [sharing.draw(Random(seed)) for seed in range(1000)]
    planned = [draft for draft in found if " " in chunks_of(draft)[0].topic]
    blind = [draft for draft in found if " " not in chunks_of(draft)[0].topic]
    assert 0.6 < len(planned) / len(found) < 0.7
    assert all(chunk.independent for draft in planned for chunk in chunks_of(draft))
    assert 0.2 < sum(chunks_of(draft)[0].independent for draft in blind) / len(blind) < 0.3
