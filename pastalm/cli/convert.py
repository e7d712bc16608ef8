"""`pasta convert`: annotated answers from one dialect to another."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from pastalm.cli.errors import complain
from pastalm.cli.models import load_tokenizer
from pastalm.cli.options import STDOUT, Tokenizer, place_argument
from pastalm.files.atomic import write_text
from pastalm.files.rows import located, objects
from pastalm.lang.answer import Answer
from pastalm.lang.dialects import (
    DIALECTS,
    ConversionError,
    Dialect,
    dialect,
    drop_lengths,
    drop_topics,
    shorten_topics,
)
from pastalm.lang.positions import DEFAULT, position_policy
from pastalm.lang.render import measure
from pastalm.lang.vocabulary import Vocabulary

NAMES = ", ".join(DIALECTS)

_HALF = re.compile("[\ud800-\udfff]")


class ConvertError(ValueError):
    """A file that cannot be converted, with its place and what to do."""


class Loss(StrEnum):
    """What may be lost."""

    TOPICS = "topics"
    LENGTHS = "lengths"


def convert(
    source: Annotated[Path, place_argument("A text file with one answer, or a JSONL file or a data set.", "IN")],
    target: Annotated[Path, place_argument("Where to write the same in the other dialect; '-' is stdout.", "OUT")],
    from_: Annotated[str, typer.Option("--from", metavar="DIALECT", help=f"The dialect of IN: {NAMES}.")],
    to: Annotated[str, typer.Option(metavar="DIALECT", help="The dialect of OUT, one of the same.")],
    field: Annotated[
        str, typer.Option(metavar="NAME", help="The field of a JSONL file that holds the answer.")
    ] = "annotated",
    skip_lossy: Annotated[
        bool, typer.Option("--skip-lossy", help="Report and leave out lines that cannot be converted; else stop there.")
    ] = False,
    shorten: Annotated[
        bool, typer.Option("--shorten-topics", help="Cut topics to three words without quotes; says how many.")
    ] = False,
    drop: Annotated[
        list[Loss] | None, typer.Option(help="Let topics or lengths go where OUT has none; says how many. Repeatable.")
    ] = None,
    tokenizer: Tokenizer = None,
) -> None:
    """Convert annotated answers between dialects, exactly; what the other cannot say is an error that names it.

    With --tokenizer the lengths of all chunks are measured anew.
    """
    changes = Changes(
        shorten, frozenset(drop or ()), None if tokenizer is None else Vocabulary(load_tokenizer(tokenizer))
    )
    converter = Converter(dialect(from_), dialect(to), changes)
    if source.suffix == ".jsonl" or located(source)[0].is_dir():
        converted = "".join(_lines(source, field, converter, skip_lossy))
    else:
        converted = _whole(source, converter)
    if target == STDOUT:
        sys.stdout.write(converted)
    else:
        write_text(target, converted)
    typer.echo(converter.summary(), err=True)


@dataclass(frozen=True)
class Changes:
    """What the user lets a conversion change; ``vocabulary`` measures lengths."""

    shorten: bool
    drop: frozenset[Loss]
    vocabulary: Vocabulary | None


class Converter:
    """Converts answer by answer, and counts."""

    def __init__(self, source: Dialect, target: Dialect, changes: Changes) -> None:
        self.source, self.target, self.changes = source, target, changes
        self.converted = self.skipped = self.shortened = self.topics = self.lengths = 0

    def text(self, text: str) -> str:
        """One answer in the other dialect. Raises :class:`ConversionError`."""
        answer, counts = self._changed(self.source.read(text))
        written = self.target.write(answer)
        self.converted += 1
        self.shortened, self.topics, self.lengths = (
            total + count for total, count in zip((self.shortened, self.topics, self.lengths), counts, strict=True)
        )
        return written

    def _changed(self, answer: Answer) -> tuple[Answer, tuple[int, int, int]]:
        shortened = topics = lengths = 0
        if self.changes.shorten:
            answer, shortened = shorten_topics(answer)
        if Loss.TOPICS in self.changes.drop:
            answer, topics = drop_topics(answer, self.target)
        if not self.target.abilities.lengths and Loss.LENGTHS in self.changes.drop:
            answer, lengths = drop_lengths(answer)
        elif self.target.abilities.lengths and self.changes.vocabulary is not None:
            answer = _measured(answer, self.changes.vocabulary)
        return answer, (shortened, topics, lengths)

    def summary(self) -> str:
        """The counts in one line."""
        counted = [
            _count(self.skipped, "line", "skipped"),
            _count(self.shortened, "topic", "shortened"),
            _count(self.topics, "topic", "dropped"),
            _count(self.lengths, "length", "dropped"),
        ]
        return ", ".join([f"{self.converted} converted", *filter(None, counted)]) + "."


def _measured(answer: Answer, vocabulary: Vocabulary) -> Answer:
    try:
        return measure(answer, lambda text: len(vocabulary.encode(text)), position_policy(DEFAULT))
    except ValueError as error:
        raise ConversionError(f"The lengths cannot be measured: {error}") from error


def _count(number: int, noun: str, what: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'} {what}" if number else ""


def _read(source: Path) -> str:
    try:
        with open(source, encoding="utf-8-sig", newline="") as file:  # line ends are the answer's own
            return file.read()
    except UnicodeDecodeError as error:
        raise ConvertError(f"{source} is not UTF-8 text; save it as UTF-8.") from error


def _whole(source: Path, converter: Converter) -> str:
    """A file with one answer. Its last line break is the file's, not the answer's."""
    text = _read(source)
    end = "\n" if text.endswith("\n") else ""
    try:
        return converter.text(text.removesuffix("\n")) + end
    except ConversionError as error:
        raise ConvertError(f"{source}: {_advised(error)}") from error


def _lines(source: Path, field: str, converter: Converter, skip_lossy: bool) -> Iterator[str]:
    """The lines of a JSONL file with the answer converted and all other fields as they are."""
    for place, fields in objects(source):
        if not isinstance(fields.get(field), str):
            raise ConvertError(f"{place}: needs the text field {field!r}; --field names another.")
        try:
            fields[field] = converter.text(fields[field])
        except ConversionError as error:
            message = f"{place}: {_advised(error)}"
            if not skip_lossy:
                raise ConvertError(message) from error
            converter.skipped += 1
            complain(message)
        else:
            yield _line(fields)


def _line(fields: dict[str, Any]) -> str:
    """One line of JSON: plain letters, or escapes where JSON held half a character that UTF-8 cannot write."""
    line = json.dumps(fields, ensure_ascii=False) + "\n"
    return json.dumps(fields) + "\n" if _HALF.search(line) else line


def _advised(error: ConversionError) -> str:
    """The error with the flag that allows what it refuses, if there is one."""
    advice = {
        "has no length hints": "--drop lengths lets them go.",
        "has no topics": "--drop topics lets them go.",
        "needs the length": "--tokenizer measures them.",
    }
    said = str(error).replace("\n", "; ")
    return " ".join([said, *(flag for words, flag in advice.items() if words in said)])
