"""The families distance, totals, chain, rewrite and sharing: their checks reject what is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from random import Random
from types import ModuleType

import pytest

from pastalm.lang.answer import Sync
from pastalm.tasks import chain, distance, ranking, rewrite, sharing, totals
from pastalm.tasks.assembly import in_order, told_apart
from pastalm.tasks.matching import marks_fit, read, sums_hold
from pastalm.tasks.task import Chunk, Draft, Family

FAMILIES = [module.FAMILY for module in (distance, totals, chain, rewrite, sharing)]
COUNTING = [distance.FAMILY, totals.FAMILY, chain.FAMILY]
SEEDS = range(300)

every_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
counting_families = pytest.mark.parametrize("family", COUNTING, ids=lambda family: family.name)


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


def with_texts(draft: Draft, texts: list[str]) -> str:
    """The plain text with the chunks' texts replaced."""
    rest = iter(texts)
    return joined([Chunk(part.topic, next(rest)) if isinstance(part, Chunk) else part for part in draft.parts])


def digits_changed(text: str, rng: Random) -> str:
    """The text with one digit changed to another."""
    place = rng.choice([match.start() for match in re.finditer("[0-9]", text)])
    other = rng.choice([digit for digit in "0123456789" if digit != text[place]])
    return text[:place] + other + text[place + 1 :]


def swapped_words(text: str, first: str, second: str) -> str:
    """The text with two words in each other's places."""
    pattern = rf"\b(?:{first}|{second})\b"
    return re.sub(pattern, lambda match: second if match[0] == first else first, text)


@every_family
def test_missing_chunk_fails(family: Family) -> None:
    for seed, draft in enumerate(drafts(family.draw)):
        texts = [chunk.text for chunk in chunks_of(draft)]
        texts[Random(seed).randrange(len(texts))] = ""
        assert not family.check(draft.facts, with_texts(draft, texts))


@every_family
def test_repeated_chunk_fails(family: Family) -> None:
    for seed, draft in enumerate(drafts(family.draw)):
        texts = [chunk.text for chunk in chunks_of(draft)]
        place = Random(seed).randrange(len(texts))
        again = texts[:place] + [f"{texts[place]} {texts[place]}"] + texts[place + 1 :]
        instead = [texts[place - 1] if n == place else text for n, text in enumerate(texts)]
        assert not family.check(draft.facts, with_texts(draft, again)), again
        assert instead == texts or not family.check(draft.facts, with_texts(draft, instead))


@pytest.mark.parametrize("family", FAMILIES[:4], ids=lambda family: family.name)
def test_order_and_conclusion_matter(family: Family) -> None:
    for draft in drafts(family.draw):
        texts = [chunk.text for chunk in chunks_of(draft)]
        if texts[0] != texts[-1]:
            assert not family.check(draft.facts, with_texts(draft, texts[::-1]))
        assert not family.check(draft.facts, joined(draft.parts[:-1]))


@counting_families
def test_wrong_digit_fails(family: Family) -> None:
    for seed, draft in enumerate(drafts(family.draw)):
        text = joined(draft.parts)
        if re.search("[0-9]", text):
            assert not family.check(draft.facts, digits_changed(text, Random(seed))), text


def test_swapped_names_fail() -> None:
    for draft in drafts(totals.draw):
        first, second = draft.facts["people"][0]["name"], draft.facts["people"][1]["name"]
        texts = [swapped_words(chunk.text, first, second) for chunk in chunks_of(draft)]
        assert not totals.check(draft.facts, with_texts(draft, texts))


def test_other_place_in_a_cup_game_fails() -> None:
    for draft in drafts(chain.draw):
        if draft.facts["kind"] == "cups":
            first, second = draft.facts["row"][:2]
            assert not chain.check(draft.facts, joined(draft.parts).replace(f"under {first}", f"under {second}")) or (
                f"under {first}" not in joined(draft.parts)
            )


def test_wrong_letter_fails() -> None:
    for seed, draft in enumerate(drafts(rewrite.draw)):
        text = joined(draft.parts)
        spelled = list(re.finditer(r"(?<![A-Za-z])[a-z](?=(?:-|, |/)[a-z]\b)", text))
        place = Random(seed).choice(spelled).start()
        other = "q" if text[place] != "q" else "x"
        assert not rewrite.check(draft.facts, text[:place] + other + text[place + 1 :]), text


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


def test_a_wrong_sum_or_mark_is_seen() -> None:
    assert sums_hold("5 - (-3) = 5 + 3 = 8, and 8 times 8 = 64.")
    assert not sums_hold("5 - (-3) = 5 + 3 = 9.")
    assert marks_fit("1. one\n2. two", 2) and not marks_fit("1. one\n3. two", 2)
    assert read("1) Red is (-3, 4)", {"red"}) == ["red", "-3", "4"]


def test_named_numbers_are_brought_in_order() -> None:
    pairs = [("Ada", 15), ("Ben", 17), ("Fay", 12)]
    named = "Ada has 15; Ben has 17; Fay has 12. "
    assert in_order(pairs, "most") == named + "The most first: 17 for Ben, 15 for Ada, 12 for Fay"
    assert in_order(pairs, "least", down=False) == named + "The least first: 12 for Fay, 15 for Ada, 17 for Ben"


def test_numbers_told_apart_have_two_digits_and_other_first_ones() -> None:
    assert told_apart([10, 29, 38]) and not told_apart([21, 29, 38])
    assert not told_apart([9, 29]) and not told_apart([29, 100])


@pytest.mark.parametrize("family", [totals, distance, ranking], ids=["totals", "distance", "ranking"])
def test_a_wrong_order_or_end_is_seen(family: ModuleType) -> None:
    seen = 0
    for draft in drafts(family.draw):
        text = joined(draft.parts)
        order = re.search(r" first: ([0-9]+ for ([a-zA-Z ]+)), ([0-9]+ for ([a-zA-Z ]+))", text)
        if not order:
            continue
        first, best, second, other = order.groups()
        assert not family.check(draft.facts, text.replace(order[0], f" first: {second}, {first}"))
        head, _, end = text.rpartition(best)
        assert not family.check(draft.facts, f"{head}{other}{end}")
        seen += 1
    assert seen


@every_family
def test_check_never_raises(family: Family) -> None:
    draft = drafts(family.draw)[0]
    strange = ["", " ", "\n", "1. ", "Step 1: ", "= 1 + = 2", "9" * 5000, "9" * 5000 + " = 1.", "\ud800", "٣ = ٤", "a"]
    text = joined(draft.parts)
    for other in strange:
        assert family.check(draft.facts, other) is False
    for end in range(0, len(text), 7):
        assert family.check(draft.facts, text[:end]) in (False, text[:end].endswith("."))
