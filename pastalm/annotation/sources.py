"""Answers to annotate: JSON lines, Parquet or a data set of the hub, in the shapes that are common."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

from pastalm.annotation.prompts import Message
from pastalm.files.lines import DataError, read_objects
from pastalm.lang.parse import scan
from pastalm.lang.tags import is_whole

_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bard": "assistant", "model": "assistant"}
_PROMPTS = ("prompt", "question", "instruction", "query")
_ANSWERS = ("answer", "response", "output", "completion")
_SYSTEMS = ("system", "system_prompt")
_ID_LENGTH = 16

SHAPES = (
    "'messages' (role, content), 'conversations' (from, value), or a prompt "
    f"({', '.join(_PROMPTS)}) with an answer ({', '.join(_ANSWERS)})"
)


class MissingPackageError(ValueError):
    """A package of the extra 'annotate' that is not installed."""


@dataclass(frozen=True)
class Item:
    """One answer to annotate. ``id`` is the record's own, or else a digest of its content, the same on every run.

    ``fault`` names why an item cannot be asked at all; empty for a good one.
    """

    id: str
    messages: tuple[Message, ...]
    answer: str
    fault: str = ""

    @property
    def asked(self) -> dict[str, Any]:
        """The prompt as data files have it: ``prompt`` for a user's single message, else ``messages``."""
        if len(self.messages) == 1 and self.messages[0]["role"] == "user":
            return {"prompt": self.messages[0]["content"]}
        return {"messages": list(self.messages)}


def require(package: str) -> Any:
    """Import a package of the extra 'annotate'; raises :class:`MissingPackageError` with what to install."""
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise MissingPackageError(
            f"Annotating needs the package {package!r}: install it with  pip install 'pastalm[annotate]'"
        ) from error


def read_items(source: str, *, split: str = "train", limit: int | None = None) -> Iterator[Item]:
    """The items of a ``.jsonl`` or ``.parquet`` file or of a data set id of the hub, which is streamed.

    A record of an unknown shape raises :class:`DataError` with its place. One of a known shape without an answer is
    an item with a ``fault``. Different contents under one id stay apart; ``limit`` takes the first records only.
    """
    contents: dict[str, str] = {}
    for place, row in islice(_rows(source, split), limit):
        item, content = _item(row, place), _digest(row)
        if contents.setdefault(item.id, content) != content:
            item = Item(f"{item.id}-{content}", item.messages, item.answer, item.fault)
        yield item


def count_items(source: str, *, limit: int | None = None) -> int | None:
    """How many records there are; ``None`` where that is not known before they are read, as on the hub."""
    path = Path(source)
    if not path.exists():
        return None
    if path.suffix == ".parquet":
        number = require("pyarrow.parquet").ParquetFile(path).metadata.num_rows
    else:
        with open(path, "rb") as lines:
            number = sum(1 for line in lines if line.strip())
    return number if limit is None else min(number, limit)


def _rows(source: str, split: str) -> Iterator[tuple[str, Any]]:
    path = Path(source)
    if path.suffix == ".parquet":
        return _parquet(path)
    if path.exists() or path.suffix in (".jsonl", ".json"):
        return read_objects(path)
    return _hub(source, split)


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    arrow = require("pyarrow")
    parquet = require("pyarrow.parquet")
    with open(path, "rb") as file:
        try:
            batches = parquet.ParquetFile(file).iter_batches(batch_size=256)
        except arrow.ArrowInvalid as error:
            raise DataError(f"{path} is not a Parquet file.") from error
        rows = (row for batch in batches for row in batch.to_pylist())
        yield from ((f"{path}, row {number}", row) for number, row in enumerate(rows, 1))


def _hub(name: str, split: str) -> Iterator[tuple[str, Any]]:
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise DataError(f"{name}: no such file, and not a data set id like Open-Orca/SlimOrca.")
    datasets = require("datasets")
    try:
        rows = datasets.load_dataset(name, split=split, streaming=True)
    except Exception as error:  # the library raises many kinds, most with pages of advice
        reason = str(error).strip().split("\n")[0]
        raise DataError(f"{name} is no file, and cannot be loaded as a data set of the hub: {reason}") from error
    yield from ((f"{name}, row {number}", row) for number, row in enumerate(rows, 1))


def _item(row: Any, place: str) -> Item:
    if not isinstance(row, dict):
        raise DataError(f"{place}: not an object; known are {SHAPES}.")
    messages, answer = _dialogue(row, place)
    given = row.get("id")
    name = str(given) if isinstance(given, str | int) and given != "" else _digest(row)
    return Item(name, tuple(messages), answer, _fault(messages, answer))


def _fault(messages: list[Message], answer: str) -> str:
    if not answer.strip():
        return "no answer"
    if not is_whole("".join([answer, *(message["content"] for message in messages)])):
        return "broken text"
    tree, problems = scan(answer)
    return "has tags" if problems or tree.nodes != (answer,) else ""


def _dialogue(row: dict[str, Any], place: str) -> tuple[list[Message], str]:
    """The messages before the answer, and the answer: the last turn of the assistant, or a field of its own."""
    prompt = next((row[name] for name in _PROMPTS if row.get(name) is not None), None)
    answer = next((row[name] for name in _ANSWERS if isinstance(row.get(name), str)), None)
    turns = row.get("messages") or row.get("conversations")
    if turns is None and isinstance(prompt, list):
        turns = prompt
    if turns is not None:
        return _split(_turns(turns, place), answer)
    if not isinstance(prompt, str) or answer is None:
        raise DataError(f"{place}: has the fields {', '.join(map(repr, row))}; known are {SHAPES}.")
    more = row.get("input")  # the context of an instruction, in data sets after Alpaca's example
    content = f"{prompt}\n\n{more}" if isinstance(more, str) and more.strip() else prompt
    system = next((row[name] for name in _SYSTEMS if isinstance(row.get(name), str) and row[name].strip()), None)
    before = [] if system is None else [{"role": "system", "content": system}]
    return [*before, {"role": "user", "content": content}], answer


def _turns(turns: Any, place: str) -> list[Message]:
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise DataError(f"{place}: the turns must be a list of objects; known are {SHAPES}.")
    found = []
    for number, turn in enumerate(turns, 1):
        role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        if not isinstance(role, str) or not isinstance(content, str):
            raise DataError(f"{place}, turn {number}: needs texts for role and content; known are {SHAPES}.")
        found.append({"role": _ROLES.get(role, role), "content": content})
    return found


def _split(turns: list[Message], answer: str | None) -> tuple[list[Message], str]:
    if answer is not None:
        return turns, answer
    last = next((index for index in reversed(range(len(turns))) if turns[index]["role"] == "assistant"), None)
    return (turns, "") if last is None else (turns[:last], turns[last]["content"])


def _digest(row: Iterable[Any]) -> str:
    """The same 16 characters for the same content, whatever the order of the fields."""
    return sha256(json.dumps(row, sort_keys=True, default=str).encode()).hexdigest()[:_ID_LENGTH]
