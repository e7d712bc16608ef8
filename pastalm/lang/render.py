"""From an :class:`Answer` back to text, in the full form or the annotator's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pastalm.lang.answer import Answer, Block, Node, Sync
from pastalm.lang.positions import PositionPolicy
from pastalm.lang.tags import ASYNC, ASYNC_END, LONGEST_PROMISE, SYNC, escape, is_topic, normal_topic, promise


def render(answer: Answer) -> str:
    """The canonical full form, which ``parse`` reads back. Raises ``ValueError`` for a block whose length has not been
    measured, or whose topic or length cannot be written."""
    return "".join(map(_full, answer.nodes))


def render_annotator(answer: Answer) -> str:
    """The annotator's form: ``<async topic='..'>`` without lengths. Raises ``ValueError`` for a topic that cannot be
    written."""
    return "".join(map(_annotator, answer.nodes))


def measure(answer: Answer, count: Callable[[str], int], policy: PositionPolicy) -> Answer:
    """Put in the ``tokens`` of each block, from the number of tokens that ``count`` gives for its text.

    A nested block counts with its tags and promise as they are written inside its parent, each tag one token, the
    topic and the number as ``count`` says.
    """
    return Answer(tuple(_measured(node, count, policy) for node in answer.nodes))


def _measured(node: Node, count: Callable[[str], int], policy: PositionPolicy) -> Node:
    if not isinstance(node, Block):
        return node
    body = tuple(_measured(part, count, policy) for part in node.body)
    return replace(node, body=body, tokens=policy.label(sum(_length(part, count) for part in body)))


def _length(node: Node, count: Callable[[str], int]) -> int:
    if isinstance(node, str):
        return count(node)
    if isinstance(node, Sync):
        return 1
    inside = sum(_length(part, count) for part in node.body)
    return 5 + count(node.topic) + count(str(node.tokens)) + inside


def _full(node: Node) -> str:
    if isinstance(node, str):
        return escape(node)
    if isinstance(node, Sync):
        return SYNC
    if node.tokens is None:
        raise ValueError(
            f"The block {node.topic!r} has no length yet: measure the answer before writing its full form."
        )
    if not 1 <= node.tokens <= LONGEST_PROMISE:
        raise ValueError(f"The block {node.topic!r} promises {node.tokens}; a promise is from 1 to {LONGEST_PROMISE}.")
    _require_topic(node.topic)
    return promise(node.topic, node.tokens) + ASYNC + "".join(map(_full, node.body)) + ASYNC_END


def _annotator(node: Node) -> str:
    if isinstance(node, str):
        return escape(node)
    if isinstance(node, Sync):
        return SYNC
    _require_topic(node.topic)
    quote = '"' if "'" in node.topic else "'"
    return f"<async topic={quote}{node.topic}{quote}>" + "".join(map(_annotator, node.body)) + ASYNC_END


def _require_topic(topic: str) -> None:
    if not is_topic(topic) or topic != normal_topic(topic):
        raise ValueError(
            f"The topic {topic!r} could not be read back: a topic is words with one space between them, without "
            "quotes, angle brackets and line breaks."
        )
