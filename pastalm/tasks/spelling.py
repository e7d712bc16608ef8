"""Spelling: some words are given; each is spelled letter by letter, then from its end, and joined again."""

from __future__ import annotations

import re
from random import Random
from typing import Any

from pastalm.tasks.assembly import opening
from pastalm.tasks.reading import fits_layout, fits_opening, stretches, unmarked
from pastalm.tasks.task import Chunk, Draft, Family
from pastalm.tasks.wording import arranged, capital, draw_layout, laid_out

REAL = (
    "river", "stone", "cloud", "bread", "paper", "grass", "house", "plant", "sugar", "train", "water", "glass",
    "north", "smile", "dream", "fresh", "hotel", "magic", "ocean", "quiet", "storm", "tulip", "uncle", "voice",
    "wheat", "youth", "blaze", "crown", "dust", "farm", "gold", "hill", "iron", "jump", "king", "leaf", "milk",
    "nest", "park", "rain", "salt", "tree", "wind", "zero", "bridge", "castle", "desert", "engine", "forest",
    "garden", "island", "jungle", "kitten", "market", "needle", "pocket", "rocket", "school", "temple", "window",
)  # fmt: skip

CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"
SHAPES = ("cvcv", "cvcvc", "vcvcv", "cvccv", "cvcc")

# {w} is the word, {f} its letters, {r} its letters from the end, {b} those joined, {n} how many there are.
STYLES = (
    "{w} is spelled {f}. From the end it reads {r}, which gives {b}.{count}",
    "The letters of {w} are {f}. Backwards they run {r}, so it turns into {b}.{count}",
)
GAPS = (", ", "-")
COUNTING = (" It has {n} letters.", " These are {n} letters.")

ASKS = (
    "Spell each word letter by letter, then backwards, and join the backward letters.",
    "For every word, give its letters, its letters from the end, and the reversed word.",
    "Please spell these {n} forwards and backwards, and say what each becomes in reverse.",
    "Take each word apart into letters. Then turn them around and write the turned word.",
    "How are these words spelled, and what do they read from the end?",
    "I want to see each of these in both directions, sign by sign, and turned round as a whole.",
    "Write out the letters of all {n} words, reverse them, and put them together.",
    "Reverse these. Show the letters one by one before and after.",
    "Practise spelling: first from the front, then from the back, then what results.",
    "Spell these, turn each round, and join it again.",
    "Please take these {n} apart, one after the other. What does each give from back to front?",
)
ASKS_COUNT = (
    "Also count the letters.",
    "Add how long it is.",
    "Say the number of letters too.",
    "Tell its length, too.",
)

# For each style and gap, and with or without counting, an opening; each in two wordings.
INTROS = (
    (("The spelling of all {n}:", "The {n} words spelled:"), ("Spelled with dashes, all {n}:", "All {n} with dashes:")),
    (
        ("Letters of all {n} words:", "The {n} words in letters:"),
        ("Letters and dashes, all {n}:", "{n} words in dashes:"),
    ),
)

TABLES = ("{}, ", "{} ", "{}\n", "- {}\n", "{}; ", "{} / ")
_TAKEN = set(re.findall("[a-z]+", " ".join(STYLES + COUNTING).lower() + repr(INTROS).lower()))
_RUN = re.compile(r"(?<![a-z0-9'])[a-z](?:[\s,;.-]+[a-z](?![a-z0-9']))+")


def draw(rng: Random) -> Draft:
    """Draw some words, real or made up, and spell them."""
    count = rng.choice((5, 5, 6, 7))
    words = _words(rng, count)
    ask, style, gap = rng.randrange(len(ASKS)), rng.randrange(len(STYLES)), rng.randrange(len(GAPS))
    counted = rng.random() < 0.35
    layout, wish = draw_layout(rng)
    asked = ASKS[ask].format(n=count) + (" " + rng.choice(ASKS_COUNT) if counted else "")
    table = "".join(map(rng.choice(TABLES).format, words)).strip("\n ,;/")
    chunks = [Chunk(word, _sentence(word, style, GAPS[gap], counted)) for word in words]
    facts = {"words": words, "count": counted, "layout": layout if wish else None}
    intro = opening(rng, INTROS[style][gap], n=count)
    kind = "count" if counted else "plain"
    parts = laid_out(rng, layout, intro, chunks)
    return Draft(arranged(rng, asked, table, wish), parts, facts, ("spelling", kind, ask, (style, gap), count))


def _words(rng: Random, count: int) -> list[str]:
    """Different words of four to six letters, none of which is another backwards or stands in the answers' wording."""
    words: list[str] = []
    while len(words) < count:
        word = rng.choice(REAL) if rng.random() < 0.85 else _made_up(rng)
        if not {word, word[::-1]} & ({*words} | {other[::-1] for other in words} | _TAKEN) and word != word[::-1]:
            words.append(word)
    return words


def _made_up(rng: Random) -> str:
    """A word that can be spoken, made of random letters."""
    return "".join(rng.choice(CONSONANTS if letter == "c" else VOWELS) for letter in rng.choice(SHAPES))


def _sentence(word: str, style: int, gap: str, counted: bool) -> str:
    """What is said of one word."""
    count = COUNTING[style].format(n=len(word)) if counted else ""
    fill = {"w": word, "f": gap.join(word), "r": gap.join(word[::-1]), "b": word[::-1], "count": count}
    return capital(STYLES[style].format(**fill)) if style else STYLES[style].format(**fill)


def check(facts: dict[str, Any], text: str) -> bool:
    """Whether each word is spelled in turn, forwards, backwards and joined, and counted if that was asked."""
    words = facts["words"]
    body = unmarked(text)
    found = stretches(body, words)
    if list(found) != words or not fits_layout(text, facts["layout"], len(words)) or not fits_opening(body, words):
        return False
    return all(_is_spelled(found[word].lower(), word, facts["count"]) for word in words)


def _is_spelled(text: str, word: str, counted: bool) -> bool:
    """Whether a stretch has the word's letters, then those from the end, the joined word, and the right count."""
    spelled = [re.sub("[^a-z]", "", run) for run in _RUN.findall(text)]
    joined = re.findall(rf"\b{word[::-1]}\b", text)
    numbers = re.findall("[0-9]+", text)
    return spelled == [word, word[::-1]] and len(joined) == 1 and numbers == [str(len(word))] * counted


FAMILY = Family("spelling", forks=True, draw=draw, check=check)
