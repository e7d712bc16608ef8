"""Words in the place of tokens, where no tokenizer is at hand: enough to count by."""

from __future__ import annotations

from pastalm.lang.tags import TAGS


class WordVocabulary:
    """Counts like a :class:`pastalm.lang.vocabulary.Vocabulary`, with words between white space as its tokens.

    Each tag is one token, as in a vocabulary; nothing ends an answer. Numbers are given to words as they come.
    """

    def __init__(self) -> None:
        self.tags = dict(enumerate(TAGS))
        self.promise_topic, self.promise_tokens, self.promise_end, self.async_start, self.async_end, self.sync = (
            self.tags
        )
        self.eos: frozenset[int] = frozenset()
        self.end: int | None = None
        self._numbers: dict[str, int] = {}

    def encode(self, text: str) -> list[int]:
        """A number for each word of ``text``; equal words have equal ones."""
        return [self._numbers.setdefault(word, len(TAGS) + len(self._numbers)) for word in text.split()]

    def encode_topic(self, topic: str) -> list[int]:
        """A number for each word of a topic."""
        return self.encode(topic)
