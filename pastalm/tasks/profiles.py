"""Profiles: records of several things are given; each gets a short profile that can be written on its own."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

from pastalm.tasks.assembly import opening
from pastalm.tasks.reading import bound, fits_layout, fits_opening, idle, stretches, told, unmarked
from pastalm.tasks.task import Chunk, Draft, Family
from pastalm.tasks.wording import arranged, article, capital, draw_layout, laid_out
from pastalm.tasks.words import ANIMALS, CITIES, COLOURS, FRUITS, JOBS, NAMES, OBJECTS


@dataclass(frozen=True)
class Field:
    """One property: its label, its values, a clause for each style and, for a number, its keywords.

    In a clause, {v} is the value and {a} the value with its article.
    """

    label: str
    values: tuple[str, ...]
    clauses: tuple[str, str, str]
    key: str = ""


@dataclass(frozen=True)
class Kind:
    """A kind of thing: what several are called, their names, how one is spoken of, and its fields."""

    plural: str
    names: tuple[str, ...]
    subject: str
    fields: tuple[Field, ...]


def _numbers(low: int, high: int) -> tuple[str, ...]:
    return tuple(str(number) for number in range(low, high + 1))


AGE_CLAUSES = ("is {v} years old", "has reached the age of {v}", "turned {v} this year")
AGE_KEY = r"\byears?\b|\bage|\bold\b|\bturned\b"

PEOPLE = (
    Field("job", JOBS, ("works as {a}", "is {a} by trade", "earns a living as {a}")),
    Field("age", _numbers(18, 79), AGE_CLAUSES, AGE_KEY),
    Field("home", CITIES, ("lives in {v}", "has a house in {v}", "comes from {v}")),
    Field("colour", COLOURS, ("likes the colour {v}", "wears {v} most days", "calls {v} the best colour")),
    Field("pet", ANIMALS, ("keeps {a} as a pet", "owns {a}", "looks after {a}")),
)
TOWNS = (
    Field("parks", _numbers(2, 40), ("has {v} parks", "offers {v} parks", "is home to {v} parks"), "park"),
    Field("bridges", _numbers(2, 40), ("has {v} bridges", "counts {v} bridges", "needs {v} bridges"), "bridge"),
    Field("mayor", NAMES, ("has {v} as mayor", "is led by mayor {v}", "chose {v} as its mayor")),
    Field("fruit", FRUITS, ("is known for {v} cake", "sells good {v} jam", "is famous for {v} juice")),
    Field("flag", COLOURS, ("flies {a} flag", "has {a} flag", "shows {a} flag")),
)
BEASTS = (
    Field("kind", ANIMALS, ("is {a}", "is {a} from the farm", "came to us as {a}")),
    Field("age", _numbers(2, 30), AGE_CLAUSES, AGE_KEY),
    Field("weight", _numbers(2, 90), ("weighs {v} kilos", "is {v} kilos heavy", "comes to {v} kilos"), "weigh|kilo"),
    Field("food", FRUITS, ("likes to eat {a}", "loves the taste of {v}", "asks for {a} every day")),
    Field("coat", COLOURS, ("has {a} coat", "shows {a} coat", "grew {a} coat")),
)
WARES = (
    Field("price", _numbers(3, 99), ("costs {v} coins", "sells for {v} coins", "is yours for {v} coins"), "coin|cost"),
    Field("width", _numbers(3, 99), ("is {v} inches wide", "measures {v} inches", "takes up {v} inches"), "inch|wide"),
    Field("colour", COLOURS, ("comes in {v}", "is painted {v}", "has {a} finish")),
    Field("maker", CITIES, ("is made in {v}", "comes to us from {v}", "was designed in {v}")),
    Field("user", JOBS, ("suits {a} well", "was tested by {a}", "was made for {a}")),
)

KINDS = {
    "people": Kind("people", NAMES, "{}", PEOPLE),
    "cities": Kind("cities", CITIES, "{}", TOWNS),
    "animals": Kind("animals", NAMES, "{}", BEASTS),
    "products": Kind("products", OBJECTS, "the {}", WARES),
}

# How clauses become sentences, by their number: {S} and {s} are the subject, with and without a capital.
JOINS = {
    3: ("{S} {0} and {1}. We also know that {s} {2}.", "{S} {0}. Besides, {s} {1} and also {2}."),
    4: ("{S} {0} and {1}. We also know that {s} {2} and {3}.", "{S} {0} and {1}. Besides, {s} {2} and also {3}."),
}

ASKS = (
    "Write a short profile of each of these {n} {things}.",
    "Please describe each one in two or three sentences.",
    "Turn each record into a short profile.",
    "I need a few sentences about every one of the {things}.",
    "For a brochure, put the facts about each of the {things} into words.",
    "Introduce the {things} one after the other, with all their facts.",
    "Say in full sentences what we know about each.",
    "Make a brief portrait of each, and leave nothing out.",
    "Could you present these {things} to our readers?",
)

# One for each style: what stands before the first profile tells all of them how to sound.
INTROS = (
    "Here are {n} profiles:",
    "The {n} {things} in brief:",
    "A short look at each of the {n}:",
    "Here are the {n} {things}:",
    "All {n} in a few words:",
    "Profiles of all {n}:",
)

COUNTS = (4, 5, 5, 6, 6, 7)
LONG = 6  # more profiles than these are shorter ones
STYLES = 6  # three wordings of the clauses, each joined in two ways


def draw(rng: Random) -> Draft:
    """Draw a kind, its records and a style, and write them down."""
    name = rng.choice(tuple(KINDS))
    kind, count = KINDS[name], rng.choice(COUNTS)
    fields = rng.sample(kind.fields, 3 if count > LONG else rng.choice((3, 4, 4)))
    columns = [rng.sample(field.values, count) for field in fields]
    records = dict(zip(rng.sample(kind.names, count), zip(*columns, strict=True), strict=True))
    ask, style = rng.randrange(len(ASKS)), rng.randrange(STYLES)
    layout, wish = draw_layout(rng)
    words = {"n": count, "things": kind.plural}
    chunks = [Chunk(thing, _profile(kind, thing, fields, row, style)) for thing, row in records.items()]
    labels = [field.label for field in fields]
    labelled = {thing: dict(zip(labels, row, strict=True)) for thing, row in records.items()}
    facts = {"kind": name, "layout": layout if wish else None, "records": labelled}
    prompt = arranged(rng, ASKS[ask].format(**words), _table(rng, labelled), wish)
    parts = laid_out(rng, layout, opening(rng, INTROS[style : style + 1], **words), chunks)
    return Draft(prompt, parts, facts, ("profiles", name, ask, style, count))


def _profile(kind: Kind, name: str, fields: list[Field], row: tuple[str, ...], style: int) -> str:
    """One profile; the style says which wording of the clauses, and how they are joined."""
    told_of = zip(fields, row, strict=True)
    clauses = [field.clauses[style % 3].format(v=value, a=article(value)) for field, value in told_of]
    subject = kind.subject.format(name)
    return JOINS[len(row)][style // 3].format(*clauses, S=capital(subject), s=subject)


def _table(rng: Random, records: dict[str, dict[str, str]]) -> str:
    """The records as the prompt gives them, one a line."""
    line, cell, gap = rng.choice(
        (
            ("{}: {}", "{} {}", ", "),
            ("- {}: {}", "{} {}", ", "),
            ("{} ({})", "{} {}", "; "),
            ("{} | {}", "{}: {}", " | "),
            ("* {}; {}", "{}={}", "; "),
            ("{} - {}", "{} is {}", ", "),
        )
    )
    rows = ((name, gap.join(cell.format(*pair) for pair in record.items())) for name, record in records.items())
    return "\n".join(line.format(*row) for row in rows)


def check(facts: dict[str, Any], text: str) -> bool:
    """Whether every thing has one profile, in order, with all its facts and no others."""
    records, body = facts["records"], unmarked(text)
    names = list(records)
    found = stretches(body, names)
    if list(found) != names or idle(body, names) or not fits_layout(text, facts["layout"], len(names)):
        return False
    keys = {field.label: field.key for field in KINDS[facts["kind"]].fields if field.key}
    return fits_opening(body, names) and all(_tells(found[name], records[name], keys) for name in names)


def _tells(text: str, record: dict[str, str], keys: dict[str, str]) -> bool:
    """Whether a stretch tells each fact of a record once, in sentences, and each number as what it is."""
    numbers = sorted((label, value) for label, value in record.items() if label in keys)
    asked = {label: keys[label] for label, _ in numbers}
    return sorted(told(text)) == sorted(record.values()) and bound(text, asked) == numbers and "." in text


FAMILY = Family("profiles", forks=True, draw=draw, check=check)
