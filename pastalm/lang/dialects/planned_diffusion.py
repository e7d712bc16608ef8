"""Planned Diffusion: the promises of a group first, then its chunks in the same order; flat, with a written sync.

A chunk sees what stands before the first chunk of its group, so a promise must stand before all chunks of the group to
be seen by its own.
"""

from __future__ import annotations

import re

from pastalm.lang.answer import Answer, Block, Node, Sync
from pastalm.lang.dialects.abilities import Abilities, ConversionError, JoinStyle, short
from pastalm.lang.dialects.dialect import Dialect
from pastalm.lang.dialects.reader import TagReader

PROMISE, PROMISE_END = "<promise>-<topic>", "</topic>"
ASYNC, ASYNC_END, SYNC = "<async>", "</async>", "<sync/>"
PAD, END = "[PAD]", "<|im_end|>"
TAGS = (PROMISE, PROMISE_END, ASYNC, ASYNC_END, SYNC, PAD, END)
TITLE = "Planned Diffusion"

_PROMISED = re.compile(r"\s*([^0-9]*?)\s*([0-9]{1,2})\s*")


class _Reader:
    def __init__(self, text: str) -> None:
        self.pieces = TagReader(text, TAGS, TITLE)
        self.nodes: list[Node] = []
        self.promised: list[tuple[str, int]] = []  # promises whose chunks have not come yet

    def run(self) -> Answer:
        while (here := self.pieces.here) is not None and here.text != END:
            if not here.is_tag:
                self._text()
            elif here.text == PROMISE:
                self._promise()
            elif here.text == ASYNC:
                self._chunk()
            else:
                self._no_promises()
                self.pieces.expect(SYNC)
                self.nodes.append(Sync())
        self._no_promises()
        if self.pieces.at_tag(END):
            self.pieces.take()
            self.pieces.skip_space()
        if self.pieces.here is not None:
            raise self.pieces.error(f"nothing can follow {END}")
        return Answer(tuple(self.nodes))

    def _text(self) -> None:
        if self.promised and self.nodes and isinstance(self.nodes[-1], Block) and not self.pieces.at_space():
            raise self.pieces.error("only white space can stand between the chunks of a group")
        self.nodes.append(self.pieces.take())

    def _no_promises(self) -> None:
        if self.promised:
            raise self.pieces.error(f"the promise {self.promised[0][0]!r} must be kept by {ASYNC} before this")

    def _promise(self) -> None:
        self.pieces.take()
        found = _PROMISED.fullmatch(self.pieces.take_text())
        if found is None:
            raise self.pieces.error("a promise is a topic without digits, then its length, of one or two digits")
        self.promised.append((found[1], int(found[2])))
        self.pieces.expect(PROMISE_END)

    def _chunk(self) -> None:
        if not self.promised:
            raise self.pieces.error(f"{ASYNC} must keep a promise")
        self.pieces.take()
        texts = [self.pieces.take_text()]
        while self.pieces.at_tag(PAD):
            self.pieces.take()
            texts.append(self.pieces.take_text())
        self.pieces.expect(ASYNC_END)
        topic, tokens = self.promised.pop(0)
        self.nodes.append(Block(topic, ("".join(texts),), tokens))


def _write(answer: Answer) -> str:
    written, waiting = [], 0  # blocks of this group whose promise has been written
    for index, node in enumerate(answer.nodes):
        if isinstance(node, str):
            written.append(node)
        elif isinstance(node, Sync):
            written.append(SYNC)
        else:
            if not waiting:
                group = _group(answer.nodes[index:])
                written += map(_promise, group)
                waiting = len(group)
            written.append(ASYNC + "".join(map(str, node.body)) + ASYNC_END)
            waiting -= 1
    return "".join(written)


def _group(nodes: tuple[Node, ...]) -> list[Block]:
    """The blocks up to the next sync."""
    end = next((index for index, node in enumerate(nodes) if isinstance(node, Sync)), len(nodes))
    return [node for node in nodes[:end] if isinstance(node, Block)]


def _promise(block: Block) -> str:
    if re.search("[0-9]", block.topic):
        raise ConversionError(
            f"{TITLE} reads the first number of a promise as its length: the topic {short(block.topic)} must have none."
        )
    return f"{PROMISE}{block.topic} {block.tokens}{PROMISE_END}"


PLANNED_DIFFUSION = Dialect(
    "planned-diffusion",
    TITLE,
    Abilities(JoinStyle.WRITTEN, between=False, unjoined=True, last_sync=True, depth=1, lengths=99, tags=TAGS),
    lambda text: _Reader(text).run(),
    _write,
)
