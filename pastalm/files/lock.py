"""Locks that keep a second run away from a file or a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pastalm.files.lines import DataError


def lock(file: Any, taken: str) -> None:
    """Lock an open file; the system lets go when this process ends, however it ends. Raises ``DataError`` with the
    sentence ``taken`` if another holds it."""
    try:
        import fcntl
    except ImportError:  # Windows has none; there the guard is left out
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise DataError(taken) from error


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock file ``path``, which stands for its folder. Raises ``DataError`` if another run holds it."""
    with open(path, "ab") as file:
        lock(file, f"{path.parent} is in use by another run; wait for it, or choose another --out.")
        yield
