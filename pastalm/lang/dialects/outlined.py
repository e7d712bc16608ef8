"""The grammar that Multiverse, NPR and ThreadWeaver share: a plan of numbered outlines, then one thread for each.

White space inside the plan, and before a thread's number, is layout and is dropped; everywhere else it is the reader's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pastalm.lang.answer import Answer, Block, Node, Sync, merge_text
from pastalm.lang.dialects.abilities import DEEPEST, Abilities, JoinStyle
from pastalm.lang.dialects.dialect import Dialect
from pastalm.lang.dialects.reader import TagReader

_OUTLINE = re.compile(r"\s*(?:[0-9]+\.)*([0-9]+):(.*)", re.DOTALL)
_HEAD = re.compile(r"\s*(?:[0-9]+\.)*([0-9]+): ?")


@dataclass(frozen=True)
class Tags:
    """The tags of one such dialect, each an opening and a closing one; ``group`` and ``join`` may be missing."""

    group: tuple[str, str] | None
    plan: tuple[str, str]
    outline: tuple[str, str]
    thread: tuple[str, str]
    join: tuple[str, str] | None

    @property
    def all(self) -> tuple[str, ...]:
        """Every tag."""
        pairs = (self.group, self.plan, self.outline, self.thread, self.join)
        return tuple(tag for pair in pairs if pair is not None for tag in pair)

    @property
    def start(self) -> str:
        """The tag that opens a group."""
        return (self.group or self.plan)[0]


def outlined(name: str, title: str, tags: Tags, *, nested: bool) -> Dialect:
    """The dialect that writes its parallel groups with ``tags``."""
    abilities = Abilities(
        join=JoinStyle.IMPLIED,
        between=False,
        unjoined=False,
        last_sync=tags.join is not None,
        depth=DEEPEST if nested else 1,
        lengths=0,
        tags=tags.all,
    )
    reader, writer = lambda text: _Reader(text, tags, title, abilities.depth).run(), _Writer(tags).run
    return Dialect(name, title, abilities, reader, writer)


class _Reader:
    def __init__(self, text: str, tags: Tags, title: str, depth: int) -> None:
        self.pieces, self.tags, self.title, self.depth = TagReader(text, tags.all, title), tags, title, depth

    def run(self) -> Answer:
        nodes = self._thread(0)
        if self.pieces.here is not None:
            raise self.pieces.error(f"only text or {self.tags.start} can stand here")
        return Answer(nodes)

    def _thread(self, depth: int) -> tuple[Node, ...]:
        """What stands in a thread, up to its closing tag or the end."""
        nodes: list[Node] = []
        owed = False  # a group has ended whose join was not written: what follows has waited for it
        while (here := self.pieces.here) is not None and (not here.is_tag or here.text == self.tags.start):
            if owed and not self._last_space():
                nodes.append(Sync())
            owed = False
            if here.is_tag:
                owed = not self._group(nodes, depth)
            else:
                nodes.append(self.pieces.take())
        return merge_text(nodes)

    def _last_space(self) -> bool:
        """Whether nothing but white space is left of this thread: then there is nothing to wait."""
        return self.pieces.at_space() and not self.pieces.at_space(self.tags.start)

    def _group(self, nodes: list[Node], depth: int) -> bool:
        """Read a group; returns whether it has written its join."""
        if depth >= self.depth:
            raise self.pieces.error(f"groups nest at most {self.depth} deep")
        if self.tags.group:
            self.pieces.expect(self.tags.group[0])
            self.pieces.skip_space()
        outlines = self._plan()
        self.pieces.skip_space()
        for number, topic in enumerate(outlines, 1):
            if number > 1 and self.pieces.at_space():
                nodes.append(self.pieces.take())
            nodes.append(Block(topic, self._numbered(number, depth)))
        if self.pieces.at_space():
            nodes.append(self.pieces.take())
        joined = self._join(nodes)
        if self.tags.group:
            self.pieces.expect(self.tags.group[1])
        return joined

    def _plan(self) -> list[str]:
        self.pieces.expect(self.tags.plan[0])
        self.pieces.skip_space()
        topics: list[str] = []
        while self.pieces.at_tag(self.tags.outline[0]):
            self.pieces.take()
            found = _OUTLINE.fullmatch(self.pieces.take_text())
            if found is None or found[1] != str(len(topics) + 1):
                raise self.pieces.error(f"outline {len(topics) + 1} must begin with '{len(topics) + 1}:'")
            topics.append(found[2].strip())
            self.pieces.expect(self.tags.outline[1])
            self.pieces.skip_space()
        if not topics:
            raise self.pieces.error("a plan needs an outline")
        self.pieces.expect(self.tags.plan[1])
        return topics

    def _numbered(self, number: int, depth: int) -> tuple[Node, ...]:
        """The content of thread ``number`` without its number."""
        self.pieces.expect(self.tags.thread[0])
        nodes = self._thread(depth + 1)
        first = nodes[0] if nodes else None
        head = _HEAD.match(first) if isinstance(first, str) else None
        if head is None or head[1] != str(number):
            raise self.pieces.error(f"thread {number} must begin with '{number}:'")
        self.pieces.expect(self.tags.thread[1])
        return merge_text([head.string[head.end() :], *nodes[1:]])

    def _join(self, nodes: list[Node]) -> bool:
        if self.tags.join is None or not self.pieces.at_tag(self.tags.join[0]):
            return False
        self.pieces.take()
        nodes += [Sync(), self.pieces.take_text()]
        self.pieces.expect(self.tags.join[1])
        if self.tags.group and self.pieces.at_space():
            nodes.append(self.pieces.take())
        return True


@dataclass(frozen=True)
class _Writer:
    tags: Tags

    def run(self, answer: Answer) -> str:
        return self._thread(answer.nodes)

    def _thread(self, nodes: tuple[Node, ...]) -> str:
        written, rest = [], list(nodes)
        while rest:
            if isinstance(rest[0], Block):
                group = self._take_group(rest)
                written.append(self._group(group, self._take_join(rest)))
            else:
                node = rest.pop(0)
                written.append(node if isinstance(node, str) else "")
        return "".join(written)

    def _take_group(self, rest: list[Node]) -> list[Node]:
        """The chunks of a group and the white space between and after them, taken off ``rest``."""
        group = []
        while rest and not isinstance(rest[0], Sync):
            group.append(rest.pop(0))
        return group

    def _take_join(self, rest: list[Node]) -> str | None:
        """The text that the group's join holds, up to the next group; None for a group without one."""
        if not rest or self.tags.join is None:
            return None
        rest.pop(0)
        text = rest[0] if rest else None
        if not isinstance(text, str):
            return ""
        rest.pop(0)
        return text

    def _group(self, group: list[Node], join: str | None) -> str:
        blocks = [node for node in group if isinstance(node, Block)]
        plan = "".join(_in(self.tags.outline, f"{k}: {block.topic}") for k, block in enumerate(blocks, 1))
        numbers = iter(range(1, len(blocks) + 1))
        threads = [
            _in(self.tags.thread, f"{next(numbers)}: {self._thread(node.body)}") if isinstance(node, Block) else node
            for node in group
        ]
        joined = "" if join is None else _in(self.tags.join, join)
        return _in(self.tags.group, _in(self.tags.plan, plan) + "".join(map(str, threads)) + joined)


def _in(tags: tuple[str, str] | None, text: str) -> str:
    return text if tags is None else tags[0] + text + tags[1]
