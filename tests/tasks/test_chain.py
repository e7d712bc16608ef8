"""Chains of steps, each of which needs the one before."""

from __future__ import annotations

from pastalm.tasks import chain
from tests.tasks.drafts import drafts, joined


def test_other_place_in_a_cup_game_fails() -> None:
    for draft in drafts(chain.draw):
        if draft.facts["kind"] == "cups":
            first, second = draft.facts["row"][:2]
            assert not chain.check(draft.facts, joined(draft.parts).replace(f"under {first}", f"under {second}")) or (
                f"under {first}" not in joined(draft.parts)
            )
