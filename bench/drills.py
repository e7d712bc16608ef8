"""Drills for a model that begins with random weights: copying a text, looking records up, and the skills of the tasks.

A model learns to look back at its prompt, to sort and to count from many small steps on examples where nothing else is
to be learnt, far sooner than from whole tasks, in which few tokens depend on the prompt (docs/log.md). Easiest first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from random import Random

from pastalm.tasks import assembly, chain, distance, profiles, ranking, rewrite, short, sorting, words

WORDS = words.NAMES + words.CITIES + words.FRUITS + words.ANIMALS + words.JOBS + words.COLOURS + words.OBJECTS
LETTERS = "abcdefghijklmnopqrstuvwxyz"
GAPS = (" ", ", ", "; ", "-", " / ")
ROWS = (
    ("{}: {}", ", "),
    ("- {}: {}", ", "),
    ("{} ({})", "; "),
    ("{} | {}", " | "),
    ("* {}; {}", "; "),
    ("{} - {}", ", "),
)
ENDS = {**ranking.WORDING, "high": (*ranking.WORDING["high"], "most", "longest")}  # what conclusions look for
CELLS = ("{} {}", "{}: {}", "{}={}", "{} is {}")

Drill = tuple[str, str]  # a prompt and its answer


def drills(grade: str, seed: int) -> Iterator[str]:
    """Lines of a data file without end. Raises ``ValueError`` for an unknown grade."""
    if grade not in GRADES:
        raise ValueError(f"Unknown grade {grade!r}; choose one of {', '.join(GRADES)}.")
    rng = Random(f"{grade} {seed}")
    while True:
        prompt, answer = rng.choice(GRADES[grade])(rng)
        yield json.dumps({"prompt": prompt, "annotated": answer})


def _item(rng: Random) -> str:
    kind = rng.random()
    if kind < 0.6:
        return rng.choice(WORDS)
    if kind < 0.85:
        return str(rng.randrange(100))
    return "".join(rng.choices(LETTERS, k=rng.randrange(2, 6)))


def words_again(rng: Random) -> Drill:
    """A row of words, to be said again."""
    text = " " + " ".join(rng.choice(WORDS) for _ in range(rng.randrange(4, 18)))
    return text, text


def anything_again(rng: Random) -> Drill:
    """A row of words, numbers and letters, to be said again."""
    text = rng.choice(GAPS).join(_item(rng) for _ in range(rng.randrange(4, 26)))
    return text, text


def rows_again(rng: Random) -> Drill:
    """Some of the rows of a table, by their first words."""
    keys, width = rng.sample(WORDS, rng.randrange(2, 7)), rng.randrange(1, 4)
    rows = {key: f"{key}: {' '.join(rng.choice(WORDS) for _ in range(width))}" for key in keys}
    asked = rng.sample(keys, rng.randrange(1, len(keys) + 1))
    listed = "\n".join(rows.values())
    return f"\n{listed}\n{', '.join(asked)}?", "\n" + "\n".join(rows[key] for key in asked)


def cells(rng: Random) -> Drill:
    """Cells of a table by row and column, or rows by a cell."""
    kind = rng.choice(tuple(profiles.KINDS.values()))
    fields, names = rng.sample(kind.fields, rng.randrange(2, 5)), rng.sample(kind.names, rng.randrange(3, 7))
    table = {name: {field.label: rng.choice(field.values) for field in fields} for name in names}
    (row, gap), cell = rng.choice(ROWS), rng.choice(CELLS)
    lines = [row.format(name, gap.join(cell.format(*pair) for pair in own.items())) for name, own in table.items()]
    every = [(name, label, value) for name, own in table.items() for label, value in own.items()]
    asked = rng.sample(every, min(len(every), rng.randrange(4, 12)))
    prompt = "\n".join(lines)
    if rng.random() < 0.2:
        return f"{prompt}\nNames?", ", ".join(names)
    if rng.random() < 0.4:
        once = [one for one in asked if [value for *_, value in every].count(one[2]) == 1]
        values = ", ".join(value for *_, value in once)
        return f"{prompt}\n{values}?", "\n".join(f"{value} {label} {name}" for name, label, value in once) or "nothing"
    questions = ", ".join(f"{name} {label}" for name, label, _ in asked)
    return f"{prompt}\n{questions}?", "\n".join(f"{name} {label} {value}" for name, label, value in asked)


def order(rng: Random) -> Drill:
    """Short lists in order, with their ends and their size."""
    things, way = rng.choice(("numbers", "numbers", "words")), rng.choice(("up", "down"))
    lists = [sorting._items(rng, things) for _ in range(rng.randrange(1, 5))]
    asked = rng.choice(sorting.WAYS[things, way])
    told = []
    for items in lists:
        found = sorting.ordered(items, way)
        told.append("{}. {} {}, {}".format(", ".join(found), len(found), *sorting.extremes(found)))
    gap = rng.choice((", ", " ", "; "))
    return f"Order {asked}:\n" + "\n".join(gap.join(items) for items in lists), "\n".join(told)


def sums(rng: Random) -> Drill:
    """Sums, products, differences and squares as the tasks write them."""

    def one() -> tuple[str, str]:
        kind, a, b = rng.randrange(5), rng.randint(1, 60), rng.randint(1, 45)
        if kind == 0:
            return f"{a} + {b}", f" = {a + b}"
        if kind == 1:
            a, b = rng.randint(1, 9), rng.randint(1, 9)
            return f"{a} * {b}", f" = {a * b}"
        if kind == 2:
            a, b = rng.randint(-9, 20), rng.randint(-9, 20)
            asked, *answer = distance.gap(a, b).split(" = ")
            return asked, "".join(f" = {part}" for part in answer)
        if kind == 3:
            a, b = (rng.randint(1, 12) ** 2 for _ in range(2))
            return f"{a} + {b}", f" = {a + b}"
        a = rng.randint(1, 12)
        return f"{a} * {a}", f" = {a * a}"

    every = [one() for _ in range(rng.randrange(3, 12))]
    return "; ".join(asked for asked, _ in every), ", ".join(asked + answer for asked, answer in every)


def running(rng: Random) -> Drill:
    """A total built up number by number."""
    numbers = [rng.randint(1, 45) for _ in range(rng.randrange(3, 7))]
    steps, total = [], numbers[0]
    for number in numbers[1:]:
        steps.append(f"{total} + {number} = {total + number}")
        total += number
    return f"Sum of {', '.join(map(str, numbers))}", ", ".join(steps)


def _totals(rng: Random, count: int) -> list[tuple[str, int]]:
    """Words with numbers that are easily told apart, as totals are."""
    numbers = [10 * tens + rng.randrange(10) for tens in rng.sample(range(1, 10), count)]
    return list(zip(rng.sample(WORDS, count), numbers, strict=True))


def _listed(rng: Random, totals: list[tuple[str, int]]) -> str:
    """Words and their numbers in a row, in one of the ways of the tasks."""
    form = rng.choice(("{name} {total}", "{name} has {total}", "{total} for {name}"))
    return rng.choice((", ", "; ")).join(form.format(name=name, total=total) for name, total in totals)


def ends(rng: Random) -> Drill:
    """Who has the most or the least: the numbers in order, each with its owner."""
    totals, kind = _totals(rng, rng.randrange(3, 6)), rng.choice(tuple(ranking.WORDING))
    word = rng.choice(ENDS[kind])
    name, _ = ranking.WANTED[kind](totals, key=lambda pair: pair[1])
    way = assembly.in_order(totals, word, kind == "high")
    return f"{_listed(rng, totals)}. The {word}?", f"{way}. So the {word} is {name}."


def owners(rng: Random) -> Drill:
    """Whose some numbers are."""
    totals = _totals(rng, rng.randrange(3, 7))
    asked = rng.sample(totals, rng.randrange(2, len(totals) + 1))
    told = ", ".join(f"{total} for {name}" for name, total in asked)
    return f"{_listed(rng, totals)}. {', '.join(str(total) for _, total in asked)}?", told


def facts(rng: Random) -> Drill:
    """Several questions about facts of one or two kinds, each answered by a value or a name."""
    names, kinds = rng.sample(words.NAMES, rng.randrange(3, 7)), rng.sample(tuple(short.KINDS.values()), 2)
    rows = [(kind, row) for kind in kinds[: rng.randint(1, 2)] for row in short._rows(rng, kind, names)]
    lines = [kind.lines[0].format(**row) for kind, row in rows]
    asked, told = [], []
    for kind, row in rng.sample(rows, min(len(rows), rng.randrange(3, 8))):
        what = rng.random() < 0.5
        asked.append(rng.choice(kind.what if what else kind.who).format(**row))
        told.append(row["v"] if what else row["n"])
    gap = rng.choice(("\n", "; ", ". "))
    return gap.join(rng.sample(lines, len(lines))) + "\n" + " ".join(asked), ", ".join(told)


def letters(rng: Random) -> Drill:
    """Words letter by letter, backwards and after one operation."""
    mark = rng.choice(rewrite.SEPARATORS)
    told, asked = [], []
    for _ in range(rng.randrange(2, 6)):
        word = rewrite.draw_word(rng)
        step = rewrite.draw_steps(rng, word)[0]
        asked.append(f"{word}, {rewrite.act(step, rng.randrange(rewrite.WAYS))}")
        told.append(f"{mark.join(word)} then {mark.join(rewrite.apply(step, word))}")
    return "; ".join(asked), "\n".join(told)


def moves(rng: Random) -> Drill:
    """Single steps of chains, each from a state that is given."""
    facts = chain.draw_facts(rng, rng.choice(tuple(chain.STYLES)))
    state, lines = facts["start"], []
    for step in facts["steps"]:
        after = chain.apply(step, state, facts["row"])
        lines.append((f"{state}, {chain.act(step, facts['who'])}", after))
        state = after
    rng.shuffle(lines)
    row = f"{', '.join(facts['row'])}\n" if facts["row"] else ""
    return row + "; ".join(asked for asked, _ in lines), "\n".join(f"{asked}: {after}" for asked, after in lines)


SKILLS: tuple[Callable[[Random], Drill], ...] = (
    anything_again, cells, cells, cells, order, order, order, sums, running, ends, ends, ends, owners, owners,
    facts, facts, letters, letters, moves, moves,
)  # fmt: skip
GRADES: dict[str, tuple[Callable[[Random], Drill], ...]] = {
    "copying": (words_again,),
    "looking up": (words_again, rows_again, rows_again),
    "skills": SKILLS,
}
