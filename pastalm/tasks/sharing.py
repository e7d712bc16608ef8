"""Everyone gets a different thing. Who gets what is free, so a chunk is safe to fork only if its topic tells."""

from __future__ import annotations

import re
from random import Random
from typing import Any

from pastalm.tasks.assembly import LAYOUTS, arrange, assemble, listed
from pastalm.tasks.matching import ends_well, marks_fit, read, without_marks
from pastalm.tasks.task import Chunk, Draft, Family
from pastalm.tasks.wording import capital
from pastalm.tasks.words import COLOURS, NAMES

MISTAKEN = 0.25
"""The share of blind answers whose chunks are marked all the same, as a careless annotator would."""

THINGS = {
    "dish": ("soup", "rice", "salad", "cake", "stew", "bread", "pasta", "beans", "corn", "eggs", "fish", "pie"),
    "chore": ("sweeping", "cooking", "dusting", "ironing", "mopping", "raking", "digging", "mending", "sewing"),
    "colour": COLOURS,
    "instrument": ("drum", "flute", "harp", "horn", "violin", "piano", "guitar", "bell", "cello", "banjo"),
    "seat": ("window", "aisle", "corner", "garden", "kitchen", "terrace", "middle", "balcony", "fireside", "doorway"),
}
NOUN = {"colour": "the {} paint", "seat": "the {} seat"}
GETS = {
    "dish": ("brings", "makes", "takes care of"),
    "chore": ("does", "takes care of", "takes over"),
    "colour": ("gets", "works with", "takes"),
    "instrument": ("plays", "gets", "picks"),
    "seat": ("takes", "gets", "has"),
}
REASONS = {
    "dish": (
        "it is quick to make and easy to carry", "there is always enough of it for the guests",
        "it tastes good both warm and cold", "it was a great success at the last party",
        "all that is needed for it is at home", "it keeps well until late in the evening",
    ),
    "chore": (
        "it takes less than an hour in the morning", "it can be done with the radio turned on",
        "it needs a calm and careful hand", "it was done so well the last time",
        "it is the one that is liked best", "it fits well between lunch and dinner",
    ),
    "colour": (
        "it looks bright on a large wall", "it goes well with the new curtains",
        "it was the favourite of a good friend", "it makes a small room look larger",
        "there is a full can of it left", "it dries fast and hides old marks",
    ),
    "instrument": (
        "it has a warm and gentle sound", "it is easy to learn in a short time",
        "it gives the band a clear beat", "it was played a lot in the last year",
        "it sounds best in a large hall", "it can be heard from far away",
    ),
    "seat": (
        "it is calm there and good for reading", "there is a lot of room for long legs",
        "it has a good view of everything", "it is close to the snacks and the tea",
        "it is the most comfortable one there", "it stays cool even in the afternoon",
    ),
}  # fmt: skip
STYLES = (
    "{name} {gets} {thing}. This is a good choice, because {reason}.",
    "{Thing} goes to {name}. The main reason for this is that {reason}.",
)
SETTINGS = (
    "There are {count} people: {people}.", "{people} meet on Sunday.", "The group is {people}.",
    "People: {people}.", "We have {people}.", "{people} want to share things out.",
)  # fmt: skip
LISTS = ("The {kind} list: {things}.", "{Kind} options: {things}.", "Choose from: {things}.", "There is: {things}.")
ASKS = (
    "Give everyone a different {kind}, with one or two sentences for each person.",
    "Nobody may have the same {kind} as another. Write a short reason for everyone.",
    "Assign a {kind} to each person so that no two share one, and explain it shortly.",
    "Who gets which {kind}? All must differ. One or two sentences each, please.",
    "Choose one {kind} per person, never the same again, and say why.",
    "Make a plan in which all have a {kind} of their own, with a reason.",
    "Find a {kind} for each of them, all different, and tell us briefly why.",
    "Everybody needs a {kind}, and none may be given out again. Explain each choice in a few words.",
)
PATTERNS = (
    "{setting} {list} {ask}",
    "{ask} {setting} {list}",
    "{list} {setting} {ask}",
    "{setting}\n{list}\n{ask}",
    "{ask}\n{list}\n{setting}",
    "{setting} {ask}\n{list}",
    "Please help us. {list} {setting} {ask}",
    "{ask}\n\n{setting}\n{list}",
)
INTROS = ("", "", "", "Here is the plan.", "This is one way to do it:", "A plan could look like this.", "Sure!")
CLOSES = ("", "", "So everyone has something different.", "In this way no two are the same.", "That is the whole plan.")


def naming(kind: str, thing: str) -> str:
    """How a thing is called in a sentence."""
    return NOUN.get(kind, "the {}").format(thing)


def draw_texts(rng: Random, kind: str, style: int, pairs: list[tuple[str, str]]) -> list[str]:
    """A sentence or two for each person, all in one style; a reason may come twice, as no chunk sees another."""
    gets, texts = rng.choice(GETS[kind]), []
    for name, thing in pairs:
        noun, reason = naming(kind, thing), rng.choice(REASONS[kind])
        texts.append(STYLES[style].format(name=name, gets=gets, thing=noun, Thing=capital(noun), reason=reason))
    return texts


def draw(rng: Random) -> Draft:
    """Some people and things, shared out in the order in which they are named, planned or not.

    A plan names the thing in the topic, in two of three answers; without one the topics are blind.
    """
    kind, count = rng.choice(tuple(THINGS)), rng.randint(3, 6)
    people = rng.sample(NAMES, count)
    things = rng.sample(THINGS[kind], count + rng.randint(0, 2))
    setting = rng.choice(SETTINGS).format(count=("three", "four", "five", "six")[count - 3], people=listed(people))
    choice = rng.choice(LISTS).format(kind=kind, Kind=kind.capitalize(), things=", ".join(things))
    ask = rng.choice(ASKS).format(kind=kind).replace("a instrument", "an instrument")
    order, prompt = arrange(rng, PATTERNS, setting=setting, list=choice, ask=ask)
    style, planned = rng.randrange(len(STYLES)), rng.random() < 0.65
    pairs = list(zip(people, things, strict=False))
    independent = planned or rng.random() < MISTAKEN
    chunks = [
        Chunk(f"{name} {thing}" if planned else name, text, independent)
        for (name, thing), text in zip(pairs, draw_texts(rng, kind, style, pairs), strict=True)
    ]
    parts = assemble(rng.choice(LAYOUTS), rng.choice(INTROS), chunks, rng.choice(CLOSES))
    facts = {"kind": kind, "people": people, "things": things}
    return Draft(prompt, parts, facts, ("sharing", kind, order, style, count))


def stretches(sentences: list[str], kind: str) -> list[tuple[set[str], set[str], int]]:
    """The names, things and number of sentences in each person's stretch of text.

    A new stretch begins where a sentence brings in another name or another thing than the stretch has.
    """
    found: list[tuple[set[str], set[str], int]] = []
    words = frozenset((*NAMES, *THINGS[kind]))
    for sentence in sentences:
        known = set(read(sentence, words)) & words
        names, things = known & set(NAMES), known - set(NAMES)
        if found:
            last_names, last_things, size = found[-1]
            if len(last_names | names) <= 1 and len(last_things | things) <= 1:
                found[-1] = (last_names | names, last_things | things, size + 1)
                continue
        if known:
            found.append((names, things, 1))
    return found


def check(facts: dict[str, Any], text: str) -> bool:
    """Whether everyone has one thing of the list, all different, in one or two sentences on nothing else."""
    sentences = [part.strip(" \n-*") for part in re.split(r"(?<=[.!?])\s+|\n", without_marks(text))]
    sentences = [sentence for sentence in sentences if sentence]
    found = stretches(sentences, facts["kind"])
    if any(len(names) != 1 or len(things) != 1 for names, things, _ in found):
        return False
    people = [next(iter(names)) for names, _, _ in found]
    things = [next(iter(things)) for _, things, _ in found]
    naming_someone = [sentence for sentence in sentences if set(read(sentence, NAMES)) & set(NAMES)]
    return (
        sorted(people) == sorted(facts["people"])
        and len(set(things)) == len(things)
        and set(things) <= set(facts["things"])
        and len(set(naming_someone)) == len(naming_someone)
        and all(size <= 2 for _, _, size in found[:-1])
        and found[-1][2] <= 3
        and marks_fit(text, len(people))
        and ends_well(text)
    )


FAMILY = Family("sharing", forks=None, draw=draw, check=check)
