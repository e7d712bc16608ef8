"""What holds for every family: drafts keep their limits, right answers pass their checks, wrong ones do not."""

from __future__ import annotations

import json
import re
from random import Random

from pastalm.lang.answer import Sync
from pastalm.tasks import chain, distance, rewrite, totals
from pastalm.tasks.assembly import tidy
from pastalm.tasks.task import Chunk, Family
from tests.tasks.drafts import (
    LOOKED_UP,
    SEEDS,
    WORKED_OUT,
    changed_digits,
    changed_words,
    chunk_places,
    chunks_of,
    digit_changed,
    drafts,
    every_family,
    joined,
    of,
    replaced,
    with_texts,
)


@every_family
def test_own_answer_passes_also_by_stored_facts(family: Family) -> None:
    for draft in drafts(family.draw):
        assert family.check(draft.facts, joined(draft.parts)), draft
        assert family.check(json.loads(json.dumps(draft.facts)), joined(draft.parts)), draft


@every_family
def test_draw_depends_on_the_random_source_only(family: Family) -> None:
    assert [family.draw(Random(seed)) for seed in SEEDS] == drafts(family.draw)
    assert len({draft.prompt for draft in drafts(family.draw)}) > 290


@every_family
def test_drafts_keep_their_limits(family: Family) -> None:
    lengths = [len(draft.prompt) + len(joined(draft.parts)) for draft in drafts(family.draw)]
    assert max(lengths) <= 1400
    assert sum(length > 1250 for length in lengths) < 0.05 * len(lengths)
    assert all(draft.combination[0] == family.name for draft in drafts(family.draw))
    assert 0.04 < sum(draft.held_out for draft in drafts(family.draw)) / 300 < 0.25


@of(WORKED_OUT)
def test_most_drafts_are_short_and_varied(family: Family) -> None:
    found = drafts(family.draw)
    lengths = [len(draft.prompt) + len(joined(draft.parts)) for draft in found]
    assert sum(length <= 1000 for length in lengths) >= 0.9 * len(lengths)
    assert len({draft.prompt[:12] for draft in found}) >= 20
    assert len({draft.combination for draft in found}) >= 60
    assert 0.05 < sum(draft.held_out for draft in found) / len(found) < 0.25


@every_family
def test_chunks_are_well_formed(family: Family) -> None:
    for draft in drafts(family.draw):
        chunks = chunks_of(draft)
        assert len({chunk.topic for chunk in chunks}) == len(chunks)
        for chunk in chunks:
            assert 1 <= len(chunk.topic.split()) <= 3
            assert len(chunk.text.split()) >= 5
            assert chunk.text == chunk.text.strip() and not re.search('["<>\n]', chunk.text)


@of(LOOKED_UP)
def test_there_are_chunks_where_the_family_forks(family: Family) -> None:
    assert all(bool(chunks_of(draft)) == family.forks for draft in drafts(family.draw))


@of(WORKED_OUT)
def test_there_are_chunks_of_a_size(family: Family) -> None:
    for draft in drafts(family.draw):
        assert len(chunks_of(draft)) >= 2 and draft.prompt == tidy(draft.prompt)
        assert not family.forks or all(75 <= len(chunk.text) <= 200 for chunk in chunks_of(draft))


@of(WORKED_OUT)
def test_chunks_are_apart(family: Family) -> None:
    for draft in drafts(family.draw):
        before: str | Chunk | Sync = " "
        for part in draft.parts:
            if isinstance(part, Chunk) and not isinstance(before, Sync):
                assert isinstance(before, str) and before[-1].isspace(), draft.parts
            before = part


@of([chain.FAMILY, rewrite.FAMILY])
def test_serial_families_have_no_independent_chunk(family: Family) -> None:
    assert not family.forks
    for draft in drafts(family.draw):
        assert not any(chunk.independent for chunk in chunks_of(draft))
        assert not any(isinstance(part, Sync) for part in draft.parts)


@of([distance.FAMILY, totals.FAMILY])
def test_conclusion_follows_a_sync(family: Family) -> None:
    for draft in drafts(family.draw):
        assert all(chunk.independent for chunk in chunks_of(draft))
        assert isinstance(draft.parts[-2], Sync) and isinstance(draft.parts[-1], str)


@of(LOOKED_UP)
def test_a_wrong_number_fails(family: Family) -> None:
    for draft in drafts(family.draw):
        for place in chunk_places(draft) or [0]:
            part = draft.parts[place]
            for text in changed_digits(part.text if isinstance(part, Chunk) else part):
                assert not family.check(draft.facts, replaced(draft, place, text)), text


@of(LOOKED_UP)
def test_a_wrong_word_fails(family: Family) -> None:
    for draft in drafts(family.draw):
        for place in chunk_places(draft) or [0]:
            part = draft.parts[place]
            for text in changed_words(part.text if isinstance(part, Chunk) else part):
                assert not family.check(draft.facts, replaced(draft, place, text)), text


@of([distance.FAMILY, totals.FAMILY, chain.FAMILY])
def test_wrong_digit_fails(family: Family) -> None:
    for seed, draft in enumerate(drafts(family.draw)):
        text = joined(draft.parts)
        if re.search("[0-9]", text):
            assert not family.check(draft.facts, digit_changed(text, Random(seed))), text


@of([family for family in LOOKED_UP if family.forks])
def test_a_missing_or_repeated_chunk_fails(family: Family) -> None:
    for draft in drafts(family.draw):
        for place in chunk_places(draft):
            text = draft.parts[place].text
            assert not family.check(draft.facts, replaced(draft, place, "")), draft
            assert not family.check(draft.facts, replaced(draft, place, f"{text} {text}")), draft
            assert not family.check(draft.facts, joined(draft.parts) + f" {text}"), draft
            cut = text[: len(text) * 2 // 3]
            assert not family.check(draft.facts, replaced(draft, place, cut)), cut


@of(WORKED_OUT)
def test_missing_chunk_fails(family: Family) -> None:
    for seed, draft in enumerate(drafts(family.draw)):
        texts = [chunk.text for chunk in chunks_of(draft)]
        texts[Random(seed).randrange(len(texts))] = ""
        assert not family.check(draft.facts, with_texts(draft, texts))


@of(WORKED_OUT)
def test_repeated_chunk_fails(family: Family) -> None:
    for seed, draft in enumerate(drafts(family.draw)):
        texts = [chunk.text for chunk in chunks_of(draft)]
        place = Random(seed).randrange(len(texts))
        again = texts[:place] + [f"{texts[place]} {texts[place]}"] + texts[place + 1 :]
        instead = [texts[place - 1] if n == place else text for n, text in enumerate(texts)]
        assert not family.check(draft.facts, with_texts(draft, again)), again
        assert instead == texts or not family.check(draft.facts, with_texts(draft, instead))


@of([distance.FAMILY, totals.FAMILY, chain.FAMILY, rewrite.FAMILY])
def test_order_and_conclusion_matter(family: Family) -> None:
    for draft in drafts(family.draw):
        texts = [chunk.text for chunk in chunks_of(draft)]
        if texts[0] != texts[-1]:
            assert not family.check(draft.facts, with_texts(draft, texts[::-1]))
        assert not family.check(draft.facts, joined(draft.parts[:-1]))


@of([family for family in LOOKED_UP if family.forks])
def test_facts_swapped_between_two_chunks_fail(family: Family) -> None:
    for draft in drafts(family.draw):
        one, two = chunk_places(draft)[:2]
        parts = list(draft.parts)
        names = [parts[place].topic.split()[0] for place in (one, two)]
        parts[one], parts[two] = (
            re.sub(rf"\b{names[1]}\b", names[0], parts[two].text, flags=re.IGNORECASE),
            re.sub(rf"\b{names[0]}\b", names[1], parts[one].text, flags=re.IGNORECASE),
        )
        same = joined(parts).lower() == joined(draft.parts).lower()
        assert same or not family.check(draft.facts, joined(parts)), draft


@of(LOOKED_UP)
def test_check_never_raises(family: Family) -> None:
    rng = Random(0)
    for draft in drafts(family.draw)[:60]:
        text = joined(draft.parts)
        for odd in (text[::-1], "".join(rng.sample(text, len(text))), text + text, draft.prompt + text):
            assert family.check(draft.facts, odd) in (True, False)
        part = text[: len(text) // 3] if family.forks else ""
        for wrong in ("", "\n", "1. ", part, "9" * 5000, "\u00b2\u0663\x00\u00e9", draft.prompt):
            assert family.check(draft.facts, wrong) is False, wrong


@of(WORKED_OUT)
def test_check_never_raises_on_steps(family: Family) -> None:
    draft = drafts(family.draw)[0]
    strange = ["", " ", "\n", "1. ", "Step 1: ", "= 1 + = 2", "9" * 5000, "9" * 5000 + " = 1.", "\ud800", "٣ = ٤", "a"]
    text = joined(draft.parts)
    for other in strange:
        assert family.check(draft.facts, other) is False
    for end in range(0, len(text), 7):
        assert family.check(draft.facts, text[:end]) in (False, text[:end].endswith("."))
