"""The word lists that the families share."""

from __future__ import annotations

from pastalm.tasks import words
from pastalm.tasks.reading import told
from tests.tasks.drafts import LISTS


def test_shared_words_stand_in_one_list_only() -> None:
    everything = [word.lower() for pool in LISTS for word in pool]
    assert len(everything) == len(set(everything))
    assert len(words.NAMES) == 40 and len(words.CITIES) == 30
    assert all(told(word) == [word] for pool in LISTS for word in pool)
