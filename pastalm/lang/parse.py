"""From annotated text to an :class:`Answer`; every problem with its line, column and what to do."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from pastalm.lang.answer import Answer, Block, Node, Sync, merge_text
from pastalm.lang.tags import is_topic, normal_topic, unescape

_TAG = re.compile(r"</?(?:promise|async|sync)(?![\w-])(?:\"[^\"]*\"|'[^']*'|[^<>\"'])*>?")
_ATTRIBUTE = re.compile(r"""\s*([\w-]+)\s*=\s*("[^"]*"|'[^']*'|[^\s"'/>]+)""")
_LENGTH = re.compile(r"(?=[0-9]{1,4}$)0*[1-9][0-9]*")
_HEAD = re.compile(r"<(/?)(promise|async|sync)")


@dataclass(frozen=True)
class Problem:
    """What is wrong at one place of a text; ``line`` and ``column`` count from 1."""

    message: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}: {self.message}"


class AnnotationError(ValueError):
    """An annotated text that cannot be read; ``problems`` lists all that is wrong with it."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


def parse(text: str, *, max_depth: int = 1) -> Answer:
    """Read an annotated answer, in the full form (a promise before each ``<async>``) or the annotator's
    (``<async topic='..'>``). Attributes may be quoted either way and stand in any order. Text that spells a tag is
    escaped, as :func:`pastalm.lang.tags.escape` says.

    Raises :class:`AnnotationError` naming every problem. ``max_depth`` is how deep blocks may nest; 1 is flat.
    """
    answer, problems = scan(text, max_depth=max_depth)
    if problems:
        raise AnnotationError(problems)
    return answer


def scan(text: str, *, max_depth: int = 1) -> tuple[Answer, list[Problem]]:
    """Like :func:`parse`, but returns the problems beside what could be read, for tools that report them all."""
    return _Parser(text, max_depth).run()


@dataclass
class _Open:
    """A block that has been opened and not closed yet; the root has no promise."""

    offset: int = 0
    topic: str = ""
    tokens: int | None = None
    nodes: list[Node] = field(default_factory=list)


class _Parser:
    def __init__(self, text: str, max_depth: int) -> None:
        self.text, self.max_depth = text, max_depth
        self.problems: list[Problem] = []
        self.stack = [_Open()]
        self.promise: _Open | None = None  # a promise whose <async> has not come yet

    def run(self) -> tuple[Answer, list[Problem]]:
        end = 0
        for tag in _TAG.finditer(self.text):
            self._text(self.text[end : tag.start()])
            self._tag(tag.group(), tag.start())
            end = tag.end()
        self._text(self.text[end:])
        self._no_promise()
        while len(self.stack) > 1:
            self._problem("this <async> is never closed: add </async> where the chunk ends.", self.stack[-1].offset)
            self._close()
        return Answer(merge_text(self.stack[0].nodes)), self.problems

    def _problem(self, message: str, offset: int) -> None:
        line_start = self.text.rfind("\n", 0, offset) + 1
        self.problems.append(Problem(message, self.text.count("\n", 0, offset) + 1, offset - line_start + 1))

    def _text(self, text: str) -> None:
        if text:
            self._no_promise()
            self.stack[-1].nodes.append(unescape(text))

    def _no_promise(self) -> None:
        if self.promise is not None:
            self._problem("this promise is not kept: <async>..</async> must follow it at once.", self.promise.offset)
            self.promise = None

    def _tag(self, tag: str, offset: int) -> None:
        slash, name = _HEAD.match(tag).groups()  # type: ignore[union-attr]
        if not tag.endswith(">"):
            self._problem(f"this <{slash}{name} tag has no closing '>'.", offset)
        elif slash:
            self._closing(name, tag, offset)
        elif name == "promise":
            self._no_promise()
            self.promise = self._read_promise(tag, offset)
        elif name == "async":
            self._opening(tag, offset)
        else:
            self._sync(tag, offset)

    def _attributes(self, tag: str, name: str, allowed: tuple[str, ...], offset: int, empty: bool) -> dict[str, str]:
        body = tag[1 + len(name) : -1].rstrip()
        if body.endswith("/") != empty:
            wanted = f"<{name} .. />" if empty else f"<{name}>"
            self._problem(f"<{name}> is written {wanted}.", offset)
        body, found, at = body.removesuffix("/").rstrip(), {}, 0
        while match := _ATTRIBUTE.match(body, at):
            if match[1] in found or match[1] not in allowed:
                again = "is given twice" if match[1] in found else "is not known here"
                self._problem(f"the attribute {match[1]!r} of <{name}> {again}.", offset)
            found[match[1]], at = _unquoted(match[2]), match.end()
        if body[at:].strip():
            self._problem(f"cannot read {body[at:].strip()!r} in <{name}>; attributes are written name=value.", offset)
        return found

    def _read_promise(self, tag: str, offset: int) -> _Open:
        attributes = self._attributes(tag, "promise", ("topic", "tokens"), offset, empty=True)
        topic = self._topic(attributes, "promise", offset)
        tokens = attributes.get("tokens", "")
        if not _LENGTH.fullmatch(tokens):
            self._problem("a promise needs tokens=N, a whole number from 1 to 9999: the length in tens.", offset)
            tokens = "1"
        return _Open(offset, topic, int(tokens))

    def _topic(self, attributes: dict[str, str], name: str, offset: int) -> str:
        topic = attributes.get("topic", "").strip()
        if not topic:
            self._problem(f'<{name}> needs topic="..": say in one to three words what the chunk is about.', offset)
        elif not is_topic(topic):
            self._problem("a topic cannot contain quotes, angle brackets or line breaks.", offset)
        return normal_topic(topic)

    def _opening(self, tag: str, offset: int) -> None:
        attributes = self._attributes(tag, "async", ("topic",), offset, empty=False)
        block, self.promise = self.promise, None
        if block is None:
            block = _Open(offset, self._topic(attributes, "async", offset))
        elif attributes:
            self._problem("an <async> after a promise carries no attributes: the promise has them.", offset)
        if len(self.stack) > self.max_depth:
            deep = "blocks cannot nest" if self.max_depth == 1 else f"blocks nest at most {self.max_depth} deep"
            self._problem(f"{deep}: close the <async> before this one first.", offset)
        self.stack.append(_Open(offset, block.topic, block.tokens))

    def _closing(self, name: str, tag: str, offset: int) -> None:
        self._no_promise()
        if name != "async" or tag[2 + len(name) : -1].strip():
            self._problem(f"{tag} is not a tag of the language; only </async> closes anything.", offset)
        elif len(self.stack) == 1:
            self._problem("this </async> closes nothing: remove it or open the chunk before it.", offset)
        else:
            self._close()

    def _close(self) -> None:
        block = self.stack.pop()
        self.stack[-1].nodes.append(Block(block.topic, merge_text(block.nodes), block.tokens))

    def _sync(self, tag: str, offset: int) -> None:
        self._no_promise()
        self._attributes(tag, "sync", (), offset, empty=True)
        if len(self.stack) > self.max_depth:
            self._problem("<sync/> stands inside a chunk that can have no chunks of its own; put it outside.", offset)
        else:
            self.stack[-1].nodes.append(Sync())


def _unquoted(value: str) -> str:
    return value[1:-1] if value[0] in "\"'" else value
