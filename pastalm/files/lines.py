"""Lines of JSON: what is wrong with one is said in one wording."""

from __future__ import annotations

import json
from typing import Any

from pastalm.lang.tags import is_whole

BOM = "\ufeff"


class DataError(ValueError):
    """A data file, or a record of one, that cannot be used: its place and what to do."""


def text_of(line: bytes) -> str:
    """The text of a line, without its line break. Raises ``DataError`` with a phrase of what it is instead."""
    try:
        return line.decode().removeprefix(BOM).rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise DataError("not UTF-8 text; save the file as UTF-8.") from error


def parse_json(text: str) -> Any:
    """The value that a text writes. Raises ``DataError`` with a sentence that has no place."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}, column {error.colno}"
        raise DataError(f"not JSON ({error.msg}, {where}); write one object a line.") from error
    except RecursionError as error:
        raise DataError("nested too deeply to be read; write one object a line.") from error
    except ValueError as error:
        raise DataError("a number in it has too many digits to be read; make it a string.") from error


def parse_object(text: str) -> dict[str, Any]:
    """The object that a text writes. Raises ``DataError`` with a sentence that has no place."""
    fields = parse_json(text)
    if not isinstance(fields, dict):
        raise DataError("not an object; write one object a line.")
    return fields


def json_line(fields: Any) -> str:
    """A value as one line of JSON: plain letters, or escapes where it holds half a surrogate pair, which UTF-8 cannot
    write."""
    line = json.dumps(fields, ensure_ascii=False, default=str)
    return line if line.isascii() or is_whole(line) else json.dumps(fields, default=str)
