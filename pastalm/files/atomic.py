"""Files and folders that take their name when they are complete: a kill or a full disk leaves no half of one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from pastalm.lang.tags import as_whole


@contextmanager
def writing(path: str | Path) -> Iterator[TextIO]:
    """A UTF-8 text file to write to, line breaks as given, which becomes ``path`` when the block ends without an error.

    What ``path`` held before stays until then. A pipe or a device is written directly. Raises ``OSError`` that names
    ``path``.
    """
    place = Path(os.path.realpath(path))  # a link stays a link
    direct = place.exists() and not place.is_file()
    part = place if direct else place.with_name(f".{place.name}.{os.getpid()}.part")
    try:
        with open(part, "w", encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            if not direct:
                os.fsync(file.fileno())
        if not direct:
            part.replace(place)
    except OSError as error:
        raise _named(error, part, path) from error
    finally:
        if not direct:
            part.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` as the whole of ``path``. Raises ``OSError`` that names ``path``."""
    with writing(path) as file:
        file.write(text)


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as JSON with indents. Raises ``OSError`` that names ``path``."""
    write_text(path, as_whole(json.dumps(value, ensure_ascii=False, indent=2)) + "\n")


@contextmanager
def new_folder(place: Path, *, leads: bool = True) -> Iterator[Path]:
    """A folder to fill, which becomes ``place`` when the block ends without an error.

    What a kill left of an earlier try is removed first. Of several processes that fill one folder together, one
    ``leads``: it removes and renames.
    """
    part = place.with_name(f".{place.name}.part")
    if leads:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    yield part
    if leads:
        part.rename(place)


def _named(error: OSError, part: Path, path: str | Path) -> OSError:
    """The error with the name that the user gave, where it has none or the name of the part."""
    if error.errno is None or error.filename not in (None, str(part)):
        return error
    return type(error)(error.errno, error.strerror, str(path))
