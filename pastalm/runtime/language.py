"""How the tokens of an answer are read: as PASTA-LANG, or as plain text."""

from __future__ import annotations

from dataclasses import dataclass

from pastalm.lang.codec import TextCodec
from pastalm.lang.recogniser import PlainReader, Reader, Recogniser
from pastalm.lang.vocabulary import Vocabulary


@dataclass(frozen=True)
class Language:
    """``asynchronous`` reads PASTA-LANG, else every token is text. ``constrained`` enforces the grammar of tags, and
    ``unique_topics`` that no thread promises a topic twice, nor one that its parents had promised when it was forked.

    ``vocabulary`` may be None for a model without tags, which can only be read sequentially. ``eos`` are the tokens
    that end an answer.
    """

    codec: TextCodec
    eos: frozenset[int]
    vocabulary: Vocabulary | None
    asynchronous: bool
    constrained: bool
    unique_topics: bool = True

    @property
    def tags(self) -> dict[int, str]:
        """The tags by their tokens."""
        return self.vocabulary.tags if self.vocabulary else {}

    def reader(self, depth: int, max_depth: int, parent: Reader | None = None) -> Reader:
        """A reader for a thread ``depth`` blocks deep; ``parent`` is the reader of the thread that forks it now."""
        if not self.asynchronous or self.vocabulary is None:
            return PlainReader(self.eos, self.vocabulary)
        used = parent.used if parent else frozenset[str]() if self.unique_topics else None
        may_promise = depth < max_depth
        return Recogniser(
            self.vocabulary, main=depth == 0, may_promise=may_promise, constrained=self.constrained, used=used
        )
