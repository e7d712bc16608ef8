"""Prose: notes on what several people did come in a shuffled order; one flowing paragraph tells it, a stretch each.

No list mark and no line break shows where a stretch begins.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from random import Random
from typing import Any

from pastalm.tasks.assembly import opening
from pastalm.tasks.reading import fits_opening, idle, stretches, told
from pastalm.tasks.task import Chunk, Draft, Family
from pastalm.tasks.wording import HEADERS
from pastalm.tasks.words import ANIMALS, CITIES, COLOURS, FRUITS, JOBS, NAMES, OBJECTS


@dataclass(frozen=True)
class Deed:
    """Something done to a value: its wording, and a pattern for its verb that an answer must contain."""

    wording: str
    values: tuple[str, ...]
    verb: str


NUMBERS = tuple(str(number) for number in range(2, 60))

KINDS = {
    "family": (
        Deed("mended the {}", OBJECTS, "mend|repair|fix"),
        Deed("fed the {}", ANIMALS, r"\bfed\b|feed"),
        Deed("read {} pages", NUMBERS, r"\bread"),
        Deed("took the train to {}", CITIES, "train"),
        Deed("painted the door {}", COLOURS, "paint"),
    ),
    "shopkeepers": (
        Deed("served {} guests", NUMBERS, r"\bserv"),
        Deed("sold the {}", OBJECTS, r"\bsold|sell"),
        Deed("sent a parcel to {}", CITIES, r"\bsen[td]"),
        Deed("spoke with the {}", JOBS, "sp[eo]a?k|talk"),
        Deed("ran out of {} juice", FRUITS, "juice"),
    ),
    "travellers": (
        Deed("drove to {}", CITIES, "dr[io]v"),
        Deed("walked {} miles", NUMBERS, "walk"),
        Deed("saw a wild {}", ANIMALS, r"\bsaw\b|\bsee"),
        Deed("lost the {}", OBJECTS, r"\blost|lose"),
        Deed("asked the {} for help", JOBS, r"\bask"),
    ),
    "students": (
        Deed("wrote {} lines", NUMBERS, r"\bwr[io]t"),
        Deed("drew a big {}", ANIMALS, r"\bdr[ae]w"),
        Deed("chose {} paint", COLOURS, r"\bchos|choos"),
        Deed("shared the last {}", FRUITS, "shar"),
        Deed("listened to the {}", JOBS, "listen"),
    ),
}

# When things were done: in the notes, and in the answers at the beginning of a sentence.
TIMES = {
    "day": (("morning", "In the morning"), ("evening", "In the evening")),
    "turn": (("first", "First"), ("last", "Last of all")),
    "week": (("Monday", "On Monday"), ("Friday", "On Friday")),
}

# For each style: its openings, what stands before all chunks but the first, and the chunk. {N} is the person, {0} and
# {1} the deeds, {t0} and {t1} the times.
STYLES = (
    (
        ("Here is what the {n} did.", "Much was done by all {n} of them."),
        (" Meanwhile, ", " Elsewhere, "),
        "{N} {0} first, which went well. In the end {N} {1} and was content.",
    ),
    (
        ("This is the story of all {n} of them.", "Let us go from one of these {n} to the other."),
        (" ",),
        "As for {N}, it all began well, for {N} {0}. Later on, {N} {1} and was glad.",
    ),
    (
        ("So it went for the {n}, by the time of each deed.", "Told by the time, of all {n}:"),
        (" ",),
        "{t0} {N} {0}, as planned. {t1} {N} {1}, which took a while.",
    ),
)
OUTROS = ("", "", "", " That was all.", " And so it ended.", " Those were their deeds.")

ASKS = (
    "Tell in one paragraph what each of the {who} did, in order of time.",
    "Write a flowing text, with no list, about what these {n} {who} did, each in turn.",
    "Make one paragraph of the notes. Finish with one person before the next and keep the order of time.",
    "Please turn these notes into a little story without line breaks, name by name.",
    "What did each of the {who} do? Answer in running text without line breaks.",
    "The notes on the {who} are mixed up. Tell it in prose, one after the other, in a single paragraph.",
    "Put the notes on the {n} {who} together as plain prose.",
    "Describe, without any list, how it went for each of the {who}. Use one paragraph.",
    "From this make a text that flows, with all that each of the {who} did from early to late.",
)
ORDERS = ("{ask}\n{notes}", "{notes}\n{ask}", "{notes}\n\n{ask}", "{ask}\n\n{notes}")

NOTES = ("{N}, {t}: {d}", "- {t}: {N} {d}", "{N} {d} ({t})", "{t} - {N} {d}", "* {N} {d}, {t}")
NOTES_BY_PERSON = (("{N}: {}", "{t} {d}", "; "), ("- {N} {}", "{d} ({t})", ", "), ("{N} - {}", "{t}: {d}", "; "))


def draw(rng: Random) -> Draft:
    """Draw the people, what they did and when, and the style; tell it in the order in which the notes name them."""
    kind, times = rng.choice(tuple(KINDS)), rng.choice(tuple(TIMES))
    count = rng.choice((4, 5, 5, 6, 6))
    deeds = rng.sample(KINDS[kind], 2)
    columns = [rng.sample(deed.values, count) for deed in deeds]
    people = dict(zip(rng.sample(NAMES, count), zip(*columns, strict=True), strict=True))
    ask, style = rng.randrange(len(ASKS)), rng.randrange(len(STYLES))
    labels = TIMES[times]
    wordings = [deed.wording for deed in deeds]
    did = {name: list(map(str.format, wordings, row)) for name, row in people.items()}
    notes = _notes(rng, did, [label for label, _ in labels], by_person=count > 4 or rng.random() < 0.4)
    names = sorted(people, key=re.findall(r"\w+", notes).index)
    chunks = [Chunk(name, _told(style, name, did[name], [time for _, time in labels])) for name in names]
    wording = ASKS[ask].format(who="people" if rng.random() < 0.3 else kind, n=count)
    prompt = rng.choice(ORDERS).format(ask=wording, notes=rng.choice(HEADERS) + notes)
    rows = {name: list(row) for name, row in people.items()}
    facts = {"kind": kind, "deeds": [KINDS[kind].index(deed) for deed in deeds], "people": rows}
    return Draft(prompt, _paragraph(rng, style, chunks), facts, ("prose", f"{kind} {times}", ask, style, count))


def _notes(rng: Random, did: dict[str, list[str]], times: list[str], by_person: bool) -> str:
    """The notes in a shuffled order: one a deed, or one a person with the deeds shuffled."""
    timed = {name: list(zip(times, deeds, strict=True)) for name, deeds in did.items()}
    if by_person:
        line, cell, gap = rng.choice(NOTES_BY_PERSON)
        shuffled = {name: rng.sample(timed[name], len(times)) for name in rng.sample(tuple(did), len(did))}
        rows = {name: gap.join(cell.format(t=time, d=deed) for time, deed in row) for name, row in shuffled.items()}
        return "\n".join(line.format(row, N=name) for name, row in rows.items())
    line = rng.choice(NOTES)
    lines = [line.format(N=name, t=time, d=deed) for name, row in timed.items() for time, deed in row]
    return "\n".join(rng.sample(lines, len(lines)))


def _told(style: int, name: str, did: list[str], times: list[str]) -> str:
    """What is told of one person."""
    fill = {f"t{place}": time for place, time in enumerate(times)}
    return STYLES[style][2].format(*did, N=name, **fill)


def _paragraph(rng: Random, style: int, chunks: list[Chunk]) -> tuple[str | Chunk, ...]:
    """The opening, the chunks with connecting words between them, and an ending."""
    openings, others, _ = STYLES[style]
    first = opening(rng, openings, n=len(chunks))
    parts: list[str | Chunk] = [first + " ", chunks[0]] if first else [chunks[0]]
    for chunk in chunks[1:]:
        parts += [rng.choice(others), chunk]
    outro = rng.choice(OUTROS)
    return tuple([*parts, outro] if outro else parts)


def check(facts: dict[str, Any], text: str) -> bool:
    """Whether one paragraph tells, person by person in any order, all that each did in order of time."""
    people = facts["people"]
    names = list(people)
    verbs = [KINDS[facts["kind"]][index].verb for index in facts["deeds"]]
    found = stretches(text, names)
    if not found or "\n" in text.strip() or idle(text, names) or not fits_opening(text, names):
        return False
    told_rightly = all(told(found[name]) == row for name, row in people.items())
    return told_rightly and all(re.search(verb, found[name]) for name in names for verb in verbs)


FAMILY = Family("prose", forks=True, draw=draw, check=check)
