"""`pasta tasks`: generated tasks as JSONL."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from pastalm.cli.options import STDOUT, Seed, Split, place_option
from pastalm.files.atomic import writing
from pastalm.progress import PATIENCE_SECONDS, track


def tasks(
    split: Split = "train",
    number: Annotated[int, typer.Option(min=1, metavar="N", help="How many tasks.")] = 100,
    seed: Seed = 0,
    families: Annotated[
        str, typer.Option(metavar="NAMES", help="The families wanted, with commas between. Default: all.")
    ] = "",
    missed: Annotated[float, typer.Option(help="Share of independent chunks left unmarked.")] = 0.04,
    wrong: Annotated[float, typer.Option(help="Share of dependent chunks marked all the same.")] = 0.04,
    unsynced: Annotated[float, typer.Option(help="Share of syncs left out.")] = 0.02,
    out: Annotated[Path, place_option("Where to write: a file; '-' is stdout.")] = STDOUT,
) -> None:
    """Write generated tasks with checkable answers as JSON lines.

    The splits are train and held-out, which share neither a draw nor a combination of choices.
    """
    from pastalm.tasks import tasks as endless
    from pastalm.tasks import to_json
    from pastalm.tasks.task import Noise

    wanted = tuple(name.strip() for name in families.split(",") if name.strip())
    drawn = islice(endless(split, seed, Noise(missed, wrong, unsynced), wanted), number)
    lines = (to_json(task) for task in drawn)
    with nullcontext(sys.stdout) if out == STDOUT else writing(out) as file:
        for line in track(lines, "Writing tasks", number, unit="tasks", patience=PATIENCE_SECONDS):
            file.write(line + "\n")
