"""Sorting: several short lists of numbers or words are given; each is sorted on its own, with its ends and its size."""

from __future__ import annotations

import re
from random import Random
from typing import Any

from pastalm.tasks.assembly import opening
from pastalm.tasks.reading import any_of, bound, fits_layout, fits_opening, stretches, unmarked
from pastalm.tasks.task import Chunk, Draft, Family
from pastalm.tasks.wording import arranged, capital, draw_layout, laid_out
from pastalm.tasks.words import CITIES, COLOURS, FRUITS, NAMES, OBJECTS

# How lists are named: the names and the way one is spoken of.
OWNERS = {
    "people": (NAMES, "{}'s list"),
    "cities": (CITIES, "the {} list"),
    "objects": (OBJECTS, "the {} list"),
    "colours": (COLOURS, "the {} list"),
}
WORDS = FRUITS

WAYS = {
    ("numbers", "up"): ("from smallest to largest", "in rising order", "from low to high"),
    ("numbers", "down"): ("from largest to smallest", "in falling order", "from high to low"),
    ("words", "up"): ("from A to Z", "in the order of the alphabet", "alphabetically"),
    ("words", "down"): ("from Z to A", "against the order of the alphabet", "backwards, so Z comes first"),
}
# The ways as the answers put them.
ORDERS = {
    ("numbers", "up"): "smallest to largest",
    ("numbers", "down"): "largest to smallest",
    ("words", "up"): "A to Z",
    ("words", "down"): "Z to A",
}

STYLES = {
    "numbers": (
        "{S}, {way}: {items}. The smallest is {low}, the largest is {high}, and it has {n} numbers.",
        "Sorted from {way}, {s} reads {items}. It holds {n} numbers; {low} is the smallest and {high} the largest.",
    ),
    "words": (
        "{S}, {way}: {items}. The first is {low}, the last is {high}, and it has {n} words.",
        "Sorted from {way}, {s} reads {items}. It holds {n} words; {low} comes first and {high} comes last.",
    ),
}
KEYS = {
    "numbers": {"low": "smallest|lowest|least", "high": "largest|highest|biggest", "n": "numbers|items|entries"},
    "words": {"low": r"\bfirst|start|begin", "high": r"\blast\b|\bend", "n": r"\bwords|items|entries"},
}

ENDS = {
    "numbers": ("the smallest and the largest number", "its smallest and its largest value", "both extremes"),
    "words": ("the first and the last word", "the word at its start and the one at its end", "both ends"),
}
ASKS = (
    "Sort each list {way}. For each, name {ends} and say how many {things} it has.",
    "Put every row in order, {way}, and give {ends} and the count.",
    "I have {n} lists of {things}. Please order each {way}; tell me {ends}, then its size.",
    "Arrange the {things} of each line {way}. Also state {ends}, and how many there are.",
    "Can you sort these {way}? I also want {ends} of each, with the number of {things}.",
    "Order these {n} lists {way}. Then say {ends}; count the {things}.",
    "The {things} are mixed up. Bring each row in order {way}, with {ends} and its length.",
    "For each list: sort it {way}, find {ends}, count the {things}.",
    "Here are {n} rows of {things}. Sort them one by one {way}. For each say {ends} and how long it is.",
    "Bring some order in here, {way}: row by row, naming {ends} and the size.",
)

# For each style, its openings.
INTROS = (
    ("Here are the {n} lists, {way}:", "The {n} lists, {way}:"),
    ("All {n} lists, sorted from {way}:", "Sorted from {way}, the {n} lists:"),
)

TABLES = (
    ("{}: {}", ", "),
    ("- {}: {}", ", "),
    ("{} = {}", " "),
    ("{} ({})", "; "),
    ("{} list: {}", ", "),
    ("[{}] {}", " "),
)


def draw(rng: Random) -> Draft:
    """Draw what is sorted, which way, and the lists; sort them."""
    things = rng.choice(("numbers", "numbers", "numbers", "words"))
    way = rng.choice(("up", "down"))
    owner, count = rng.choice(tuple(OWNERS)), rng.choice((4, 4, 5, 6))
    lists = {name: _items(rng, things) for name in rng.sample(OWNERS[owner][0], count)}
    ask, style = rng.randrange(len(ASKS)), rng.randrange(len(STYLES[things]))
    layout, wish = draw_layout(rng)
    fill = {"way": rng.choice(WAYS[things, way]), "ends": rng.choice(ENDS[things]), "things": things, "n": count}
    line, gap = rng.choice(TABLES)
    table = "\n".join(line.format(name, gap.join(items)) for name, items in lists.items())
    template = STYLES[things][style]
    chunks = [
        Chunk(name, _sentence(template, OWNERS[owner][1].format(name), ORDERS[things, way], ordered(items, way)))
        for name, items in lists.items()
    ]
    facts = {"things": things, "way": way, "lists": lists, "layout": layout if wish else None}
    intro = opening(rng, INTROS[style], n=count, way=ORDERS[things, way])
    parts = laid_out(rng, layout, intro, chunks)
    prompt = arranged(rng, ASKS[ask].format(**fill), table, wish)
    return Draft(prompt, parts, facts, ("sorting", f"{things} {way} {owner}", ask, style, count))


def _items(rng: Random, things: str) -> list[str]:
    """One list: three to five numbers of two digits, or three or four words that begin with different letters."""
    if things == "numbers":
        return [str(number) for number in rng.sample(range(10, 100), rng.choice((3, 4, 4, 5)))]
    by_letter = {word[0]: word for word in rng.sample(WORDS, len(WORDS))}
    return rng.sample(tuple(by_letter.values()), rng.choice((3, 3, 4)))


def ordered(items: list[str], way: str) -> list[str]:
    """The items sorted, the numbers by size and the words by the alphabet."""
    return sorted(items, key=lambda item: (len(item), item) if item.isdigit() else (0, item), reverse=way == "down")


def _sentence(template: str, subject: str, order: str, items: list[str]) -> str:
    """What is said of one sorted list."""
    low, high = extremes(items)
    fill = {"S": capital(subject), "s": subject, "way": order, "items": ", ".join(items), "n": len(items)}
    return template.format(**fill, low=low, high=high)


def extremes(items: list[str]) -> tuple[str, str]:
    """Of sorted items: the smallest and the largest number, or the first and the last word as they now stand."""
    first, last = items[0], items[-1]
    return (last, first) if first.isdigit() and int(first) > int(last) else (first, last)


def check(facts: dict[str, Any], text: str) -> bool:
    """Whether each list is sorted, in turn, with its ends and its size."""
    names = list(facts["lists"])
    body = unmarked(text)
    found = stretches(body, names)
    if list(found) != names or not fits_layout(text, facts["layout"], len(names)) or not fits_opening(body, names):
        return False
    keys = KEYS[facts["things"]]
    return all(_is_sorted(found[name], ordered(facts["lists"][name], facts["way"]), keys) for name in names)


def _is_sorted(text: str, items: list[str], keys: dict[str, str]) -> bool:
    """Whether a stretch begins with the sorted items and then tells their ends and how many they are."""
    thing = "[0-9]+" if items[0].isdigit() else "[0-9]+|" + any_of(WORDS)
    matches = list(re.finditer(thing, text))
    if [match[0].lower() for match in matches[: len(items)]] != items:
        return False
    low, high = extremes(items)
    rest = text[matches[len(items) - 1].end() :]
    return bound(rest, keys, thing) == sorted([("low", low), ("high", high), ("n", str(len(items)))])


FAMILY = Family("sorting", forks=True, draw=draw, check=check)
