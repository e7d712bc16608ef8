"""What the tests of the task families share: the families in two groups, their drafts, and ways to make one wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from random import Random

import pytest

from pastalm.lang.answer import Sync
from pastalm.tasks import (
    chain,
    distance,
    profiles,
    prose,
    ranking,
    rewrite,
    sharing,
    short,
    sorting,
    spelling,
    totals,
    words,
)
from pastalm.tasks.reading import told
from pastalm.tasks.task import Chunk, Draft, Family

SEEDS = range(300)
LOOKED_UP = [module.FAMILY for module in (profiles, sorting, spelling, prose, ranking, short)]  # facts in other words
WORKED_OUT = [module.FAMILY for module in (distance, totals, chain, rewrite, sharing)]  # facts that need steps
LISTS = (words.NAMES, words.CITIES, words.FRUITS, words.ANIMALS, words.JOBS, words.COLOURS, words.OBJECTS)


def of(families: Iterable[Family]) -> pytest.MarkDecorator:
    """Run a test with each of these families."""
    return pytest.mark.parametrize("family", list(families), ids=lambda family: family.name)


every_family = of([*LOOKED_UP, *WORKED_OUT])


@cache
def drafts(draw: Callable[[Random], Draft]) -> list[Draft]:
    """One draft for each seed."""
    return [draw(Random(seed)) for seed in SEEDS]


def joined(parts: Iterable[str | Chunk | Sync]) -> str:
    """The plain text of an answer's parts."""
    return "".join(part.text if isinstance(part, Chunk) else part for part in parts if not isinstance(part, Sync))


def chunks_of(draft: Draft) -> list[Chunk]:
    """The chunks of a draft in order."""
    return [part for part in draft.parts if isinstance(part, Chunk)]


def chunk_places(draft: Draft) -> list[int]:
    """Where in the parts the chunks stand."""
    return [place for place, part in enumerate(draft.parts) if isinstance(part, Chunk)]


def replaced(draft: Draft, place: int, text: str) -> str:
    """The answer's text with another text for one part."""
    return joined((*draft.parts[:place], text, *draft.parts[place + 1 :]))


def with_texts(draft: Draft, texts: list[str]) -> str:
    """The plain text with the chunks' texts replaced."""
    rest = iter(texts)
    return joined(Chunk(part.topic, next(rest)) if isinstance(part, Chunk) else part for part in draft.parts)


def changed_digits(text: str) -> Iterator[str]:
    """The text with each of its digits made another, one at a time."""
    for match in re.finditer("[0-9]", text):
        yield text[: match.start()] + str((int(match[0]) + 1) % 10) + text[match.end() :]


def digit_changed(text: str, rng: Random) -> str:
    """The text with one digit changed to another."""
    place = rng.choice([match.start() for match in re.finditer("[0-9]", text)])
    other = rng.choice([digit for digit in "0123456789" if digit != text[place]])
    return text[:place] + other + text[place + 1 :]


def changed_words(text: str) -> Iterator[str]:
    """The text with each of its words from the shared lists made another of that list, one at a time."""
    for match in re.finditer("[A-Za-z]+", text):
        for word in told(match[0]):
            pool = next(pool for pool in LISTS if word in pool)
            yield text[: match.start()] + pool[pool.index(word) - 1] + text[match.end() :]


def swapped_words(text: str, first: str, second: str) -> str:
    """The text with two words in each other's places."""
    pattern = rf"\b(?:{first}|{second})\b"
    return re.sub(pattern, lambda match: second if match[0] == first else first, text)
