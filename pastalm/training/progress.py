"""How far a long stage is: a bar with its rate on a terminal, a line now and then elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from time import monotonic
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_SECONDS = 30.0
Item = TypeVar("Item")


def shown(items: Iterable[Item], what: str, done: int, total: int, unit: str) -> Iterator[Item]:
    """Pass items on and show, on stderr, how many of ``total`` are through. ``done`` were before, by an earlier run."""
    console, started = Console(stderr=True), monotonic()
    printed = started
    columns = (
        TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn()
    )  # fmt: skip
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        job = bar.add_task(what, total=total, completed=done, rate="")
        for number, item in enumerate(items, 1):
            yield item
            now = monotonic()
            rate = pace(number, now - started, unit)
            bar.update(job, completed=done + number, rate=rate)
            if not console.is_terminal and (now - printed > LINE_SECONDS or done + number == total):
                printed = now
                console.print(f"{what}: {done + number} of {total}, {rate}", highlight=False)


def pace(number: int, seconds: float, unit: str) -> str:
    """How fast ``number`` of a unit, named in the plural, were done; the seconds each took where that is slow."""
    if seconds <= number:
        return f"{number / max(seconds, 1e-9):.1f} {unit}/s"
    return f"{seconds / number:.1f} s per {unit.removesuffix('s')}"
