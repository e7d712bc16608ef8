"""What a conversion may lose on request, each with a count of what was lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pastalm.lang.answer import Answer, Block, Node
from pastalm.lang.dialects.dialect import Dialect
from pastalm.lang.dialects.pasta import NOT_IN_TOPICS
from pastalm.lang.tags import MAX_TOPIC_WORDS


def shorten_topics(answer: Answer) -> tuple[Answer, int]:
    """Make all topics PASTA's: quotes, angle brackets and line breaks become spaces, the first three words stay.

    Returns the answer and how many topics were changed. A topic of which nothing is left becomes ``part``.
    """
    return _changed(answer, lambda block: replace(block, topic=_shortened(block.topic)))


def drop_lengths(answer: Answer) -> tuple[Answer, int]:
    """Take all length hints away; returns the answer and how many there were."""
    return _changed(answer, lambda block: replace(block, tokens=None))


def drop_topics(answer: Answer, dialect: Dialect) -> tuple[Answer, int]:
    """Replace all topics by those that ``dialect`` reads into a text without any; returns how many were lost.

    A dialect that writes topics changes nothing.
    """
    if dialect.retitle is None:
        return answer, 0
    changed = dialect.retitle(answer)
    pairs = zip(answer.blocks(), changed.blocks(), strict=True)
    return changed, sum(ours.topic != theirs.topic for ours, theirs in pairs)


def _shortened(topic: str) -> str:
    clean = topic.translate(dict.fromkeys(map(ord, NOT_IN_TOPICS), " "))
    return " ".join(clean.split()[:MAX_TOPIC_WORDS]) or "part"


def _changed(answer: Answer, change: Callable[[Block], Block]) -> tuple[Answer, int]:
    count = 0

    def walk(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
        nonlocal count
        walked: list[Node] = []
        for node in nodes:
            if isinstance(node, Block):
                changed = change(node)
                count += changed != node
                node = replace(changed, body=walk(node.body))
            walked.append(node)
        return tuple(walked)

    return Answer(walk(answer.nodes)), count
