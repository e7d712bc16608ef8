"""`pasta tasks`: generated tasks as JSONL."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from itertools import islice
from typing import Annotated, TextIO

import typer

from pastalm.cli.progress import patiently


class Split(StrEnum):
    """The two halves of the tasks."""

    TRAIN = "train"
    HELD_OUT = "held-out"


def tasks(
    split: Annotated[Split, typer.Option(help="The two share neither a draw nor a combination of choices.")] = (
        Split.TRAIN
    ),
    number: Annotated[int, typer.Option(min=1, help="How many tasks.")] = 100,
    seed: Annotated[int, typer.Option(help="The same seed gives the same tasks.")] = 0,
    families: Annotated[str, typer.Option(help="The families wanted, with commas between. Default: all.")] = "",
    missed: Annotated[float, typer.Option(help="Share of independent chunks left unmarked.")] = 0.04,
    wrong: Annotated[float, typer.Option(help="Share of dependent chunks marked all the same.")] = 0.04,
    unsynced: Annotated[float, typer.Option(help="Share of syncs left out.")] = 0.02,
    out: Annotated[str, typer.Option(help="The file to write; '-' is stdout.")] = "-",
) -> None:
    """Write generated tasks with checkable answers as JSON lines."""
    from pastalm.tasks import tasks as endless
    from pastalm.tasks import to_json
    from pastalm.tasks.task import Noise

    wanted = tuple(name.strip() for name in families.split(",") if name.strip())
    drawn = islice(endless(split.value, seed, Noise(missed, wrong, unsynced), wanted), number)
    lines = (to_json(task) for task in drawn)
    with _writing(out) as file:
        for line in patiently(lines, "Writing tasks", number):
            file.write(line + "\n")


@contextmanager
def _writing(out: str) -> Iterator[TextIO]:
    if out == "-":
        yield sys.stdout
    else:
        with open(out, "w", encoding="utf-8") as file:
            yield file
