"""How an answer is put together: intro, list marks, chunks and conclusion, with the white space before each."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from pastalm.lang.answer import Sync
from pastalm.tasks.task import Chunk

LAYOUTS = ("flow", "lines", "dashes", "numbers")
STEP_LAYOUTS = (*LAYOUTS, "steps", "flowing steps")

TERSE = 0.25  # the share of answers that leave out what they could do without, an opening or bringing totals in order

_LEADS = {
    "flow": " ",
    "lines": "\n",
    "dashes": "\n- ",
    "numbers": "\n{n}. ",
    "steps": "\nStep {n}: ",
    "flowing steps": " Step {n}: ",
}


def lead(layout: str, index: int, opened: bool) -> str:
    """The text that stands before chunk ``index``; ``opened`` says whether anything stands before it."""
    text = _LEADS[layout].format(n=index + 1)
    return text if opened else text.lstrip()


def assemble(
    layout: str, intro: str, chunks: Sequence[Chunk], conclusion: str, sync: bool = True
) -> tuple[str | Chunk | Sync, ...]:
    """The parts of an answer in order; without a conclusion there is nothing that a sync could serve."""
    parts: list[str | Chunk | Sync] = [intro]
    for index, chunk in enumerate(chunks):
        parts += [lead(layout, index, bool(intro) or index > 0), chunk]
    if conclusion:
        gap = {"flow": " ", "flowing steps": " "}.get(layout, "\n")
        parts += [Sync(), gap + conclusion] if sync else [gap + conclusion]
    return tuple(part for part in parts if part != "")


def opening(rng: Random, intros: Sequence[str], **fill: object) -> str:
    """One of the openings, or none: some answers come at once to the point, faster, with less to hold on to."""
    return "" if rng.random() < TERSE else rng.choice(intros).format(**fill)


def tidy(text: str) -> str:
    """The text without doubled spaces, spaces at the ends of lines and more than one blank line."""
    lines = [" ".join(line.split()) for line in text.strip().split("\n")]
    return "\n".join(line for place, line in enumerate(lines) if line or lines[place - 1])


def arrange(rng: Random, patterns: Sequence[str], **pieces: str) -> tuple[int, str]:
    """Draw an order of the prompt's pieces; returns its number and the prompt.

    A piece of several lines gets lines of its own.
    """
    index = rng.randrange(len(patterns))
    spread = {name: f"\n{piece.strip()}\n" if "\n" in piece else piece for name, piece in pieces.items()}
    return index, tidy(patterns[index].format(**spread))


def listed(items: Sequence[str], last: str = " and ") -> str:
    """The items in one line, such as "a, b and c"."""
    return last.join(filter(None, (", ".join(items[:-1]), items[-1])))


def told_apart(numbers: Sequence[int]) -> bool:
    """Whether all numbers have two digits and no two of them the same first: such are sorted by one look at each."""
    return all(10 <= number < 100 for number in numbers) and len({n // 10 for n in numbers}) == len(numbers)


def in_order(pairs: Sequence[tuple[str, int]], word: str, down: bool = True, terse: bool = False) -> str:
    """Named numbers, then the same in order: ``Ada has 15; Ben has 17. The most first: 17 for Ben, 15 for Ada``.

    ``terse`` leaves out the second half, so that who comes first has to be seen at once.
    """
    named = "; ".join(f"{name} has {number}" for name, number in pairs)
    if terse:
        return named
    ranked = sorted(pairs, key=lambda pair: pair[1], reverse=down)
    return f"{named}. The {word} first: {', '.join(f'{number} for {name}' for name, number in ranked)}"
