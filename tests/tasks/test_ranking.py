"""Scores added up, then a conclusion that needs the sums."""

from __future__ import annotations

from pastalm.lang.answer import Sync
from pastalm.tasks import ranking
from tests.tasks.drafts import changed_digits, changed_words, drafts, replaced


def test_ranking_syncs_before_its_conclusion_and_checks_it() -> None:
    for draft in drafts(ranking.draw):
        *_, sync, ending = draft.parts
        assert isinstance(sync, Sync) and isinstance(ending, str)
        for wrong in (*changed_digits(ending), *changed_words(ending), "", "\nTotals are given."):
            assert not ranking.check(draft.facts, replaced(draft, len(draft.parts) - 1, wrong)), wrong


def test_paraphrases_pass() -> None:
    scores = {"Lima": {"food": 3, "parks": 8}, "Oslo": {"food": 9, "parks": 1}, "Bern": {"food": 9, "parks": 9}}
    text = "Lima: food 3, parks 8, so 11. Oslo: food 9, parks 1, so 10. Bern: food 9, parks 9, so 18. "
    text += "Lima 11, Oslo 10, Bern 18: Bern wins."
    assert ranking.check({"scores": scores, "want": "high", "layout": None}, text)
    assert not ranking.check({"scores": scores, "want": "low", "layout": None}, text)
