"""Drills for a model that begins with random weights: copying a text, and looking records up.

A model learns to look back at its prompt from many small steps on examples where nothing else is to be learnt, far
sooner than from whole tasks, in which few tokens depend on the prompt (docs/log.md). Three grades, easiest first.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random

from pastalm.data.tasks import words

WORDS = words.NAMES + words.CITIES + words.FRUITS + words.ANIMALS + words.JOBS + words.COLOURS + words.OBJECTS
LETTERS = "abcdefghijklmnopqrstuvwxyz"
GAPS = (" ", ", ", "; ", "-", " / ")
ROWS = ((" ", ": "), (", ", " - "), ("; ", " ("), (" | ", " = "))  # what separates values, what follows a key
GRADES = ("copying", "looking up", "mixed")


def drills(grade: str, seed: int) -> Iterator[str]:
    """Lines of a data file without end. Raises ``ValueError`` for an unknown grade."""
    if grade not in GRADES:
        raise ValueError(f"Unknown grade {grade!r}; choose one of {', '.join(GRADES)}.")
    rng = Random(f"{grade} {seed}")
    while True:
        prompt, answer = _drill(grade, rng)
        yield json.dumps({"prompt": prompt, "annotated": answer})


def _drill(grade: str, rng: Random) -> tuple[str, str]:
    hard = grade == "mixed" and rng.random() < 0.8
    if grade == "copying" or rng.random() < 0.35:
        return _copy(rng, hard)
    return _look_up(rng, hard)


def _item(rng: Random, hard: bool) -> str:
    kind = rng.random() if hard else 0.0
    if kind < 0.6:
        return rng.choice(WORDS)
    if kind < 0.85:
        return str(rng.randrange(100))
    return "".join(rng.choices(LETTERS, k=rng.randrange(2, 6)))


def _copy(rng: Random, hard: bool) -> tuple[str, str]:
    items = [_item(rng, hard) for _ in range(rng.randrange(4, 26 if hard else 18))]
    text = rng.choice(GAPS).join(items) if hard else " " + " ".join(items)
    return text, text


def _look_up(rng: Random, hard: bool) -> tuple[str, str]:
    keys = rng.sample(WORDS, rng.randrange(2, 8 if hard else 6))
    gap, colon = rng.choice(ROWS) if hard else (" ", ": ")
    width = rng.randrange(1, 4)
    rows = {key: f"{key}{colon}{gap.join(_item(rng, hard) for _ in range(width))}" for key in keys}
    asked = rng.sample(keys, rng.randrange(1, len(keys) + 1))
    listed = "\n".join(rows.values())
    return f"\n{listed}\n{', '.join(asked)}?", "\n" + "\n".join(rows[key] for key in asked)
