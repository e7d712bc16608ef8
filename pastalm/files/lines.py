"""Files of JSON lines, read with one wording for what can be wrong with them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

BOM = "\ufeff"


class DataError(ValueError):
    """A data file, or a line of one, that cannot be used: its place and what to do."""


def read_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Number, from 1, and text of each line that is not blank. Raises ``OSError``, or ``DataError`` if not UTF-8."""
    with open(path, "rb") as file:
        yield from decoded(file, path)


def decoded(lines: Iterable[bytes], path: str | Path) -> Iterator[tuple[int, str]]:
    """The lines of ``path`` that are not blank, with their numbers. Raises ``DataError`` for one that is not UTF-8."""
    for number, line in enumerate(lines, 1):
        try:
            text = text_of(line)
        except DataError as error:
            raise DataError(f"{path}, line {number} is {error}") from error
        if text.strip():
            yield number, text


def text_of(line: bytes) -> str:
    """The text of a line, without its line break. Raises ``DataError`` with a phrase of what it is instead."""
    try:
        return line.decode().removeprefix(BOM).rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise DataError("not UTF-8 text; save the file as UTF-8.") from error


def read_objects(path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file of JSON lines, each with its place. Raises ``OSError`` or ``DataError`` with the place."""
    yield from objects(read_lines(path), path)


def objects(lines: Iterable[tuple[int, str]], path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of numbered lines of ``path``, each with its place. Raises ``DataError`` with the place."""
    for number, line in lines:
        place = f"{path}, line {number}"
        try:
            yield place, parse_object(line)
        except DataError as error:
            raise DataError(f"{place}: {error}") from error


def parse_object(line: str) -> dict[str, Any]:
    """The object of a line. Raises ``DataError`` with a sentence that has no place."""
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"not JSON ({error.msg}, column {error.colno}); write one object a line.") from error
    except RecursionError as error:
        raise DataError("nested too deeply to be read; write one object a line.") from error
    except ValueError as error:
        raise DataError("a number in it has too many digits to be read; make it a string.") from error
    if not isinstance(fields, dict):
        raise DataError("not an object; write one object a line.")
    return fields
