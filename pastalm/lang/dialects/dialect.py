"""What a dialect is: another project's way to write a parallel answer, read into an answer and written from one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from pastalm.lang.answer import Answer, Block, Node, merge_text
from pastalm.lang.dialects.abilities import Abilities, ConversionError, place
from pastalm.lang.dialects.sayable import require_sayable


@dataclass(frozen=True)
class Dialect:
    """One way to write a parallel answer. ``name`` is that of the command line, ``title`` the project's own.

    ``reader`` and ``writer`` know the grammar only; :meth:`read` and :meth:`write` add what holds for all dialects.
    ``retitle`` gives an answer the topics that the dialect can say, for dialects whose tags have none.
    """

    name: str
    title: str
    abilities: Abilities
    reader: Callable[[str], Answer]
    writer: Callable[[Answer], str]
    retitle: Callable[[Answer], Answer] | None = None

    def read(self, text: str) -> Answer:
        """The answer that ``text`` says. Raises :class:`ConversionError`, and nothing else, for what it cannot read."""
        return normal(self.reader(text))

    def write(self, answer: Answer) -> str:
        """The canonical text of ``answer``: :meth:`read` gives the same answer back.

        Raises :class:`ConversionError` for an answer that the dialect cannot say without losing something.
        """
        answer = normal(answer)
        require_sayable(answer, self.title, self.abilities)
        text = self.writer(answer)
        self._require_same(text, answer)
        return text

    def _require_same(self, text: str, answer: Answer) -> None:
        """Nothing is lost silently, whatever the texts hold: what was written is read again."""
        try:
            again = self.read(text)
        except ConversionError as error:
            raise ConversionError(f"{self.title} would not read this answer back: {error}") from error
        if again != answer:
            raise ConversionError(f"{self.title} would read another answer back: {difference(answer, again)}")


def normal(answer: Answer) -> Answer:
    """The same answer without empty texts, neighbouring texts joined, at every depth."""
    return Answer(_normal(answer.nodes))


def _normal(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    return merge_text([replace(node, body=_normal(node.body)) if isinstance(node, Block) else node for node in nodes])


def difference(wanted: Answer, found: Answer) -> str:
    """The first thing in which two answers differ, in words."""
    if wanted.plain != found.plain:
        pairs = enumerate(zip(wanted.plain, found.plain, strict=False))
        index = next((k for k, (a, b) in pairs if a != b), min(len(wanted.plain), len(found.plain)))
        ours, theirs = (repr(plain[index : index + 20]) for plain in (wanted.plain, found.plain))
        return f"at {place(wanted.plain, index)} of the plain text {ours} would become {theirs}."
    topics, others = ([block.topic for block in answer.blocks()] for answer in (wanted, found))
    if topics != others:
        return f"the chunks {topics} would become {others}."
    return "the limits of its chunks or its syncs would move; look for white space at their ends."
