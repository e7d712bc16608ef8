"""APAR: a tree of threads that fork and never join, and that have neither topics nor lengths.

As one text: a thread with a mark at each fork, then the threads of its forks in order, each with its own after it.
"""

from __future__ import annotations

import re
from dataclasses import replace

from pastalm.lang.answer import Answer, Block, Node, merge_text
from pastalm.lang.dialects.abilities import DEEPEST, Abilities, ConversionError, JoinStyle, short
from pastalm.lang.dialects.dialect import Dialect
from pastalm.lang.dialects.reader import TagReader
from pastalm.lang.tags import MAX_TOPIC_WORDS

FORK, CHILD = "[Fork]", "[Child]"
ALIASES = {"[SplitMask]": FORK, "[SplitSop]": CHILD}  # as the project's data and vocabulary call them
TAGS = (FORK, CHILD, *ALIASES)
TITLE = "APAR"

_BULLET = re.compile(r"\s*(?:[0-9]+[.)]|[-*#]+)\s")
_WORD = re.compile(r"""[^\s"<>:;,.!?*()\[\]]+""")


def retitle(answer: Answer) -> Answer:
    """The answer with the topics that APAR's readers give: the first words of the line that the fork stands in."""
    return Answer(_retitled(answer.nodes))


def _retitled(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    titled: list[Node] = []
    count = 0
    for index, node in enumerate(nodes):
        if isinstance(node, Block):
            count += 1
            before = nodes[index - 1] if index else ""
            topic = _topic(before if isinstance(before, str) else "", count)
            node = replace(node, topic=topic, body=_retitled(node.body))
        titled.append(node)
    return tuple(titled)


def _topic(before: str, count: int) -> str:
    line = before.rstrip().rsplit("\n", 1)[-1]
    bullet = _BULLET.match(line)
    words = _WORD.findall(line[bullet.end() :] if bullet else line)
    return " ".join(words[:MAX_TOPIC_WORDS]) or f"part {count}"


def _read(text: str) -> Answer:
    for alias, tag in ALIASES.items():
        text = text.replace(alias, tag)
    pieces = TagReader(text, (FORK, CHILD), TITLE)
    nodes = _read_thread(pieces, 0)
    if pieces.here is not None:
        raise pieces.error(f"{CHILD} must have a {FORK} of its own")
    return retitle(Answer(nodes))


def _read_thread(pieces: TagReader, depth: int) -> tuple[Node, ...]:
    texts = [pieces.take_text()]
    while pieces.at_tag(FORK):
        if depth >= DEEPEST:
            raise pieces.error(f"forks nest at most {DEEPEST} deep")
        pieces.take()
        texts.append(pieces.take_text())
    nodes: list[Node] = [texts[0]]
    for text in texts[1:]:
        pieces.expect(CHILD)
        nodes += [Block("", _read_thread(pieces, depth + 1)), text]
    return merge_text(nodes)


def _write(answer: Answer) -> str:
    for ours, theirs in zip(answer.blocks(), retitle(answer).blocks(), strict=True):
        if ours.topic != theirs.topic:
            read = f"the text before the fork says {short(theirs.topic)}"
            raise ConversionError(f"{TITLE} has no topics: {short(ours.topic)} would be lost; {read}.")
    return _write_thread(answer.nodes)


def _write_thread(nodes: tuple[Node, ...]) -> str:
    thread = "".join(node if isinstance(node, str) else FORK for node in nodes)
    return thread + "".join(CHILD + _write_thread(node.body) for node in nodes if isinstance(node, Block))


APAR = Dialect(
    "apar",
    TITLE,
    Abilities(JoinStyle.NONE, between=True, unjoined=True, last_sync=False, depth=DEEPEST, lengths=0, tags=TAGS),
    _read,
    _write,
    retitle,
)
