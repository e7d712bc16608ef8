"""A value goes through steps that each need the one before: a number, a walk along a street, a thing under cups."""

from __future__ import annotations

from random import Random
from typing import Any

from pastalm.tasks.assembly import STEP_LAYOUTS, arrange, assemble, opening
from pastalm.tasks.matching import ends_well, fits, marks_fit, read
from pastalm.tasks.task import Chunk, Draft, Family
from pastalm.tasks.words import COLOURS, NAMES

THINGS = ("coin", "pea", "ring", "button", "bean", "pearl", "marble", "key")
WORDS = frozenset((*COLOURS, *NAMES, *THINGS))
Move = list[Any]
Held = Any  # a number, or the cup that hides the thing

STYLES = {
    "number": (
        "When we {act}, {before} turns into {after}, which is our new number.",
        "We had {before}; after we {act} the number is {after}.",
    ),
    "street": (
        "{who} stands at house {before}, {act}, and is then at house {after}.",
        "{who} {act}: from {before} this leads to house {after}.",
    ),
    "cups": (
        "The {who} is under {before}. Then {act}, so now it is under {after}.",
        "With the {who} under {before}, {act}, and the next place is under {after}.",
    ),
}
CLOSES = {
    "number": ("The final number is {end}.", "The result is {end}."),
    "street": ("So {who} ends at house {end}.", "The last house is {end}."),
    "cups": ("So the {who} ends under {end}.", "It is under {end} at the end."),
}
SETTINGS = {
    "number": ("Start with {start}.", "The first number is {start}.", "Take {start}.", "We begin at {start}."),
    "street": ("{who} stands at house {start}.", "The walk of {who} begins at house {start}."),
    "cups": (
        "The cups stand in a row: {row}. A {who} is under {start}.",
        "From left to right there are cups: {row}. The {who} starts under {start}.",
    ),
}
ASKS = {
    "number": ("What is the number at the end?", "Which number comes out?", "Find the final number.", "What is left?"),
    "street": ("At which house does the walk end?", "Which house is the last?", "Where does {who} end up?"),
    "cups": ("Where is the {who} at the end?", "Under which cup is the {who} now?", "Find the {who}."),
}
PATTERNS = (
    "{setting} {steps} {ask}",
    "{ask} {setting} {steps}",
    "{setting} {ask} {steps}",
    "Follow the steps. {setting} {steps}\n{ask}",
    "{setting}\n{steps}\n{ask}",
    "{ask}\n{setting}\n{steps}",
    "A puzzle: {setting} {steps} {ask}",
    "{setting} {steps}\n{ask} Write down each step.",
)
INTROS = ("We go step by step.", "Let us follow it.", "Here is what happens.")


def swapped(value: int) -> int:
    """The number with its two digits swapped."""
    return value % 10 * 10 + value // 10


def apply(step: Move, state: Held, row: list[str]) -> Held:
    """The state after a step."""
    op, *rest = step
    if op == "swap cups":
        return {rest[0]: rest[1], rest[1]: rest[0]}.get(state, state)
    if op in ("right", "left"):
        return row[row.index(state) + (1 if op == "right" else -1)]
    if op in ("add", "up"):
        return state + rest[0]
    if op in ("subtract", "down"):
        return state - rest[0]
    return {"double": 2 * state, "halve": state // 2, "digits": swapped(state), "ten": state // 10 * 10 + 10}[op]


def act(step: Move, who: str) -> str:
    """What is done in a step."""
    op, *rest = step
    if op == "swap cups":
        return f"{rest[0]} and {rest[1]} swap contents"
    if op in ("up", "down"):
        return f"walks {op} {rest[0]} house{'s' * (rest[0] > 1)}"
    if op in ("right", "left"):
        return f"the {who} moves 1 cup {op}"
    if op in ("add", "subtract"):
        return f"{'add' if op == 'add' else 'take away'} {rest[0]}"
    fixed = {"double": "double it", "halve": "halve it", "digits": "swap its digits"}
    return fixed.get(op, "goes on to the next house ending in zero")


def options(kind: str, state: Held, row: list[str]) -> list[tuple[int, str]]:
    """The kinds of step that can follow ``state``, with their weights."""
    if kind == "street":
        return [(3, "up"), (3 * (state > 3), "down"), (1, "ten")]
    if kind == "cups":
        place = row.index(state)
        return [(3, "swap cups"), (2 * (place < len(row) - 1), "right"), (2 * (place > 0), "left")]
    can_swap = state > 9 and state % 10 not in (0, state // 10)
    return [
        (3 * (state < 90), "add"), (3 * (state > 10), "subtract"), (2 * (0 < state < 50), "double"),
        (2 * (state > 1 and state % 2 == 0), "halve"), (2 * can_swap, "digits"),
    ]  # fmt: skip


def draw_step(rng: Random, kind: str, state: Held, row: list[str]) -> Move:
    """A step that keeps numbers in 0 .. 99 and the thing in the row."""
    weights, ops = zip(*options(kind, state, row), strict=True)
    op = rng.choices(ops, weights)[0]
    if op == "swap cups":
        first = state if rng.random() < 0.6 else rng.choice(row)
        pair = [first, rng.choice([cup for cup in row if cup != first])]
        rng.shuffle(pair)
        return [op, *pair]
    if op in ("add", "up"):
        return [op, rng.randint(1, min(9, 99 - state))]
    if op in ("subtract", "down"):
        return [op, rng.randint(1, min(9, state - 1))]
    return [op]


def draw_facts(rng: Random, kind: str) -> dict[str, Any]:
    """The start and the steps."""
    row = rng.sample(COLOURS, rng.randint(3, 5)) if kind == "cups" else []
    who = rng.choice(THINGS if kind == "cups" else NAMES) if kind != "number" else ""
    start: Held = rng.choice(row) if row else rng.randint(2, 60)
    steps, state = [], start
    for _ in range(rng.randint(4, 6)):
        if kind == "street" and state > 85:
            step: Move = ["down", rng.randint(2, 9)]
        else:
            step = draw_step(rng, kind, state, row)
        steps.append(step)
        state = apply(step, state, row)
    return {"kind": kind, "start": start, "steps": steps, "row": row, "who": who}


def texts(facts: dict[str, Any]) -> tuple[list[list[str]], list[str]]:
    """Each step in every style, and every conclusion."""
    kind, who, state = facts["kind"], facts["who"], facts["start"]
    chunks = []
    for step in facts["steps"]:
        after = apply(step, state, facts["row"])
        chunks.append([s.format(who=who, act=act(step, who), before=state, after=after) for s in STYLES[kind]])
        state = after
    return chunks, [close.format(who=who, end=state) for close in CLOSES[kind]]


def draw_steps_text(rng: Random, facts: dict[str, Any]) -> str:
    """The steps as the prompt gives them: as one sentence or as a list."""
    acts = [act(step, facts["who"]) for step in facts["steps"]]
    joint = rng.choice((", then ", ", ", "; ", ". Then ", "\n- "))
    text = ("\n- " if joint == "\n- " else "First, ") + joint.join(acts)
    if facts["kind"] == "street":
        text = text.replace("First, ", f"First {facts['who']} ").replace(". Then ", f". Then {facts['who']} ")
    return text if joint == "\n- " else text + "."


def draw(rng: Random) -> Draft:
    """A chain of four to six steps; no step can be written without the one before."""
    kind = rng.choice(tuple(STYLES))
    facts = draw_facts(rng, kind)
    setting = rng.choice(SETTINGS[kind]).format(start=facts["start"], who=facts["who"], row=", ".join(facts["row"]))
    ask = rng.choice(ASKS[kind]).format(who=facts["who"])
    order, prompt = arrange(rng, PATTERNS, setting=setting, ask=ask, steps=draw_steps_text(rng, facts))
    steps, closes = texts(facts)
    style = rng.randrange(len(steps[0]))
    chunks = [Chunk(f"step {n}", step[style], independent=False) for n, step in enumerate(steps, 1)]
    parts = assemble(rng.choice(STEP_LAYOUTS), opening(rng, INTROS), chunks, rng.choice(closes), sync=False)
    return Draft(prompt, parts, facts, ("chain", kind, order, style, len(chunks)))


def check(facts: dict[str, Any], text: str) -> bool:
    """Whether every step is there with its value before and after, in order, and the result is right."""
    steps, closes = texts(facts)
    allowed = [[read(way, WORDS) for way in ways] for ways in (*steps, closes)]
    return ends_well(text) and marks_fit(text, len(steps)) and fits(read(text, WORDS), allowed)


FAMILY = Family("chain", forks=False, draw=draw, check=check)
