"""A word goes through operations on its letters, one after another; each step needs the word the last one left."""

from __future__ import annotations

import re
from random import Random
from typing import Any

from pastalm.tasks.assembly import STEP_LAYOUTS, arrange, assemble
from pastalm.tasks.matching import ends_well, fits, marks_fit
from pastalm.tasks.task import Chunk, Draft, Family
from pastalm.tasks.wording import capital

WORDS = (
    "tent", "lamp", "stone", "bread", "cloud", "garden", "river", "plant", "horse", "winter", "silver", "pencil",
    "bird", "market", "sugar", "paper", "flute", "brick", "chair", "spoon", "basket", "candle", "tiger", "melon",
    "ship", "frost", "grape", "track", "sword", "honey", "marble", "planet", "rope", "mint", "desk", "hill",
)  # fmt: skip
CONSONANTS = "bdfgklmnprstvz"
SEPARATORS = ("-", ", ", "/", "-")
SPELLED = re.compile(r"(?<![A-Za-z])[a-z](?:(?:-|, |/)[a-z](?![A-Za-z]))*(?![A-Za-z])")
Change = list[str]

# What is done, in three ways of speaking; the answer speaks as the prompt does.
ACTS = {
    "reverse": ("reverse it", "reverse the order", "turn it round"),
    "drop first": ("drop the first letter", "remove the leading character", "cut off the front"),
    "drop last": ("drop the last letter", "remove the last character", "cut off the end"),
    "double first": ("double the first letter", "repeat the leading character", "write the front twice"),
    "double last": ("double the last letter", "repeat the last character", "write the end twice"),
    "first to end": (
        "move the first letter to the end",
        "bring the leading character to the end",
        "put the front last",
    ),
    "last to front": (
        "move the last letter to the front",
        "bring the last character to the front",
        "put the end first",
    ),
    "swap ends": ("swap the first and the last letter", "swap the outer characters", "swap front and end"),
    "put front": (
        "put the letter {letter} in front",
        "add the character {letter} in front",
        "write {letter} before it",
    ),
    "put end": (
        "put the letter {letter} at the end",
        "add the character {letter} at the end",
        "write {letter} after it",
    ),
}
WAYS = len(ACTS["reverse"])
STYLES = (
    "{Act}: the word {before} becomes {after}.",
    "We {act}, which turns {before} into {after}.",
)
CLOSES = ("The final word is {end}.", "The result reads {end}.")
SETTINGS = {
    "spelled": ("The letters are {word}.", "Start with {word}.", "The word is {word}.", "Take {word}."),
    "whole": ("The word is {word}.", "Start with the word {word}.", "Take the word {word}."),
}
ASKS = (
    "What is the final word?",
    "Spell the word at the end.",
    "What comes out?",
    "Which letters are left at the end, in order?",
    "Give the word after all steps.",
    "How does it look when all is done?",
    "Show what each step makes of it.",
)
PATTERNS = (
    "{setting} {steps} {ask}",
    "{ask} {setting} {steps}",
    "{setting} {ask}\n{steps}",
    "Change a word step by step. {setting} {steps}\n{ask}",
    "{setting}\n{steps}\n{ask}",
    "{ask}\n{setting}\n{steps}",
    "Word game! {setting} {steps} {ask}",
    "{steps}\n{setting} {ask}",
    "Please do this for me: {setting} {steps} {ask}",
)
INTROS = ("We do one step at a time.", "Letter by letter:", "Here are the steps.")
SPELLINGS = ("Spelled out, the word is {spelled}.", "We spell it first: {spelled}.", "The letters are {spelled}.")


def apply(step: Change, word: str) -> str:
    """The word after a step."""
    op, letter = step
    return {
        "reverse": word[::-1],
        "drop first": word[1:],
        "drop last": word[:-1],
        "double first": word[0] + word,
        "double last": word + word[-1],
        "first to end": word[1:] + word[0],
        "last to front": word[-1] + word[:-1],
        "swap ends": word[-1] + word[1:-1] + word[0],
        "put front": letter + word,
        "put end": word + letter,
    }[op]


def act(step: Change, way: int) -> str:
    """What is done in a step, in one way of speaking."""
    op, letter = step
    return ACTS[op][way].format(letter=letter)


def draw_word(rng: Random) -> str:
    """A short word, or letters that can be pronounced."""
    if rng.random() < 0.25:
        return rng.choice(WORDS)
    length, offset = rng.randint(4, 6), rng.randint(0, 1)
    return "".join(rng.choice("aeiou" if (place + offset) % 2 else CONSONANTS) for place in range(length))


def draw_steps(rng: Random, word: str) -> list[Change]:
    """Three to five steps that each change the word and keep it at three to eight letters."""
    steps: list[Change] = []
    count = rng.randint(3, 5)
    while len(steps) < count:
        op = rng.choice(tuple(ACTS))
        step = [op, rng.choice(CONSONANTS) if op.startswith("put") else ""]
        after = apply(step, word)
        if after != word and 3 <= len(after) <= 8 and (not steps or step != steps[-1]):
            steps.append(step)
            word = after
    return steps


def texts(facts: dict[str, Any]) -> tuple[list[list[str]], list[str]]:
    """Each step in every style, and every conclusion."""
    word, mark, chunks = facts["word"], facts["separator"], []
    for step in facts["steps"]:
        after = apply(step, word)
        done, before, spelled = act(step, facts["way"]), mark.join(word), mark.join(after)
        chunks.append([s.format(act=done, Act=capital(done), before=before, after=spelled) for s in STYLES])
        word = after
    return chunks, [close.format(end=mark.join(word)) for close in CLOSES]


def draw_steps_text(rng: Random, steps: list[Change], way: int) -> str:
    """The steps as the prompt gives them: as one sentence or as a list."""
    acts = [act(step, way) for step in steps]
    joint = rng.choice((", then ", ", and then ", "; ", ". Then ", "\n- "))
    return joint + joint.join(acts) if joint == "\n- " else capital(rng.choice(("first ", "")) + joint.join(acts)) + "."


def draw(rng: Random) -> Draft:
    """A word and three to five steps; no step can be written without the one before."""
    word, mark = draw_word(rng), rng.choice(SEPARATORS)
    kind = "whole" if word in WORDS and rng.random() < 0.5 else "spelled"
    facts: dict[str, Any] = {
        "word": word,
        "separator": mark,
        "steps": draw_steps(rng, word),
        "way": rng.randrange(WAYS),
    }
    setting = rng.choice(SETTINGS[kind]).format(word=word if kind == "whole" else mark.join(word))
    steps_text = draw_steps_text(rng, facts["steps"], facts["way"])
    order, prompt = arrange(rng, PATTERNS, setting=setting, ask=rng.choice(ASKS), steps=steps_text)
    steps, closes = texts(facts)
    style = rng.randrange(len(STYLES))
    chunks = [Chunk(f"step {n}", step[style], independent=False) for n, step in enumerate(steps, 1)]
    intro = rng.choice(SPELLINGS).format(spelled=mark.join(word)) if kind == "whole" else rng.choice(INTROS)
    parts = assemble(rng.choice(STEP_LAYOUTS), intro, chunks, rng.choice(closes), sync=False)
    return Draft(prompt, parts, facts, ("rewrite", kind, order, style, len(chunks)))


def spellings(text: str) -> list[str]:
    """The spelled words and named letters in ``text``, in order, without their separators."""
    found = (re.sub("[^a-z]", "", match) for match in SPELLED.findall(text))
    return [letters for letters in found if letters != "a"]


def check(facts: dict[str, Any], text: str) -> bool:
    """Whether every step is there with the word before and after, in order, and the final word is right."""
    steps, closes = texts(facts)
    intro = [[], [facts["word"]]]
    allowed = [intro, *([spellings(way) for way in ways] for ways in (*steps, closes))]
    return ends_well(text) and marks_fit(text, len(steps)) and fits(spellings(text), allowed)


FAMILY = Family("rewrite", forks=False, draw=draw, check=check)
