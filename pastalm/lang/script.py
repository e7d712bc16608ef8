"""An answer as token ids in document order, each with its thread. Known answers and decoded ones alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pastalm.lang.answer import Answer, Block, Node, Sync
from pastalm.lang.positions import PositionPolicy
from pastalm.lang.vocabulary import Vocabulary

NEVER = 1 << 40  # the release of a block that no sync follows


@dataclass
class ScriptBlock:
    """One async block of a script. ``parent`` is the index of the block around it, 0 for the main thread; ``release``
    the index of the first sync after it in its parent, or ``NEVER``; ``content`` its tokens between the tags."""

    parent: int
    topic: str
    promised: int
    release: int = NEVER
    content: int = 0


@dataclass
class Script:
    """The tokens of an answer in document order.

    ``tokens[i]`` is an id, ``block[i]`` the innermost block that holds it (0: the main thread). ``blocks[0]`` stands
    for the main thread, the others for the async blocks in document order.
    """

    tokens: list[int] = field(default_factory=list)
    block: list[int] = field(default_factory=list)
    blocks: list[ScriptBlock] = field(default_factory=lambda: [ScriptBlock(-1, "", 0)])

    def append(self, tokens: Sequence[int], block: int) -> None:
        """Write ``tokens`` in ``block``."""
        self.tokens += tokens
        self.block += [block] * len(tokens)

    def open(self, parent: int, topic: str, promised: int) -> int:
        """Open a block inside ``parent``; returns its index."""
        self.blocks.append(ScriptBlock(parent, topic, promised))
        return len(self.blocks) - 1

    def release(self, parent: int) -> None:
        """The next token is a sync of ``parent``: release all its blocks so far."""
        for block in self.blocks[1:]:
            if block.parent == parent and block.release == NEVER:
                block.release = len(self.tokens)

    def of(self, block: int) -> list[int]:
        """The tokens that the thread of ``block`` writes itself, in order."""
        return [token for token, owner in zip(self.tokens, self.block, strict=True) if owner == block]


def compile_script(answer: Answer, vocabulary: Vocabulary, policy: PositionPolicy, *, end: bool = True) -> Script:
    """Encode an answer. Blocks without ``tokens`` get the label that ``policy`` measures.

    ``end`` appends the token that ends an answer, if one is known. Raises ``ValueError`` for a topic that the tokenizer
    cannot write.
    """
    script = Script()
    _write(script, answer.nodes, 0, vocabulary, policy)
    if end and vocabulary.end is not None:
        script.append([vocabulary.end], 0)
    return script


def _write(script: Script, nodes: Sequence[Node], inside: int, vocabulary: Vocabulary, policy: PositionPolicy) -> None:
    for node in nodes:
        if isinstance(node, Block):
            _write_block(script, node, inside, vocabulary, policy)
        elif isinstance(node, Sync):
            script.release(inside)
            script.append([vocabulary.sync], inside)
        else:
            script.append(vocabulary.encode(node), inside)


def _write_block(script: Script, node: Block, inside: int, vocabulary: Vocabulary, policy: PositionPolicy) -> None:
    body = Script()
    body.blocks = [*script.blocks, ScriptBlock(inside, node.topic, 0)]
    # The length stands before the content in the text, so the content is encoded first, to one side.
    index = len(script.blocks)
    _write(body, node.body, index, vocabulary, policy)
    content = len(body.tokens)
    promised = node.tokens if node.tokens is not None else policy.label(content)
    script.append([vocabulary.promise_topic, *vocabulary.encode_topic(node.topic), vocabulary.promise_tokens], inside)
    script.append([*vocabulary.encode(str(promised)), vocabulary.promise_end], inside)
    shift = len(script.tokens) + 1
    script.append([vocabulary.async_start], index)
    script.tokens += body.tokens
    script.block += body.block
    script.append([vocabulary.async_end], index)
    script.blocks.append(ScriptBlock(inside, node.topic, promised, content=content))
    for nested in body.blocks[index + 1 :]:
        nested.release += shift if nested.release != NEVER else 0
        script.blocks.append(nested)
