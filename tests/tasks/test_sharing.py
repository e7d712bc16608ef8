"""Things shared among people: a plan that the chunks must keep to."""

from __future__ import annotations

import re
from random import Random

from pastalm.tasks import sharing
from tests.tasks.drafts import chunks_of, drafts, joined, swapped_words


def test_sharing_styles_have_their_shares() -> None:
    found = [sharing.draw(Random(seed)) for seed in range(1000)]
    planned = [draft for draft in found if " " in chunks_of(draft)[0].topic]
    blind = [draft for draft in found if " " not in chunks_of(draft)[0].topic]
    assert 0.6 < len(planned) / len(found) < 0.7
    assert all(chunk.independent for draft in planned for chunk in chunks_of(draft))
    assert 0.2 < sum(chunks_of(draft)[0].independent for draft in blind) / len(blind) < 0.3


def test_sharing_needs_different_things_of_the_list() -> None:
    for draft in drafts(sharing.draw):
        text, words = joined(draft.parts), [*draft.facts["things"]]
        given = [thing for thing in words if re.search(rf"\b{thing}\b", text.lower())]
        assert not sharing.check(draft.facts, re.sub(rf"(?i)\b{given[0]}\b", given[1], text))
        assert not sharing.check(draft.facts, re.sub(rf"(?i)\b{given[0]}\b", "thing", text))
        assert not sharing.check({**draft.facts, "things": given[1:]}, text)
        assert not sharing.check(draft.facts, re.sub(rf"\b{draft.facts['people'][0]}\b", "Nobody", text))


def test_sharing_accepts_another_plan() -> None:
    for draft in drafts(sharing.draw):
        text = joined(draft.parts)
        first, second = draft.facts["people"][:2]
        assert sharing.check(draft.facts, swapped_words(text, first, second))


def test_sharing_rejects_a_second_thing_for_one_person() -> None:
    facts = {"kind": "dish", "people": ["Ben", "Ada"], "things": ["soup", "cake", "rice"]}
    good = "Ben brings the soup for everyone here. Ada makes the cake, as it is easy to carry."
    assert sharing.check(facts, good)
    assert not sharing.check(facts, good.replace("everyone here", "the cake"))
    assert not sharing.check(facts, good.replace("easy to carry", "like the rice"))
    assert not sharing.check(facts, good.replace("the soup for", "it for"))
