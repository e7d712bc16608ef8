"""A progress bar for what turns out to take longer than a moment."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from time import monotonic
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress

PATIENCE_SECONDS = 1.0
Item = TypeVar("Item")


def patiently(items: Iterable[Item], what: str, total: int) -> Iterator[Item]:
    """Pass items on; if that takes longer than a moment, with a bar on stderr that says ``what`` is done."""
    started = monotonic()
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        job = None
        for done, item in enumerate(items, 1):
            if job is None and monotonic() - started > PATIENCE_SECONDS:
                job = bar.add_task(what, total=total)
            if job is not None:
                bar.update(job, completed=done)
            yield item
