"""How far long work is, on stderr: a bar with its rate on a terminal, a line now and then elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from time import monotonic
from typing import Any, TypeVar

from rich import progress as bars
from rich.console import Console

LINE_SECONDS = 30.0
PATIENCE_SECONDS = 1.0
Item = TypeVar("Item")


class Progress:
    """The state of one piece of work. Use it as a context manager, and :meth:`update` it.

    ``total`` is how many there are of ``unit``, a plural, None if nobody knows; ``done`` were done before, by an
    earlier run. Nothing is shown in the first ``patience`` seconds, nor where ``enabled`` is off.
    """

    def __init__(
        self,
        description: str,
        total: int | None = None,
        *,
        done: int = 0,
        unit: str = "",
        patience: float = 0.0,
        enabled: bool = True,
    ) -> None:
        self.description, self.total, self.done, self.unit = description, total, done, unit
        self.patience, self.enabled, self.completed = patience, enabled, done
        self.console = Console(stderr=True)
        self.began = self.printed = monotonic()
        self.note, self.started, self.lines = "", False, 0
        self.bar = bars.Progress(
            *(bars.TextColumn("{task.description}", markup=False), bars.BarColumn(), bars.MofNCompleteColumn()),
            *(bars.TextColumn("{task.fields[note]}", markup=False), bars.TimeRemainingColumn()),
            console=self.console,
            transient=patience > 0,
            disable=not (enabled and self.console.is_terminal),
        )
        self.task = self.bar.add_task(description, total=total, completed=done, note="")

    def __enter__(self) -> Progress:
        self._start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if self.started:
            self.bar.stop()  # also after an error, which would leave a terminal without its cursor
        if kind is None and (self.lines or not self.patience) and self.done < self.completed == self.total:
            self._line()

    def update(self, completed: int, note: str | None = None, *, total: int | None = None) -> None:
        """Say that ``completed`` are done, those of earlier runs among them. ``note`` stands in the place of the rate;
        ``total`` replaces the total."""
        self.completed, self.total = completed, self.total if total is None else total
        now = monotonic()
        self.note = pace(completed - self.done, now - self.began, self.unit) if note is None else note
        self._start()
        self.bar.update(self.task, completed=completed, total=self.total, note=self.note)
        if now - self.printed >= LINE_SECONDS and completed != self.total:
            self.printed = now
            self._line()

    def print(self, text: str) -> None:
        """Print a line of its own, above the bar."""
        if self.enabled:
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _start(self) -> None:
        if not (self.started or self.bar.disable) and monotonic() - self.began >= self.patience:
            self.started = True
            self.bar.start()

    def _line(self) -> None:
        if not self.console.is_terminal:
            self.lines += 1
            of = "?" if self.total is None else self.total
            self.print(f"{self.description}: {self.completed} of {of}, {self.note}")


def track(
    items: Iterable[Item],
    description: str,
    total: int | None = None,
    *,
    done: int = 0,
    unit: str = "items",
    patience: float = 0.0,
    enabled: bool = True,
) -> Iterator[Item]:
    """Pass ``items`` on and show how many are through; the options are those of :class:`Progress`. ``total`` counts
    what was ``done`` before too; by default it is the length of ``items``, if they have one."""
    if total is None and isinstance(items, Sized):
        total = done + len(items)
    with Progress(description, total, done=done, unit=unit, patience=patience, enabled=enabled) as progress:
        for number, item in enumerate(items, done + 1):
            yield item
            progress.update(number)


def pace(number: int, seconds: float, unit: str) -> str:
    """How fast ``number`` of a unit, a plural, were done; the seconds each took where that is slow."""
    if seconds <= number:
        return f"{number / max(seconds, 1e-9):.1f} {unit}/s"
    return f"{seconds / max(number, 1):.1f} s per {unit.removesuffix('s')}"
