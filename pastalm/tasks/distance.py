"""Squared lengths of segments: the two directions (or several segments) are worked out apart, then put together."""

from __future__ import annotations

from random import Random
from typing import Any

from pastalm.tasks.assembly import LAYOUTS, TERSE, arrange, assemble, in_order, listed, opening, told_apart
from pastalm.tasks.matching import ends_well, fits, marks_fit, read, sums_hold
from pastalm.tasks.task import Chunk, Draft, Family
from pastalm.tasks.wording import capital
from pastalm.tasks.words import COLOURS

LETTERS = ("K", "L", "M", "N", "P", "R", "S", "T")
WORDS = frozenset((*LETTERS, *COLOURS, "x", "y"))

PATTERNS = (
    "{ask} {data}",
    "{data} {ask}",
    "{data}\n{ask}",
    "{ask}\n{data}",
    "A small task in the plane. {data} {ask}",
    "Hello! {data} {ask}",
    "Please help me with this: {ask} {data}",
    "Task: {ask}\nGiven: {data}",
    "{data}\nQuestion: {ask}",
)
ASKS = {
    "one": (
        "What is the squared length of the segment?",
        "Find the square of the distance between the ends.",
        "How long is it, squared?",
        "Work out the length without taking the root.",
        "Give the squared distance, first each direction and then both.",
        "Multiply each difference by itself and add the two.",
        "How much is the length times itself?",
        "How far apart are the ends? Leave the root away.",
    ),
    "longest": (
        "Which segment is the longest? Compare squared lengths.",
        "Find the longest one by its squared length.",
        "Work out all lengths without the roots and name the greatest.",
        "Which one is the longest?",
        "Compare them by length times length. Which one wins?",
        "Which of these has its ends farthest apart?",
        "Name the longest; no roots, please.",
    ),
    "list": (
        "What are the squared lengths?",
        "List the squared length of each segment.",
        "Give me the square of every length.",
        "How long is each one? Leave out the roots.",
        "I need every length times itself.",
        "Give the lengths of all, without the roots.",
    ),
}
DATA_ONE = (
    "A segment joins {p} and {q}.",
    "A line goes from {p} to {q}.",
    "The ends are {p} and {q}.",
    "Start at {p}, stop at {q}.",
    "Points: {p}, {q}.",
    "An ant walks straight from {p} to {q}.",
)
DATA_MANY = ("{label} goes from {p} to {q}", "{label} joins {p} and {q}", "{label}: {p} to {q}")
POINTS = ("({x}, {y})", "({x}, {y})", "{x}|{y}", "[{x}; {y}]", "{x} / {y}", "x={x} y={y}")
LINES = ("segment", "segment", "line", "stick")

AXES = (
    "The two {axis} values are {a} and {b}. Their difference is {gap}, and {d} times {d} is {square}.",
    "{side} part: here {axis} goes from {a} to {b}, a step of {gap}. The square of that is {d} * {d} = {square}.",
)
SEGMENTS = (
    "{label} runs from {p} to {q}. Across: {gap}, and {d} * {d} = {square}. "
    "Up: {gap2}, and {d2} * {d2} = {square2}. Sum: {square} + {square2} = {total} for {label}.",
    "From {p} to {q}, {label} has {gap} in x and {gap2} in y. "
    "The squares are {square} and {square2}, and {square} + {square2} = {total} for {label}.",
)
CLOSES = (
    "Adding {a} and {b} gives {total}, so the squared length is {total}.",
    "Together that is {a} + {b} = {total}. The squared length is {total}.",
)
LONGEST = (
    "Which is the longest? {way}. So the longest is {label}.",
    "Now we compare: {way}. At the top is {label}.",
)
LISTS = ("The squared lengths are {pairs}.", "In short, we found {pairs}.")
TOPICS = (("horizontal", "vertical"), ("x part", "y part"), ("x values", "y values"), ("width", "height"))
INTROS = {
    "one": ("We take the two directions one by one.", "Here are the two parts."),
    "longest": ("The {n} lengths, and then the longest:", "We work out each of the {n} and look for the longest."),
    "list": ("The {n} lengths, one by one:", "We work out each of the {n}, and then list them."),
}


def gap(a: int, b: int) -> str:
    """How far apart ``a`` and ``b`` are, written out."""
    low, high = sorted((a, b))
    if low >= 0:
        return f"{high} - {low} = {high - low}"
    return f"{high} - ({low}) = {high} + {-low} = {high - low}"


def squares(ends: list[int]) -> tuple[int, int]:
    """The squares of the two differences."""
    x1, y1, x2, y2 = ends
    return (x1 - x2) ** 2, (y1 - y2) ** 2


def naming(label: str, line: str = "segment") -> str:
    """How a segment is called in a sentence."""
    return f"{line} {label}" if label in LETTERS else f"the {label} {line}"


def axis_text(style: int, axis: int, ends: list[int]) -> str:
    """One direction of a segment."""
    a, b = ends[axis], ends[axis + 2]
    d, side = abs(a - b), ("Horizontal", "Vertical")[axis]
    return AXES[style].format(axis="xy"[axis], side=side, a=a, b=b, gap=gap(a, b), d=d, square=d * d)


def segment_text(style: int, label: str, ends: list[int]) -> str:
    """The whole sum for one segment."""
    x1, y1, x2, y2 = ends
    square, square2 = squares(ends)
    text = SEGMENTS[style].format(
        label=naming(label), p=f"({x1}, {y1})", q=f"({x2}, {y2})", gap=gap(x1, x2), gap2=gap(y1, y2),
        d=abs(x1 - x2), d2=abs(y1 - y2), square=square, square2=square2, total=square + square2,
    )  # fmt: skip
    return capital(text)


def conclusions(facts: dict[str, Any], terse: bool) -> list[str]:
    """All ways to conclude; ``terse`` ones do not bring the lengths in order."""
    totals = [sum(squares(ends)) for ends in facts["segments"]]
    if facts["kind"] == "one":
        a, b = squares(facts["segments"][0])
        return [close.format(a=a, b=b, total=a + b) for close in CLOSES]
    if facts["kind"] == "longest":
        named = list(zip(map(naming, facts["labels"]), totals, strict=True))
        way = capital(in_order(named, "longest", terse=terse))
        return [close.format(way=way, label=named[totals.index(max(totals))][0]) for close in LONGEST]
    pairs = listed([f"{t} for {naming(label)}" for t, label in zip(totals, facts["labels"], strict=True)])
    return [close.format(pairs=pairs) for close in LISTS]


def chunk_texts(facts: dict[str, Any]) -> list[list[str]]:
    """For each chunk, its text in every style."""
    if facts["kind"] == "one":
        return [[axis_text(style, axis, facts["segments"][0]) for style in range(len(AXES))] for axis in (0, 1)]
    labelled = zip(facts["labels"], facts["segments"], strict=True)
    return [[segment_text(style, label, ends) for style in range(len(SEGMENTS))] for label, ends in labelled]


def draw_other(rng: Random, low: int, high: int, value: int) -> int:
    """Another coordinate that is at most 7 away."""
    return rng.choice([other for other in range(low, high + 1) if 0 < abs(other - value) <= 7])


def draw_segments(rng: Random, count: int) -> list[list[int]]:
    """Segments whose squared lengths are easily told apart."""
    low, high = rng.choice(((-3, 9), (0, 20), (0, 20), (0, 20)))
    while True:
        starts = [[rng.randint(low, high) for _ in range(2)] for _ in range(count)]
        found = [[*start, *(draw_other(rng, low, high, value) for value in start)] for start in starts]
        if told_apart([sum(squares(ends)) for ends in found]):
            return found


def draw_data(rng: Random, kind: str, labels: list[str], segments: list[list[int]]) -> str:
    """The points as the prompt gives them."""
    form, point, line = rng.choice(DATA_ONE if kind == "one" else DATA_MANY), rng.choice(POINTS), rng.choice(LINES)
    given = [
        form.format(label=naming(label, line), p=point.format(x=x1, y=y1), q=point.format(x=x2, y=y2))
        for label, (x1, y1, x2, y2) in zip(labels, segments, strict=True)
    ]
    text = given[0] if kind == "one" else rng.choice(("; ", ", ")).join(given) + "."
    return capital(text)


def draw(rng: Random) -> Draft:
    """One segment with its two directions, or three or four segments."""
    kind = rng.choice(("one", "longest", "longest", "list", "list"))
    count = {"one": 1, "longest": 3}.get(kind) or rng.choice((3, 4, 4))  # the conclusion of "longest" is long
    labels = rng.sample(rng.choice((LETTERS, COLOURS)), count)
    facts: dict[str, Any] = {"kind": kind, "labels": labels, "segments": draw_segments(rng, count)}
    data = draw_data(rng, kind, labels, facts["segments"])
    order, prompt = arrange(rng, PATTERNS, ask=rng.choice(ASKS[kind]), data=data)
    texts = chunk_texts(facts)
    style = rng.randrange(len(texts[0]))
    topics = rng.choice(TOPICS) if kind == "one" else [naming(label).removeprefix("the ") for label in labels]
    chunks = [Chunk(topic, text[style]) for topic, text in zip(topics, texts, strict=True)]
    intro = opening(rng, INTROS[kind], n=count)
    parts = assemble(rng.choice(LAYOUTS), intro, chunks, rng.choice(conclusions(facts, rng.random() < TERSE)))
    return Draft(prompt, parts, facts, ("distance", kind, order, style, count))


def check(facts: dict[str, Any], text: str) -> bool:
    """Whether each chunk has its numbers, in order, all sums are true and the conclusion is right."""
    chunks = chunk_texts(facts)
    counted = ["", str(len(chunks))]  # an opening may say how many
    closes = [*conclusions(facts, False), *conclusions(facts, True)]
    allowed = [[read(way, WORDS) for way in ways] for ways in (counted, *chunks, closes)]
    formed = ends_well(text) and marks_fit(text, len(chunks))
    return formed and sums_hold(text) and fits(read(text, WORDS), allowed)


FAMILY = Family("distance", forks=True, draw=draw, check=check)
