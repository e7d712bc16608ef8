"""Validation of annotated answers: every problem with its place and what to do (the rules of docs/data.md)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pastalm.data.records import Record, annotation_problems, understand
from pastalm.files.lines import DataError
from pastalm.files.rows import Row, read_rows
from pastalm.lang.answer import Answer, Block, Node
from pastalm.lang.parse import scan
from pastalm.lang.tags import MAX_TOPIC_WORDS

MIN_WORDS = 5

# Good for texts that `scan` has found nothing wrong with; elsewhere the places that it gives are not used.
TAG = re.compile(r"</?(?:promise|async|sync)(?![\w-])[^<>]*>")
BLOCK = re.compile(r"(?:<promise(?![\w-])[^<>]*>)?<async(?![\w-])")
SYNC = re.compile(r"<sync(?![\w-])")


@dataclass(frozen=True)
class Finding:
    """One problem. ``line`` counts the file's lines from 1, or what ``unit`` names instead; 0 is the file itself.
    ``within`` is line and column in its annotated text, from 1; ``source`` the file of a data set of several."""

    line: int
    message: str
    within: tuple[int, int] | None = None
    unit: str = "line"
    source: str = field(default="", compare=False)

    def place(self, data: str | Path) -> str:
        """Where it is in the data set ``data``, in words."""
        file = self.source or data
        if not self.line:
            return str(file)
        if self.within is None:
            return f"{file}, {self.unit} {self.line}"
        return f"{file}, {self.unit} {self.line}, in 'annotated' line {self.within[0]}, column {self.within[1]}"


@dataclass(frozen=True)
class Flaw:
    """One problem of an annotated text; ``kind`` names the rule in two words, line and column count from 1."""

    kind: str
    message: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}: {self.message}"


@dataclass(frozen=True)
class CheckedRecord:
    """A record, the number and the text of its line, and what is wrong with it; ``index`` is its place in the set, from
    0, as lines count anew in each file."""

    number: int
    findings: tuple[Finding, ...]
    text: str = ""
    record: Record = field(default_factory=lambda: Record(()))
    index: int = 0


def check_file(source: str | Path, *, max_depth: int = 1) -> Iterator[CheckedRecord]:
    """Check each record of a source (:func:`pastalm.files.rows.read_rows`).

    Raises ``OSError`` for a file that cannot be opened, :class:`DataError` for one that is unreadable or holds no text.
    """
    empty = unread = True
    for index, row in enumerate(read_rows(source)):
        empty, unread = False, unread and row.problem.startswith("not UTF-8")
        record, problems = understand(row)
        findings = [_finding(row, problem) for problem in problems]
        if not row.problem:
            findings += _findings(row, record, max_depth)
        yield CheckedRecord(row.number, tuple(findings), row.text, record, index)
    if empty or unread:
        wrong = "is empty" if empty else "holds no UTF-8 text; save it as UTF-8"
        raise DataError(f"{source} {wrong}: it needs one JSON object a line.")


def read_sound(source: str | Path, *, max_depth: int = 1) -> list[CheckedRecord]:
    """All records of a source. Raises :class:`DataError` for the first problem that `pasta check` would show, and as
    :func:`check_file`."""
    checked = []
    for one in check_file(source, max_depth=max_depth):
        for finding in one.findings:
            raise DataError(f"{finding.place(source)}: {finding.message} `pasta check` lists all such problems.")
        checked.append(one)
    return checked


def _findings(row: Row, record: Record, max_depth: int) -> Iterator[Finding]:
    """What is wrong with a record beyond its shape."""
    yield from (_finding(row, problem) for problem in annotation_problems(record))
    if record.annotated is not None:
        for flaw in flaws(record.annotated, record.answer, max_depth=max_depth):
            yield _finding(row, flaw.message, (flaw.line, flaw.column))


def _finding(row: Row, message: str, within: tuple[int, int] | None = None) -> Finding:
    return Finding(row.number, message, within, row.unit, row.source)


def place(text: str, offset: int) -> tuple[int, int]:
    """Line and column of an offset, from 1."""
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)


def flaws(annotated: str, answer: Any, *, max_depth: int = 1) -> Iterator[Flaw]:
    """The problems of an annotated text; ``answer`` is its text without tags, where that is known (a ``str``)."""
    tree, problems = scan(annotated, max_depth=max_depth)
    yield from (Flaw("bad tags", problem.message, problem.line, problem.column) for problem in problems)
    if problems:
        return  # what else there is to say has no certain place until these are put right
    for kind, message, offset in _rules(annotated, tree, answer):
        yield Flaw(kind, message, *place(annotated, offset))


def _rules(annotated: str, tree: Answer, answer: Any) -> Iterator[tuple[str, str, int]]:
    """Each rule that a text with sound tags breaks: its kind, what to say, the offset."""
    openings = [match.start() for match in BLOCK.finditer(annotated)]
    for block, offset in zip(tree.blocks(), openings, strict=True):
        yield from ((kind, message, offset) for kind, message in _block(block))
    syncs = [match.start() for match in SYNC.finditer(annotated)]
    for needed, offset in zip(syncs_needed(tree.nodes), syncs, strict=True):
        if not needed:
            yield "idle sync", "this <sync/> has no chunk to wait for since the one before; remove it.", offset
    if isinstance(answer, str):
        yield from (("text changed", message, offset) for message, offset in _text(annotated, tree, answer))


def _block(block: Block) -> Iterator[tuple[str, str]]:
    words = len(block.topic.split())
    if words > MAX_TOPIC_WORDS:
        yield "long topic", f"the topic {block.topic!r} has {words} words; use at most {MAX_TOPIC_WORDS}."
    words = len(block.plain.split())
    if words < MIN_WORDS:
        size = f"{words} word{'' if words == 1 else 's'}"
        yield "short chunk", f"the chunk {block.topic!r} has {size}; mark only chunks of at least {MIN_WORDS}."


def syncs_needed(nodes: tuple[Node, ...]) -> Iterator[bool]:
    """For each sync in document order, whether chunks of its thread are open before it."""
    open_blocks = 0
    for node in nodes:
        if isinstance(node, Block):
            open_blocks += 1
            yield from syncs_needed(node.body)
        elif not isinstance(node, str):
            yield open_blocks > 0
            open_blocks = 0


def _text(annotated: str, tree: Answer, answer: str) -> Iterator[tuple[str, int]]:
    plain = tree.plain
    if plain == answer:
        return
    pairs = enumerate(zip(plain, answer, strict=False))
    index = next((k for k, (ours, theirs) in pairs if ours != theirs), min(len(plain), len(answer)))
    ours, theirs = (repr(text[index : index + 20]) if text[index:] else "nothing" for text in (plain, answer))
    message = f"without tags the text differs from 'answer' from here on: {ours} here, {theirs} there; only add tags."
    yield message, _annotated_offset(annotated, index)


def _annotated_offset(annotated: str, index: int) -> int:
    """Where character ``index`` of the text without tags stands in the annotated text."""
    for tag in TAG.finditer(annotated):
        if tag.start() > index:
            break
        index += tag.end() - tag.start()
    return index
