"""One prompt and answer as a plain completion server sees it, for training a model that runs there.

A plain server knows causal sequences alone. Each thread is a request whose prompt is what the thread sees, and after a
``<sync/>`` the joined text, chunks in their places, is a prompt that is read anew. So a thread's tokens are learned on
the sequences, the *views*, that the server will be sent. Views share their beginnings: here they form one tree, whose
tokens lie in one row, each seeing its ancestors alone, at a position that is its depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pastalm.lang.script import Script
from pastalm.layout import IGNORE

ROOT = -1  # the parent of a prompt's first token
NOBODY = -1  # the giver of a token that the runtime writes


@dataclass(frozen=True)
class ViewLayout:
    """All views of a prompt and its answer as one tree. ``tokens``, ``positions``, ``targets`` [n] as in
    :class:`pastalm.layout.Layout`; ``parents`` [n] is the index of the token before each, -1 at the beginning.
    ``givers`` [tokens of the script] is the index of the token whose target each is, -1 for ``<async>``, which the
    runtime writes."""

    tokens: Tensor
    positions: Tensor
    targets: Tensor
    parents: Tensor
    givers: Tensor

    def mask(self) -> Tensor:
        """Bool [n, n]: whether token i (row) sees token j (column), which it does if j is i or an ancestor of i."""
        seen = torch.eye(len(self.tokens), dtype=torch.bool)
        for index, parent in enumerate(self.parents.tolist()):  # parents stand before their children
            if parent != ROOT:
                seen[index] |= seen[parent]
        return seen


def view_layout(prompt: Sequence[int], script: Script, *, prompt_targets: bool = False) -> ViewLayout:
    """Lay an answer out as the views that a plain server decodes it in.

    Targets are those of :func:`pastalm.layout.layout`: the next token of the same thread, each once, in the view in
    which it is sampled. ``prompt_targets`` gives the prompt's tokens theirs.
    """
    tree = _Tree(givers=[NOBODY] * len(script.tokens))
    last = tree.walk(ROOT, prompt)
    if prompt_targets:
        tree.targets[:last] = prompt[1:]
    _lay_thread(tree, script, 0, last, range(len(script.tokens)))
    return ViewLayout(*map(torch.tensor, (tree.tokens, tree.depths, tree.targets, tree.parents, tree.givers)))


@dataclass
class _Tree:
    """Sequences of tokens with shared beginnings; a node is the index of its token."""

    givers: list[int]
    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    children: dict[tuple[int, int], int] = field(default_factory=dict)

    def walk(self, node: int, tokens: Sequence[int]) -> int:
        """Follow ``tokens`` from a node and grow what is not there yet; returns the last one's node."""
        for token in tokens:
            child = self.children.setdefault((node, token), len(self.tokens))
            if child == len(self.tokens):
                self.tokens.append(token)
                self.parents.append(node)
                self.depths.append(0 if node == ROOT else self.depths[node] + 1)
                self.targets.append(IGNORE)
            node = child
        return node


def _lay_thread(tree: _Tree, script: Script, block: int, start: int, span: range) -> None:
    """Lay out the thread of ``block``, whose tokens and chunks are the ``span`` of the script, from the node ``start``:
    the last token that stood there before it wrote anything."""
    seen = start  # the newest token in the view that is being decoded
    syncs = {inner.release for inner in script.blocks if inner.parent == block}
    index = span.start
    while index < span.stop:
        if script.block[index] != block:
            index = _lay_chunk(tree, script, block, seen, range(index, span.stop))
            continue
        tree.targets[seen], tree.givers[index] = script.tokens[index], seen
        if index in syncs:  # the joined text is a prompt of its own
            seen = tree.walk(start, script.tokens[span.start : index + 1])
        else:
            seen = tree.walk(seen, script.tokens[index : index + 1])
        index += 1


def _lay_chunk(tree: _Tree, script: Script, parent: int, seen: int, rest: range) -> int:
    """Lay out the chunk that begins ``rest``, as its parent saw it begin; returns where the parent goes on."""
    end = next((index for index in rest if script.block[index] == parent), rest.stop)
    opened = tree.walk(seen, [script.tokens[rest.start]])  # <async>, which the runtime writes
    _lay_thread(tree, script, script.block[rest.start], opened, range(rest.start + 1, end))
    return end
