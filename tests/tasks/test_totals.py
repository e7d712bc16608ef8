"""Sums of several people, then who has the most."""

from __future__ import annotations

from pastalm.tasks import totals
from tests.tasks.drafts import chunks_of, drafts, swapped_words, with_texts


def test_swapped_names_fail() -> None:
    for draft in drafts(totals.draw):
        first, second = draft.facts["people"][0]["name"], draft.facts["people"][1]["name"]
        texts = [swapped_words(chunk.text, first, second) for chunk in chunks_of(draft)]
        assert not totals.check(draft.facts, with_texts(draft, texts))
