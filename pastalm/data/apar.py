"""APAR's data (arXiv 2401.06761): independent parts of plain answers, found by regular expressions, as PASTA-LANG.

The rules of its paper and of its published scripts:

- *List*: numbered items ``1. head: detail``, at least three. Number, head and colon stay in the main thread, each
  detail is forked. It runs to the next item, the last one to the end of its paragraph. The rule does not hold if a
  detail has under ten characters or an item without a head in it.
- *Paragraphs*, where the list rule does not hold: at least three, three of them with more than one sentence. The first
  sentence of each stays in the main thread, the others are forked. The rule does not hold if what stays of a paragraph
  has under twenty characters, or if the answer has ``Mr.``, ``Mrs.`` or ``Dr.``, whose full stops end no sentence.
- Answers with code, formulas, markup, rules or links do not fork at all.

Where PASTA-LANG is not APAR: the text stays as it is, byte for byte (white space around a detail is not changed); a
head stands on one line, its colon before white space, closing ``**`` beside it; a new count of numbers begins a new
list; any language. A promise needs what a ``[Fork]`` has not: its topic is the first three words of the line that it
stands in, as :mod:`pastalm.lang.dialects.apar` reads it, its length is measured. There is no ``<sync/>``, as APAR has
no join. In APAR the parent goes on at the next position: that is the position policy ``contiguous``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import cycle, islice, zip_longest
from typing import Any

from pastalm.data.records import Record
from pastalm.lang.answer import Answer, Block, Node, merge_text
from pastalm.lang.dialects.apar import retitle
from pastalm.lang.render import render_annotator

MIN_FORKS = 3
MIN_DETAIL = 10  # characters
MIN_OUTLINE = 20

_HEAD = r"[^\n]+?(?:：|:(?:\*\*)?(?=\s))"
_NUMBERED = re.compile(rf"^[ \t]*([0-9]+)\.[ \t]+{_HEAD}", re.MULTILINE)
_BULLETED = re.compile(rf"^[-*•]()[ \t]+{_HEAD}", re.MULTILINE)
_ITEM = re.compile(r"\n\s*[0-9]+\.\s")
_CONFUSING = re.compile(r"```|\$\$|[<>=]|---|http")
_PARAGRAPH = re.compile(r"(?:(?!\n\n).)+", re.DOTALL)
_SENTENCE = re.compile(r"\s*\S.*?(?:\.(?= )|。)", re.DOTALL)
_TITLE = re.compile(r"(?:mr|mrs|dr)\.", re.IGNORECASE)

TextSpan = tuple[int, int]  # start and end of a detail, in characters


def extract(text: str, *, bullets: bool = False) -> tuple[Answer, str]:
    """The answer with its details as blocks, and the rule that found them: "list", "paragraphs", or "" if none did.

    ``bullets`` reads bulleted lists by the list rule too, which APAR does not.
    """
    plain = Answer(merge_text([text]))
    if _CONFUSING.search(text):
        return plain, ""
    spans, rule = _list(text, _NUMBERED), "list"
    if not spans and bullets:
        spans = _list(text, _BULLETED)
    if not spans:
        spans, rule = _paragraphs(text), "paragraphs"
    return (retitle(Answer(_cut(text, spans))), rule) if spans else (plain, "")


def mark(records: Iterable[Record], counts: Counter[str], *, bullets: bool = False) -> Iterator[dict[str, Any]]:
    """The fields of each record once it is marked; those with a fault are left out. ``counts`` gets a rule or a fault
    for each."""
    for record in records:
        fault, text = record.fault, record.answer or ""
        if fault:
            counts[fault] += 1
            continue
        answer, rule = extract(text, bullets=bullets)
        counts[rule or "sequential"] += 1
        yield {"id": record.id, **record.asked, "annotated": render_annotator(answer), "answer": text, "rule": rule}


def evened(forked: list[Any], sequential: list[Any]) -> Iterator[Any]:
    """Both lists, the shorter one repeated to the length of the other, as APAR draws them half and half; all of the
    other if one is empty."""
    shorter, longer = sorted((forked, sequential), key=len)
    yield from longer
    yield from islice(cycle(shorter), len(longer))


def _list(text: str, pattern: re.Pattern[str]) -> list[TextSpan]:
    items = list(pattern.finditer(text))
    spans = [_detail(text, item, following) for item, following in zip_longest(items, items[1:])]
    details = [text[start:end] for start, end in spans]
    whole = all(len(detail) >= MIN_DETAIL and not _ITEM.search(detail) for detail in details)
    return spans if whole and len(spans) >= MIN_FORKS else []


def _detail(text: str, item: re.Match[str], following: re.Match[str] | None) -> TextSpan:
    """The detail of an item: to the next one of its list, or to the end of its paragraph."""
    start, empty = item.end(), text.find("\n\n", item.end())
    end = empty if empty >= 0 else len(text)
    if following and not item[1]:
        end = min(end, following.start())
    elif following and int(following[1]) == int(item[1]) + 1:
        end = following.start()
    return start, start + len(text[start:end].rstrip())


def _paragraphs(text: str) -> list[TextSpan]:
    if _TITLE.search(text):
        return []
    found = [part for part in _PARAGRAPH.finditer(text) if part[0].strip()]
    firsts = [_SENTENCE.match(part[0]) for part in found]
    spans, outlines = [], []
    for part, first in zip(found, firsts, strict=True):
        forks = first is not None and part[0][first.end() :].strip()
        outlines.append(first[0] if first and forks else part[0])
        if first and forks:
            spans.append((part.start() + first.end(), part.start() + len(part[0].rstrip())))
    clear = all(len(outline.strip()) >= MIN_OUTLINE for outline in outlines)
    return spans if clear and len(spans) >= MIN_FORKS else []


def _cut(text: str, spans: list[TextSpan]) -> tuple[Node, ...]:
    nodes: list[Node] = []
    done = 0
    for start, end in spans:
        nodes += [text[done:start], Block("", (text[start:end],))]
        done = end
    return merge_text([*nodes, text[done:]])
