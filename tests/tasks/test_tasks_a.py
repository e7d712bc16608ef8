"""The first six task families: right answers pass their checks, wrong ones do not, and drafts keep their limits."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from random import Random

import pytest

from pastalm.lang.answer import Sync
from pastalm.tasks import profiles, prose, ranking, short, sorting, spelling, words
from pastalm.tasks.reading import told
from pastalm.tasks.task import Chunk, Draft, Family

FAMILIES = {module.FAMILY.name: module.FAMILY for module in (profiles, sorting, spelling, prose, ranking, short)}
FORKING = [name for name, family in FAMILIES.items() if family.forks]
LISTS = (words.NAMES, words.CITIES, words.FRUITS, words.ANIMALS, words.JOBS, words.COLOURS, words.OBJECTS)

every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
forking_family = pytest.mark.parametrize("family", [FAMILIES[name] for name in FORKING], ids=FORKING)


@cache
def drafts(family: Family) -> tuple[Draft, ...]:
    """Three hundred drafts of a family."""
    return tuple(family.draw(Random(seed)) for seed in range(300))


def plain(parts: tuple[str | Chunk | Sync, ...]) -> str:
    """The text of an answer's parts."""
    return "".join(part.text if isinstance(part, Chunk) else "" if isinstance(part, Sync) else part for part in parts)


def chunk_places(draft: Draft) -> list[int]:
    """Where in the parts the chunks stand."""
    return [place for place, part in enumerate(draft.parts) if isinstance(part, Chunk)]


def replaced(draft: Draft, place: int, text: str) -> str:
    """The answer's text with another text for one part."""
    return plain((*draft.parts[:place], text, *draft.parts[place + 1 :]))


def changed_digits(text: str) -> Iterator[str]:
    """The text with each of its digits made another, one at a time."""
    for match in re.finditer("[0-9]", text):
        yield text[: match.start()] + str((int(match[0]) + 1) % 10) + text[match.end() :]


def changed_words(text: str) -> Iterator[str]:
    """The text with each of its words from the shared lists made another of that list, one at a time."""
    for match in re.finditer("[A-Za-z]+", text):
        for word in told(match[0]):
            pool = next(pool for pool in LISTS if word in pool)
            yield text[: match.start()] + pool[pool.index(word) - 1] + text[match.end() :]


def test_shared_words_stand_in_one_list_only() -> None:
    everything = [word.lower() for pool in LISTS for word in pool]
    assert len(everything) == len(set(everything))
    assert len(words.NAMES) == 40 and len(words.CITIES) == 30
    assert all(told(word) == [word] for pool in LISTS for word in pool)


@every_family
def test_own_text_passes(family: Family) -> None:
    for draft in drafts(family):
        assert family.check(json.loads(json.dumps(draft.facts)), plain(draft.parts)), draft


@every_family
def test_draw_depends_on_the_random_source_only(family: Family) -> None:
    assert drafts(family) == tuple(family.draw(Random(seed)) for seed in range(300))
    assert len({draft.prompt for draft in drafts(family)}) > 290


@every_family
def test_drafts_keep_their_limits(family: Family) -> None:
    lengths = [len(draft.prompt) + len(plain(draft.parts)) for draft in drafts(family)]
    assert max(lengths) <= 1400
    assert sum(length > 1250 for length in lengths) < 0.05 * len(lengths)
    assert all(draft.combination[0] == family.name for draft in drafts(family))
    assert 0.04 < sum(draft.held_out for draft in drafts(family)) / 300 < 0.25


@every_family
def test_chunks_are_well_formed(family: Family) -> None:
    for draft in drafts(family):
        chunks = [part for part in draft.parts if isinstance(part, Chunk)]
        assert bool(chunks) == family.forks
        assert len({chunk.topic for chunk in chunks}) == len(chunks)
        for chunk in chunks:
            assert 1 <= len(chunk.topic.split()) <= 3
            assert len(chunk.text.split()) >= 5
            assert chunk.text == chunk.text.strip() and not re.search('["<>\n]', chunk.text)


@every_family
def test_a_wrong_number_fails(family: Family) -> None:
    for draft in drafts(family):
        for place in chunk_places(draft) or [0]:
            part = draft.parts[place]
            for text in changed_digits(part.text if isinstance(part, Chunk) else part):
                assert not family.check(draft.facts, replaced(draft, place, text)), text


@every_family
def test_a_wrong_word_fails(family: Family) -> None:
    for draft in drafts(family):
        for place in chunk_places(draft) or [0]:
            part = draft.parts[place]
            for text in changed_words(part.text if isinstance(part, Chunk) else part):
                assert not family.check(draft.facts, replaced(draft, place, text)), text


@forking_family
def test_a_missing_or_repeated_chunk_fails(family: Family) -> None:
    for draft in drafts(family):
        for place in chunk_places(draft):
            text = draft.parts[place].text
            assert not family.check(draft.facts, replaced(draft, place, "")), draft
            assert not family.check(draft.facts, replaced(draft, place, f"{text} {text}")), draft
            assert not family.check(draft.facts, plain(draft.parts) + f" {text}"), draft
            cut = text[: len(text) * 2 // 3]
            assert not family.check(draft.facts, replaced(draft, place, cut)), cut


@forking_family
def test_facts_swapped_between_two_chunks_fail(family: Family) -> None:
    for draft in drafts(family):
        one, two = chunk_places(draft)[:2]
        parts = list(draft.parts)
        names = [parts[place].topic.split()[0] for place in (one, two)]
        parts[one], parts[two] = (
            re.sub(rf"\b{names[1]}\b", names[0], parts[two].text, flags=re.IGNORECASE),
            re.sub(rf"\b{names[0]}\b", names[1], parts[one].text, flags=re.IGNORECASE),
        )
        same = plain(tuple(parts)).lower() == plain(draft.parts).lower()
        assert same or not family.check(draft.facts, plain(tuple(parts))), draft


@every_family
def test_check_never_raises(family: Family) -> None:
    rng = Random(0)
    for draft in drafts(family)[:60]:
        text = plain(draft.parts)
        for odd in (text[::-1], "".join(rng.sample(text, len(text))), text + text, draft.prompt + text):
            assert family.check(draft.facts, odd) in (True, False)
        part = text[: len(text) // 3] if family.forks else ""
        for wrong in ("", "\n", "1. ", part, "9" * 5000, "\u00b2\u0663\x00\u00e9", draft.prompt):
            assert family.check(draft.facts, wrong) is False, wrong


def test_prose_has_no_line_break_or_list_mark() -> None:
    for draft in drafts(FAMILIES["prose"]):
        assert not re.search(r"\n|[0-9][.)] |[-*] ", plain(draft.parts))


def test_ranking_syncs_before_its_conclusion_and_checks_it() -> None:
    family = FAMILIES["ranking"]
    for draft in drafts(family):
        *_, sync, ending = draft.parts
        assert isinstance(sync, Sync) and isinstance(ending, str)
        for wrong in (*changed_digits(ending), *changed_words(ending), "", "\nTotals are given."):
            assert not family.check(draft.facts, replaced(draft, len(draft.parts) - 1, wrong)), wrong


def test_a_layout_that_was_asked_for_is_required() -> None:
    facts = {"words": ["river", "melo", "stone"], "count": False, "layout": "numbered"}
    lines = [f"{word}: {', '.join(word)} / {', '.join(word[::-1])} / {word[::-1]}" for word in facts["words"]]
    numbered = "\n".join(f"{number}. {line}" for number, line in enumerate(lines, 1))
    assert spelling.check(facts, numbered)
    assert not spelling.check(facts, "\n".join(lines))
    assert not spelling.check(facts, numbered.replace("3. ", "4. "))
    assert spelling.check(facts | {"layout": None}, "\n".join(lines))


def test_paraphrases_pass() -> None:
    person = {"Ada": {"job": "baker", "age": "34", "pet": "owl"}, "Ben": {"job": "judge", "age": "19", "pet": "cat"}}
    text = "Ada, 34 years old, is a baker with an owl. Ben bakes nothing: he is a judge aged 19 and has a cat."
    assert profiles.check({"kind": "people", "layout": None, "records": person}, text)
    scores = {"Lima": {"food": 3, "parks": 8}, "Oslo": {"food": 9, "parks": 1}, "Bern": {"food": 9, "parks": 9}}
    text = "Lima: food 3, parks 8, so 11. Oslo: food 9, parks 1, so 10. Bern: food 9, parks 9, so 18. "
    text += "Lima 11, Oslo 10, Bern 18: Bern wins."
    assert ranking.check({"scores": scores, "want": "high", "layout": None}, text)
    assert not ranking.check({"scores": scores, "want": "low", "layout": None}, text)
    assert short.check({"answer": "blue", "allowed": ["Ada", "blue", "lamp"]}, "Ada's lamp? Blue!")
