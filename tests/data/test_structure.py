"""Marks by plain structure: what is marked, what is not, topics, syncs, and that no character changes."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pastalm.data.check import flaws
from pastalm.data.structure import fault, mark, own_answers, topic
from pastalm.lang.render import render_annotator

DETAIL = "this one has a sentence of at least nine words in it."
NUMBERED = f"""Here are some ways:

1. **Avoid Screens**: {DETAIL}
2. **The quiet room:** {DETAIL}

   More of it.
3. A walk: {DETAIL}

Overall, these help most people."""
NUMBERED_MARKED = f"""Here are some ways:

1. <async topic='avoid screens'>**Avoid Screens**: {DETAIL}</async>
2. <async topic='quiet room'>**The quiet room:** {DETAIL}

   More of it.</async>
3. <async topic='walk'>A walk: {DETAIL}</async><sync/>

Overall, these help most people."""
BULLETED = f"- Cats sleep in the sun, and {DETAIL}\n- Dogs run in the park, and {DETAIL}\n\nAsk me for more."
BULLETED_MARKED = (
    f"- <async topic='cats sleep sun'>Cats sleep in the sun, and {DETAIL}</async>\n"
    f"- <async topic='dogs run park'>Dogs run in the park, and {DETAIL}</async>\n\nAsk me for more."
)
HEADED = f"# Pets\n\n## Cats\n{DETAIL}\n\n## Dogs\n- one\n- {DETAIL}\n\n## Conclusion\nBoth are good pets."
HEADED_MARKED = (
    f"# Pets\n\n## Cats\n<async topic='cats'>{DETAIL}</async>\n\n## Dogs\n<async topic='dogs'>- one\n- {DETAIL}</async>"
    "<sync/>\n\n## Conclusion\nBoth are good pets."
)
BOLD = f"Two kinds.\n\n**Sandy soil** drains fast, and {DETAIL}\n\n**Clay soil** holds water, and {DETAIL}"
BOLD_MARKED = (
    f"Two kinds.\n\n<async topic='sandy soil'>**Sandy soil** drains fast, and {DETAIL}</async>\n\n"
    f"<async topic='clay soil'>**Clay soil** holds water, and {DETAIL}</async>"
)
ORDERED = f"First, water costs money, and {DETAIL}\n\nSecond, soil wears out, and {DETAIL}"
ORDERED_MARKED = (
    f"First, <async topic='water costs money'>water costs money, and {DETAIL}</async>\n\n"
    f"Second, <async topic='soil wears out'>soil wears out, and {DETAIL}</async>"
)
SPLIT = f"1. **Cats**\n\nCats purr, and {DETAIL}\n\n2. **Dogs**\n\nDogs bark, and {DETAIL}"
SPLIT_MARKED = (
    f"1. <async topic='cats'>**Cats**\n\nCats purr, and {DETAIL}</async>\n\n"
    f"2. <async topic='dogs'>**Dogs**\n\nDogs bark, and {DETAIL}</async>"
)
MARKED = [
    (NUMBERED, NUMBERED_MARKED, "lists"), (BULLETED, BULLETED_MARKED, "lists"), (HEADED, HEADED_MARKED, "headings"),
    (BOLD, BOLD_MARKED, "paragraphs"), (ORDERED, ORDERED_MARKED, "paragraphs"), (SPLIT, SPLIT_MARKED, "lists"),
]  # fmt: skip


@pytest.mark.parametrize("text, marked, rule", MARKED)
def test_each_structure(text: str, marked: str, rule: str) -> None:
    answer, found = mark(text)
    assert render_annotator(answer) == marked and found == rule and answer.plain == text
    assert list(flaws(marked, text)) == []


@pytest.mark.parametrize(
    "text",
    [
        "One plain paragraph without any structure at all, however long it may go on.",
        NUMBERED.replace("A walk:", "Then walk:"),  # an item that leans on the others
        NUMBERED.replace("**Avoid Screens**: ", ""),  # a numbered item without a head is a step
        NUMBERED.replace("A walk", "Avoid screens"),  # a topic twice
        NUMBERED.replace("1. ", "1. x\n2. ").replace("some", "`a`\n```\ncode\n```"),
        f"1. Cats: {DETAIL}\n3. Dogs: {DETAIL}",  # no list that counts up
        "- short\n- items\n- only",
        f"1. Only one: {DETAIL}",
        f"**Ingredients**\n{DETAIL}\n\n**Instructions**\n{DETAIL}",  # steps need what stands before them
        ORDERED.replace("First, ", "At first "),
    ],
)
def test_what_is_left_unmarked(text: str) -> None:
    answer, rule = mark(text)
    assert rule == "" and list(answer.blocks()) == [] and answer.plain == text


@given(
    st.lists(st.sampled_from([text for text, _, _ in MARKED] + ["", "\n", "- x", "1. y", "**B**", "# H"]), max_size=6)
)
def test_marks_change_no_character_and_are_sound(parts: list[str]) -> None:
    text = "\n\n".join(parts)
    answer, rule = mark(text)
    assert answer.plain == text and bool(rule) == bool(list(answer.blocks()))
    assert text == "" or list(flaws(render_annotator(answer), text)) == []


def test_topics_are_at_most_three_telling_words() -> None:
    assert topic("The **Length** of a Formula") == "length formula"
    assert topic("one two three four") == "one two three"
    assert topic("It is") == "it is" and topic("?!") == "part"


def test_faults() -> None:
    assert fault(NUMBERED) == "" and fault(" ") == "empty" and fault("a <sync/> b") == "has tags"
    assert fault("go and see the " * 20) == "circles"
    assert fault("You can sit on the slippery bench. " * 2) == "repeats"
    assert fault(f"1. Cats: {DETAIL}\n2. Cats: other words here") == "repeats"
    assert fault("Yes. Yes.") == ""


def test_the_first_good_answers_are_kept() -> None:
    counts: Counter[str] = Counter()
    texts = ["", NUMBERED, NUMBERED, "Short.", "Another."]
    samples = [{"text": "cut of", "finished": False}, *({"text": text, "finished": True} for text in texts)]
    kept = list(own_answers(samples, 2, counts))
    assert kept == [(NUMBERED, NUMBERED_MARKED, "lists"), ("Short.", "Short.", "")]
    assert counts == {"cut": 1, "empty": 1, "lists": 1, "twice": 1, "unmarked": 1, "not needed": 1}
