"""Ranking: things are rated on a few points; each one's sum is worked out alone, then all are brought in order."""

from __future__ import annotations

import re
from random import Random
from typing import Any

from pastalm.lang.answer import Sync
from pastalm.tasks.assembly import TERSE, in_order, opening, told_apart
from pastalm.tasks.matching import fits, read
from pastalm.tasks.reading import bound, fits_layout, fits_opening, hasty, mentions, runs, told, unmarked
from pastalm.tasks.task import Chunk, Draft, Family
from pastalm.tasks.wording import arranged, capital, draw_layout, laid_out
from pastalm.tasks.words import ANIMALS, CITIES, FRUITS, NAMES, OBJECTS

# What is rated: the names, how one is spoken of, and the points that are rated.
KINDS = {
    "cities": (CITIES, "{}", ("food", "parks", "trains", "weather", "shops")),
    "people": (NAMES, "{}", ("speed", "style", "care", "wit", "skill")),
    "objects": (OBJECTS, "the {}", ("looks", "size", "comfort", "weight", "safety")),
    "fruits": (FRUITS, "the {}", ("taste", "smell", "looks", "juice", "price")),
    "animals": (ANIMALS, "the {}", ("speed", "calm", "looks", "tricks", "voice")),
}

# For each style: how a thing's scores are joined, the sentence, and a step of the sum with what joins two steps.
STYLES = (
    ("{v} for {p}", " and ", "{S} has {scores}. {sum} for {s}.", "{a} + {b} is {c}", ", and "),
    ("{p} {v}", ", ", "{S} scores {scores}. Adding these up gives {sum} for {s}.", "{a} + {b} = {c}", ", then "),
)

# Conclusions: {way} has all totals and then brings them in order, {most} is the wanted end, {best} its thing.
ENDINGS = (
    "In total {way}. So the {most} is {best}.",
    "All totals: {way}. That makes {best} the {most}.",
)
WORDING = {"high": ("highest", "top", "best"), "low": ("lowest", "smallest", "weakest")}
WANTED = {"high": max, "low": min}
HIGH, LOW = r"\b(?:high|top\b|best|most|larg|great|win|strong)", r"\b(?:low|small|least|few|worst|weak)"

ASKS = (
    "Add up the scores of each and tell which has the {most} total.",
    "Work out the total for each of these {n} {things}. Which one is {most}?",
    "Which of the {things} comes out with the {most} sum? Show the adding for each.",
    "Compare the {things}: sum the scores of each, list the totals, name the {most}.",
    "I need to know which of the {n} {things} has the {most} sum. Please add the scores for every one.",
    "Sum the points of every entry step by step; then say whose total is {most}.",
    "Find the total of each. Then give all totals and the {most} one.",
    "Rate these {things} by the sum of their scores and pick the {most}.",
)

# For each style, its openings.
INTROS = (
    ("We add the scores of all {n} to find the {most}.", "Here are {n} sums, and then the {most}:"),
    ("The scores of all {n}, added up to find the {most}:", "Adding for each of the {n}, to find the {most}:"),
)

TABLES = (
    ("{}: {}", "{p} {v}", ", "),
    ("- {}: {}", "{p} {v}", ", "),
    ("{} ({})", "{p} {v}", "; "),
    ("{} | {}", "{p}={v}", " | "),
    ("{} gets {}", "{v} for {p}", ", "),
    ("* {} - {}", "{p}: {v}", ", "),
)


def draw(rng: Random) -> Draft:
    """Draw what is rated and its scores, add them up, and conclude."""
    kind, want = rng.choice(tuple(KINDS)), rng.choice(tuple(WORDING))
    names, subject, points = KINDS[kind]
    count = rng.choice((4, 4, 5))
    scores = _scores(rng, rng.sample(names, count), rng.sample(points, 3))
    ask, style, most = rng.randrange(len(ASKS)), rng.randrange(len(STYLES)), rng.choice(WORDING[want])
    layout, wish = draw_layout(rng)
    chunks = [Chunk(name, _sentence(style, subject.format(name), row)) for name, row in scores.items()]
    words = {"n": count, "things": kind, "most": most}
    parts = laid_out(rng, layout, opening(rng, INTROS[style], **words), chunks)
    gap = " " if layout == "running" else rng.choice(("\n", "\n\n"))
    ending = gap + _conclusion(rng.choice(ENDINGS), subject, scores, want, most, rng.random() < TERSE)
    line, cell, comma = rng.choice(TABLES)
    rows = {name: comma.join(cell.format(p=p, v=v) for p, v in row.items()) for name, row in scores.items()}
    table = "\n".join(line.format(*row) for row in rows.items())
    facts = {"scores": scores, "want": want, "layout": layout if wish else None}
    prompt = arranged(rng, ASKS[ask].format(**words), table, wish)
    return Draft(prompt, (*parts, Sync(), ending), facts, ("ranking", f"{kind} {most}", ask, style, count))


def _scores(rng: Random, names: list[str], points: list[str]) -> dict[str, dict[str, int]]:
    """Scores whose totals are easily told apart."""
    while True:
        scores = {name: {point: rng.randint(2, 30) for point in points} for name in names}
        if told_apart([sum(row.values()) for row in scores.values()]):
            return scores


def _steps(values: list[int]) -> list[tuple[int, int, int]]:
    """The additions that lead to the sum of the values, one after the other."""
    sums = [sum(values[: end + 1]) for end in range(len(values))]
    return list(zip(sums, values[1:], sums[1:], strict=False))


def _sentence(style: int, subject: str, row: dict[str, int]) -> str:
    """One thing's scores and their sum, step by step."""
    cell, joint, whole, step, then = STYLES[style]
    told = joint.join(cell.format(p=point, v=value) for point, value in row.items())
    added = then.join(step.format(a=a, b=b, c=c) for a, b, c in _steps(list(row.values())))
    return whole.format(S=capital(subject), s=subject, scores=told, sum=added)


def _conclusion(ending: str, subject: str, scores: dict[str, dict[str, int]], want: str, most: str, terse: bool) -> str:
    """All totals, the totals in order unless it is ``terse``, and the thing with the wanted one."""
    totals = [(subject.format(name), sum(row.values())) for name, row in scores.items()]
    best, _ = WANTED[want](totals, key=lambda pair: pair[1])
    return ending.format(way=in_order(totals, most, want == "high", terse), best=best, most=most)


def check(facts: dict[str, Any], text: str) -> bool:
    """Whether each thing's scores are added rightly, in turn, and the conclusion has all totals and the right thing."""
    scores = facts["scores"]
    names, body = list(scores), unmarked(text)
    found = runs(body, names)[: len(names)]
    if [name for name, _ in found] != names or hasty(body, names):
        return False
    if not fits_layout(text, facts["layout"], len(names)) or not fits_opening(body, names):
        return False
    return all(_adds_up(tail, scores[name]) for name, tail in found) and _concludes(facts, body)


def _adds_up(text: str, row: dict[str, int]) -> bool:
    """Whether a stretch gives each score as what it is, and then its sum with steps that are right, of nothing else."""
    if not all(word.isdigit() for word in told(text)):
        return False
    numbers = list(re.finditer("[0-9]+", text))
    values, total = [str(value) for value in row.values()], str(sum(row.values()))
    count = len(values)
    head = text[: numbers[count].start()] if len(numbers) > count else text
    keys = {point: rf"\b{point}\b" for point in row}
    if bound(head, keys) != sorted((point, str(value)) for point, value in row.items()):
        return False
    steps = [str(number) for step in _steps(list(row.values())) for number in step]
    rest = [number[0] for number in numbers[count:]]
    return rest in (steps, [*steps, total], [*values, total], [total])


def _concludes(facts: dict[str, Any], body: str) -> bool:
    """Whether each thing's total follows the last sum, in turn, and then the right thing with the right word.

    Between them the totals may be brought in order.
    """
    totals = {name: sum(row.values()) for name, row in facts["scores"].items()}
    names = list(totals)
    said = mentions(body, names)
    turns = [place for place, (name, _) in enumerate(said) if place == 0 or said[place - 1][0] != name]
    ending = said[turns[len(names)] :] if len(turns) > len(names) else []
    last = " ".join(f"{name} {tail}" for name, tail in ending)
    right, wrong = (HIGH, LOW) if facts["want"] == "high" else (LOW, HIGH)
    if not re.search(right, last, re.IGNORECASE) or re.search(wrong, last, re.IGNORECASE):
        return False
    pairs = [[name, str(total)] for name, total in totals.items()]
    ranked = sorted(pairs, key=lambda pair: int(pair[1]), reverse=facts["want"] == "high")
    best, order = ranked[0], [piece for pair in ranked for piece in pair[::-1]]
    return fits(read(last, names), [*([pair] for pair in pairs), [[], order], [best, best[::-1], best[:1]]])


FAMILY = Family("ranking", forks=True, draw=draw, check=check)
