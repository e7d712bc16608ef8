"""Whether a dialect can say an answer: the first thing that would be lost, with its place in the reader's text."""

from __future__ import annotations

from dataclasses import dataclass

from pastalm.lang.answer import Answer, Block, Node, Sync
from pastalm.lang.dialects.abilities import Abilities, ConversionError, JoinStyle, place, short


def require_sayable(answer: Answer, title: str, abilities: Abilities) -> None:
    """Raise :class:`ConversionError` for the first thing in ``answer`` that a dialect of these abilities cannot say."""
    _Check(title, abilities, answer.plain).thread(answer.nodes, 0, None)


@dataclass
class _Check:
    title: str
    can: Abilities
    plain: str
    offset: int = 0  # how much of the reader's text has been passed

    def thread(self, nodes: tuple[Node, ...], depth: int, inside: str | None) -> None:
        """The nodes of the main thread, or of the block ``inside``."""
        topic: str | None = None  # of the last block that no sync has followed yet
        for index, node in enumerate(nodes):
            rest = nodes[index + 1 :]
            if isinstance(node, Block):
                self._block(node, depth, inside)
                topic = node.topic
            elif isinstance(node, Sync):
                self._sync(topic, rest)
                topic = None
            else:
                self._text(node, topic, rest)

    def _lost(self, message: str) -> ConversionError:
        return ConversionError(f"{message} (at {place(self.plain, self.offset)} of the plain text).")

    def _block(self, block: Block, depth: int, inside: str | None) -> None:
        if depth >= self.can.depth:
            deep = "has no nested chunks" if self.can.depth == 1 else f"nests at most {self.can.depth} chunks"
            raise self._lost(f"{self.title} {deep}: {short(block.topic)} stands inside {short(inside or '')}")
        self._length(block)
        self._no_tags(block.topic, "topic")
        self.thread(block.body, depth + 1, block.topic)

    def _length(self, block: Block) -> None:
        topic, tokens = short(block.topic), block.tokens
        if self.can.lengths and tokens is None:
            raise self._lost(f"{self.title} needs the length of each chunk, and {topic} has none: measure the answer")
        if tokens is not None and not self.can.lengths:
            raise self._lost(f"{self.title} has no length hints: tokens={tokens} of the chunk {topic} would be lost")
        if tokens is not None and not 1 <= tokens <= self.can.lengths:
            limit = f"{self.title} writes lengths from 1 to {self.can.lengths}"
            raise self._lost(f"{limit}: tokens={tokens} of the chunk {topic} cannot be said")

    def _sync(self, topic: str | None, rest: tuple[Node, ...]) -> None:
        if self.can.join is JoinStyle.NONE:
            after = "" if topic is None else f" after the chunk {short(topic)}"
            raise self._lost(f"{self.title} has no join: the sync{after} would be lost")
        if topic is None and self.can.join is JoinStyle.IMPLIED:
            raise self._lost(f"{self.title} joins only after chunks: this sync has none to wait for and would be lost")
        if not self.can.last_sync and all(isinstance(node, str) and not node.strip() for node in rest):
            raise self._lost(f"{self.title} has no sync that nothing follows: it would be lost; remove it")

    def _text(self, text: str, topic: str | None, rest: tuple[Node, ...]) -> None:
        self._no_tags(text, "text")
        if topic is not None and text.strip():
            following = next((node for node in rest if not isinstance(node, str)), None)
            if isinstance(following, Block) and not self.can.between:
                raise self._lost(f"{self.title} has no text between the chunks of a group: {short(text)} would move")
            if not isinstance(following, Block) and not self.can.unjoined:
                raise self._lost(self._unjoined(text, topic))
        self.offset += len(text)

    def _unjoined(self, text: str, topic: str) -> str:
        if self.can.join is JoinStyle.NONE:
            return f"{self.title} has no text after its chunks: {short(text)} would be lost"
        said = f"{short(text)}, written without waiting for the chunk {short(topic)}, would wait for it"
        return f"{self.title} joins right after a group: {said}"

    def _no_tags(self, text: str, kind: str) -> None:
        for tag in self.can.tags:
            if tag in text:
                raise self._lost(f"the {kind} {short(text)} contains {tag!r}, which is a tag of {self.title}")
