"""Plain answers marked by their plain structure: what a model would have written by itself, with marks that are sure.

Three structures are read, the first that an answer has:

- *Headings*: two or more, Markdown's or bold lines, each with text under it; the text under each is a chunk.
- *Lists*: two or more items, numbered ones with a head (``1. **Head**: detail``) or bulleted ones; each item is a
  chunk, while its number or bullet stays in the main line, where the whole list is in view.
- *Paragraphs*: two or more that begin with a bold head, or with First, Second, ..; each is a chunk but for that word.

A topic is the head's first three words that carry meaning, or the chunk's. Text after the chunks that refers back
("these", "overall", "both", ..) reads them, so a ``<sync/>`` stands before it. An answer whose items lean on one
another ("Then", "Next", ..), or that has steps, code or formulas, is left unmarked; so is any that `pasta check` would
find fault with.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from pastalm.data.check import flaws
from pastalm.lang.answer import Answer, Block, Node, Sync, merge_text
from pastalm.lang.metrics import ends_in_a_loop
from pastalm.lang.parse import scan
from pastalm.lang.render import render_annotator
from pastalm.lang.tags import MAX_TOPIC_WORDS

MIN_PARTS = 2
MIN_WORDS = 8  # of a chunk: a promise costs the main thread about as many steps
MIN_BARE_WORDS = 12  # of an item without a head, whose topic says less
LONG_SENTENCE = 6  # words of a sentence that no good answer says twice
RULES = ("headings", "lists", "paragraphs")

_NUMBER = re.compile(r"(\d{1,2})([.)])[ \t]+(?=\S)")
_BULLET = re.compile(r"()([-*•–])[ \t]+(?=\S)")
_HEADING = re.compile(r"^(?:#{1,6}[ \t]+(.+?)|\*\*([^*\n]+)\*\*:?)[ \t]*$", re.MULTILINE)
_HEAD = re.compile(r"(?:\*\*([^*\n]{2,60}?):?\*\*:?|([^:.!?\n]{2,60}):)(?=\s|$)")
_ORDINAL = re.compile(
    r"(?:first|second|third|fourth|fifth|sixth)(?:ly)?(?: of all)?,[ \t]+|(?:finally|lastly),[ \t]+", re.IGNORECASE
)
_FIRST = re.compile(r"(?:^|\n)\s*first(?:ly)?(?: of all)?,\s*\Z", re.IGNORECASE)
_PARAGRAPH = re.compile(r"(?:(?!\n[ \t]*\n).)+", re.DOTALL)
_SENTENCE = re.compile(r"[^.!?\n]+")
_CONFUSING = re.compile(r"```|\$\$|\\\(|<[a-z/]|\|[ -]*\|")
_LEANS = re.compile(
    r"[\W_]*(?:then|next|after|afterwards|once|finally|lastly|now|also|therefore|thus|so|repeat|continue|meanwhile|"
    r"step \d)\b",
    re.IGNORECASE,
)
_REFERS = re.compile(
    r"\b(?:these|those|this|both|above|together|overall|ultimately|all of|each of|any of|either of|such|"
    r"in (?:conclusion|summary|short|the end)|to sum up|as you can see|whichever|remember)\b",
    re.IGNORECASE,
)
_STEPS = re.compile(r"\W*(?:instructions?|directions?|steps?|methods?|procedures?|preparation|how to)\b", re.IGNORECASE)
_BOLD = re.compile(r"\*\*([^*\n]{2,60}?):?\*\*:?(?=\s)")
_CONCLUSION = re.compile(r"\W*(?:conclusions?|summary|in summary|final thoughts?|takeaways?|overall)\b", re.IGNORECASE)
_WORD = re.compile(r"[^\W_][\w'’-]*")
_EMPTY_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an the and or of to in on at for with from by as is are be it its this that these those your you their they "
        "our we my i he she his her if when can will may should would could do does has have not no more most very "
        "some any",
    )
)


@dataclass(frozen=True)
class MarkedPart:
    """A chunk to be: where it stands in the text, in characters, and its topic."""

    start: int
    end: int
    topic: str


def mark(text: str) -> tuple[Answer, str]:
    """The answer with its parts as blocks, and the rule out of ``RULES`` that found them; "" and no block if none."""
    plain = Answer(merge_text([text]))
    if _CONFUSING.search(text) or any(_STEPS.match(head[1] or head[2]) for head in _HEADING.finditer(text)):
        return plain, ""
    for rule, find in zip(RULES, (_headings, _lists, _paragraphs), strict=True):
        parts = find(text)
        if len(parts) >= MIN_PARTS and len({part.topic for part in parts}) == len(parts):
            answer = Answer(_cut(text, parts))
            if not list(flaws(render_annotator(answer), text)):
                return answer, rule
    return plain, ""


def fault(text: str) -> str:
    """Why an answer that a model has drawn is no example, in a word or two; empty if it is one."""
    if not text.strip():
        return "empty"
    tree, problems = scan(text)
    if problems or tree.nodes != (text,):
        return "has tags"
    if ends_in_a_loop([hash(word) for word in text.split()]):
        return "circles"
    sentences = (" ".join(found[0].lower().split()) for found in _SENTENCE.finditer(text))
    said = Counter(sentence for sentence in sentences if len(sentence.split()) >= LONG_SENTENCE)
    heads = Counter(head for found in _HEAD.finditer(text) if (head := (found[1] or found[2]).strip().lower()))
    return "repeats" if any(number > 1 for number in (*said.values(), *heads.values())) else ""


def own_answers(samples: Iterable[dict[str, Any]], keep: int, counts: Counter[str]) -> Iterator[tuple[str, str, str]]:
    """The first ``keep`` good answers among ``samples`` to one prompt: plain, annotated, and the rule that marked it.

    A sample has ``text``, and ``finished`` if no limit cut it. ``counts`` gets a fault, a rule or "unmarked" for each.
    """
    kept: set[str] = set()
    for sample in samples:
        text = sample["text"]
        wrong = "cut" if not sample["finished"] else fault(text) or ("twice" if text in kept else "")
        if not wrong and len(kept) == keep:
            wrong = "not needed"
        if wrong:
            counts[wrong] += 1
            continue
        answer, rule = mark(text)
        kept.add(text)
        counts[rule or "unmarked"] += 1
        yield text, render_annotator(answer), rule


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Each line with its offset, without its line break."""
    place = 0
    for line in text.splitlines(keepends=True):
        yield place, line.rstrip("\r\n")
        place += len(line)


def _headings(text: str) -> list[MarkedPart]:
    heads = list(_HEADING.finditer(text))
    ends = [*(head.start() for head in heads[1:]), len(text)]
    parts = []
    for head, end in zip(heads, ends, strict=False):
        title = head[1] or head[2]
        body = _trimmed(text, head.end(), end)
        if body and not _CONCLUSION.match(title):
            parts.append(MarkedPart(*body, topic(title)))
    return parts if all(_long(text, part) for part in parts) else []


def _lists(text: str) -> list[MarkedPart]:
    numbered = [part for found in _runs(text, _NUMBER) for part in _items(text, found, headed=True)]
    if numbered:
        return numbered
    return [part for found in _runs(text, _BULLET) for part in _items(text, found, headed=False)]


def _runs(text: str, mark: re.Pattern[str]) -> Iterator[list[tuple[int, int]]]:
    """The lists of a text, each as the spans of its items without their marks."""
    run: list[tuple[int, int]] = []
    last, blank = None, False
    for place, line in _lines(text):
        found, end = mark.match(line), place + len(line.rstrip())
        if found:
            if last is not None and not _follows(last, found):
                yield run
                run = []
            run.append((place + found.end(), end))
            last = found
        elif run and line.strip():
            if blank and line[0] not in " \t" and not _is_head(text[slice(*run[-1])]):
                yield run
                run, last = [], None
            else:
                run[-1] = (run[-1][0], end)
        blank = not line.strip()
    if run:
        yield run


def _follows(before: re.Match[str], after: re.Match[str]) -> bool:
    same = before[2] == after[2]
    return same and (not after[1] or int(after[1]) == int(before[1]) + 1)


def _is_head(item: str) -> bool:
    """Whether an item so far is a head whose text stands in the next paragraph."""
    found = _HEAD.match(item)
    return found is not None and not item[found.end() :].strip()


def _items(text: str, run: Sequence[tuple[int, int]], *, headed: bool) -> list[MarkedPart]:
    """The items of a list as parts; none if they lean on one another or are too short."""
    if len(run) < MIN_PARTS:
        return []
    parts = []
    for number, (start, end) in enumerate(run):
        item = text[start:end]
        head = _HEAD.match(item)
        if (headed and not head) or (number and _LEANS.match(item)):
            return []
        part = MarkedPart(start, end, topic((head[1] or head[2]) if head else item))
        if len(item.split()) >= (MIN_WORDS if head else MIN_BARE_WORDS):
            parts.append(part)
    return parts if len(parts) >= MIN_PARTS else []


def _paragraphs(text: str) -> list[MarkedPart]:
    """Paragraphs with bold heads, or in the order that they say."""
    parts, begins = [], [span for found in _PARAGRAPH.finditer(text) if (span := _trimmed(text, *found.span()))]
    for start, end in begins:
        bold, ordinal = _BOLD.match(text, start), _ORDINAL.match(text, start)
        if bold:
            parts.append(MarkedPart(start, end, topic(bold[1])))
        elif ordinal:
            parts.append(MarkedPart(ordinal.end(), end, topic(text[ordinal.end() : end])))
    ordered = bool(parts) and _FIRST.search(text[: parts[0].start]) is not None
    headed = all(text.startswith("**", part.start) for part in parts)
    return parts if (ordered or headed) and all(_long(text, part) for part in parts) else []


def _trimmed(text: str, start: int, end: int) -> tuple[int, int] | None:
    """A span without white space around it; None if nothing else is in it."""
    body = text[start:end]
    start += len(body) - len(body.lstrip())
    return (start, start + len(body.strip())) if body.strip() else None


def _long(text: str, part: MarkedPart) -> bool:
    return len(text[part.start : part.end].split()) >= MIN_WORDS


def topic(text: str) -> str:
    """At most three words of a head, or of a text, that carry meaning; all of a short head."""
    words = [word.lower() for word in _WORD.findall(text[:200])]
    telling = [word for word in words if word not in _EMPTY_WORDS]
    return " ".join((telling or words or ["part"])[:MAX_TOPIC_WORDS])


def _cut(text: str, parts: Sequence[MarkedPart]) -> tuple[Node, ...]:
    """The text with its parts as blocks, and a sync before text between or behind them that refers back."""
    nodes: list[Node] = [text[: parts[0].start]]
    for part, following in pairwise((*parts, MarkedPart(len(text), len(text), ""))):
        between = text[part.end : following.start]
        nodes += [Block(part.topic, (text[part.start : part.end],)), *([Sync()] if _refers(between) else []), between]
    return merge_text(nodes)


def _refers(text: str) -> bool:
    prose = _HEADING.sub(lambda head: "overall." if _CONCLUSION.match(head[1] or head[2]) else "", text)
    return bool(_REFERS.search(prose))
