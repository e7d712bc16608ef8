"""Short: a question about a list of facts, with an answer of one clause and nothing to write side by side."""

from __future__ import annotations

import re
from dataclasses import dataclass
from random import Random
from typing import Any

from pastalm.tasks.reading import told
from pastalm.tasks.task import Draft, Family
from pastalm.tasks.wording import article, capital
from pastalm.tasks.words import ANIMALS, CITIES, COLOURS, FRUITS, JOBS, NAMES, OBJECTS

THINGS = ("books", "coins", "boxes", "cards", "stamps", "keys", "shells", "stones", "tickets", "plates")


@dataclass(frozen=True)
class FactKind:
    """A kind of fact: its values, its wordings, and questions with answers for the value and for the name.

    {n} is the name, {v} the value, {a} the value with its article, {o} what the fact is about.
    """

    values: tuple[str, ...]
    about: tuple[str, ...]
    lines: tuple[str, ...]
    what: tuple[str, ...]
    what_answers: tuple[str, ...]
    who: tuple[str, ...]
    who_answers: tuple[str, ...]


WHO_ANSWERS = ("It is {n}.", "That is {n}.")

KINDS = {
    "colour": FactKind(
        COLOURS,
        OBJECTS,
        ("{n} has {a} {o}", "the {o} of {n} is {v}", "{n}: {v} {o}"),
        ("Which colour is the {o} of {n}?", "What colour does {n}'s {o} have?", "Tell me the colour of {n}'s {o}."),
        ("It is {v}.", "The colour is {v}."),
        ("Who has the {v} {o}?", "Whose {o} is {v}?", "To whom does the {v} {o} belong?"),
        WHO_ANSWERS,
    ),
    "age": FactKind(
        tuple(str(age) for age in range(5, 90)),
        ("",),
        ("{n} is {v} years old", "{n} is {v}", "{n}, aged {v}"),
        ("How old is {n}?", "What is the age of {n}?", "Tell me how old {n} is."),
        ("{n} is {v} years old.", "The age is {v}."),
        ("Who is {v} years old?", "Which person is {v}?", "Who has reached the age of {v}?"),
        WHO_ANSWERS,
    ),
    "count": FactKind(
        tuple(str(count) for count in range(2, 100)),
        THINGS,
        ("{n} has {v} {o}", "{n}: {v} {o}", "{n} owns {v} {o}"),
        ("How many {o} does {n} have?", "How many {o} are there at {n}'s?", "What number of {o} has {n}?"),
        ("{n} has {v} {o}.", "The number is {v}."),
        ("Who has {v} {o}?", "Who owns {v} {o}?", "Whose are the {v} {o}?"),
        WHO_ANSWERS,
    ),
    "home": FactKind(
        CITIES,
        ("",),
        ("{n} lives in {v}", "{n}'s home is {v}", "{n} - {v}"),
        ("Where does {n} live?", "In which city is {n} at home?", "Where can I find {n}?"),
        ("{n} lives in {v}.", "The city is {v}."),
        ("Who lives in {v}?", "Who has a home in {v}?", "Whom would I meet in {v}?"),
        WHO_ANSWERS,
    ),
    "job": FactKind(
        JOBS,
        ("",),
        ("{n} is {a}", "{n} works as {a}", "{n}, {v}"),
        ("What is {n}'s job?", "What does {n} do for a living?", "What is the work of {n}?"),
        ("The job is {v}.", "{n} works as {a}."),
        ("Who is the {v}?", "Who works as {a}?", "Which of them is {a}?"),
        WHO_ANSWERS,
    ),
    "pet": FactKind(
        ANIMALS,
        ("",),
        ("{n} keeps {a}", "the pet of {n} is {a}", "{n} and the {v}"),
        ("Which animal does {n} keep?", "What pet does {n} have?", "Which is {n}'s animal?"),
        ("It is {a}.", "{n} keeps {a}."),
        ("Who has the {v}?", "Whose pet is the {v}?", "Who keeps {a}?"),
        WHO_ANSWERS,
    ),
    "fruit": FactKind(
        FRUITS,
        ("",),
        ("{n} bought {a}", "{n} brings {a}", "{n} took the {v}"),
        ("Which fruit did {n} get?", "What does {n} have to eat?", "What is in {n}'s bag?"),
        ("It is {a}.", "{n} has {a}."),
        ("Who has the {v}?", "Who got {a}?", "In whose bag is the {v}?"),
        WHO_ANSWERS,
    ),
}

FRAMES = (
    "{facts}\n{q}",
    "{q}\n{facts}",
    "Question: {q}\n{facts}",
    "Read this.\n{facts}\nNow answer: {q}",
    "{facts}\n\nAnswer briefly. {q}",
    "Given these facts, {l}\n{facts}",
    "I forgot something. {q} Here are my notes.\n{facts}",
    "Facts:\n{facts}\nQuestion: {q}",
    "{q} Answer in a few words.\n\n{facts}",
)
JOINTS = (("", "\n"), ("- ", "\n"), ("", "; "), ("", ". "), ("* ", "\n"))


def draw(rng: Random) -> Draft:
    """Draw the facts of a kind, some others to distract, and a question."""
    name, other = rng.sample(tuple(KINDS), 2)
    kind, count, asked = KINDS[name], rng.choice((3, 4, 5, 6)), rng.choice(("what", "what", "who"))
    names = rng.sample(NAMES, count)
    rows = _rows(rng, kind, names)
    others = _rows(rng, KINDS[other], rng.sample(names, rng.choice((0, 0, 1, 2))))
    fill = rng.choice(rows)
    lines = _lines(rng, kind, rows) + _lines(rng, KINDS[other], others)
    questions, answers = (kind.what, kind.what_answers) if asked == "what" else (kind.who, kind.who_answers)
    question, style, frame = rng.randrange(len(questions)), rng.randrange(len(answers)), rng.randrange(len(FRAMES))
    asking = questions[question].format(**fill)
    prompt = FRAMES[frame].format(facts=_joined(rng, lines), q=asking, l=asking[0].lower() + asking[1:])
    answer = answers[style].format(**fill)
    facts = {"answer": fill["v"] if asked == "what" else fill["n"], "allowed": [fill["n"], fill["v"], fill["o"]]}
    combination = ("short", f"{name} {asked} {question}", frame, style, count)
    return Draft(prompt, (capital(answer),), facts, combination)


def _rows(rng: Random, kind: FactKind, names: list[str]) -> list[dict[str, str]]:
    """One fact of a kind for each name, as what fills the wordings."""
    about = [rng.choice(THINGS)] * len(names) if kind.about is THINGS else rng.choices(kind.about, k=len(names))
    values = rng.sample(kind.values, len(names))
    return [{"n": n, "v": v, "a": article(v), "o": o} for n, v, o in zip(names, values, about, strict=True)]


def _lines(rng: Random, kind: FactKind, rows: list[dict[str, str]]) -> list[str]:
    """The facts in one wording."""
    wording = rng.choice(kind.lines)
    return [wording.format(**row) for row in rows]


def _joined(rng: Random, lines: list[str]) -> str:
    """The facts in a shuffled order, one a line or all in a row."""
    mark, joint = rng.choice(JOINTS)
    end = "." if rng.random() < 0.5 or joint == ". " else ""
    text = joint.join(mark + capital(line) for line in rng.sample(lines, len(lines)))
    return text.replace("\n", f"{end}\n") + end


def check(facts: dict[str, Any], text: str) -> bool:
    """Whether one short clause gives the answer, and nothing of the list that does not belong to it."""
    said = told(text)
    allowed = set(facts["allowed"]) - {""}
    if len(text.strip()) > 60 or re.search(r"\b(?:not|no|never|nobody|or)\b|n't|\n", text.strip().lower()):
        return False
    return facts["answer"] in said and set(said) <= allowed and len(said) == len(set(said))


FAMILY = Family("short", forks=False, draw=draw, check=check)
