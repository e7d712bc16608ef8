"""ASPD: a list of titles, then a branch for each that repeats its title, flat; the end of the group is its join."""

from __future__ import annotations

from pastalm.lang.answer import Answer, Block, Node, Sync
from pastalm.lang.dialects.abilities import Abilities, ConversionError, JoinStyle, short
from pastalm.lang.dialects.dialect import Dialect
from pastalm.lang.dialects.reader import TagReader

TITLE_TAG, TITLE_END = "<|title|>", "<|/title|>"
PARA, PARA_END = "<|para|>", "<|/para|>"
BRANCH, BRANCH_END = "<|branch|>", "<|/branch|>"
TAGS = (TITLE_TAG, TITLE_END, PARA, PARA_END, BRANCH, BRANCH_END)
TITLE = "ASPD"


def _read(text: str) -> Answer:
    pieces = TagReader(text, TAGS, TITLE)
    nodes: list[Node] = []
    after_group = False
    while pieces.here is not None:
        if after_group and not (pieces.at_space() and not pieces.at_space(TITLE_TAG)):
            nodes.append(Sync())  # nothing waits if only white space is left
        after_group = pieces.here.is_tag
        if after_group:
            nodes += _read_group(pieces)
        else:
            nodes.append(pieces.take())
    return Answer(tuple(nodes))


def _read_group(pieces: TagReader) -> list[Node]:
    titles: list[str] = []
    while not titles or pieces.at_tag(TITLE_TAG):
        pieces.expect(TITLE_TAG)
        titles.append(pieces.take_text().strip())
        _require_new(titles)
        pieces.expect(TITLE_END)
        pieces.skip_space()
    pieces.expect(PARA)
    pieces.skip_space()
    nodes: list[Node] = []
    for title in titles:
        if pieces.at_space():
            nodes.append(pieces.take())
        nodes.append(Block(title, (_read_branch(pieces, title),)))
    if pieces.at_space():
        nodes.append(pieces.take())
    pieces.expect(PARA_END)
    return nodes


def _read_branch(pieces: TagReader, title: str) -> str:
    pieces.expect(BRANCH)
    text = pieces.take_text()
    if not text.startswith(f"{title}:"):
        raise pieces.error(f"this branch must begin with its title, {title + ':'!r}")
    pieces.expect(BRANCH_END)
    return text[len(title) + 1 :].removeprefix(" ")


def _require_new(titles: list[str]) -> None:
    if titles[-1] in titles[:-1]:
        raise ConversionError(f"{TITLE} drops a branch whose title another one of its group has: {short(titles[-1])}.")


def _write(answer: Answer) -> str:
    written: list[str] = []
    nodes = list(answer.nodes)
    while nodes:
        if isinstance(nodes[0], Block):
            end = next((k for k, node in enumerate(nodes) if isinstance(node, Sync)), len(nodes))
            written.append(_write_group(nodes[:end]))
            nodes = nodes[end + 1 :]
        else:
            written.append(str(nodes.pop(0)))
    return "".join(written)


def _write_group(group: list[Node]) -> str:
    titles: list[str] = []
    for block in group:
        if isinstance(block, Block):
            titles.append(block.topic)
            _require_new(titles)
    plan = "".join(TITLE_TAG + title + TITLE_END for title in titles)
    return plan + PARA + "".join(map(_write_branch, group)) + PARA_END


def _write_branch(node: Node) -> str:
    return f"{BRANCH}{node.topic}: {''.join(map(str, node.body))}{BRANCH_END}" if isinstance(node, Block) else str(node)


ASPD = Dialect(
    "aspd",
    TITLE,
    Abilities(JoinStyle.IMPLIED, between=False, unjoined=False, last_sync=False, depth=1, lengths=0, tags=TAGS),
    _read,
    _write,
)
