"""One prompt and answer as tensors: tokens, positions, visibility, targets; and masks as drawings.

The rule of visibility is one line, :func:`sees`. The training mask is computed by it. The runtime builds the
same visibility token by token, with operations that copy and join rows (:mod:`pastalm.runtime.visibility`), because
while an answer is being decoded nobody knows where its syncs will stand. Those are two implementations of one rule; the
tests hold them equal for every token of arbitrary answers, and the decoded logits equal to the dense forward's.

With n tokens of prompt and answer together, all tensors here are [n].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pastalm.lang.positions import PositionPolicy
from pastalm.lang.script import Script

IGNORE = -100  # the target of a token that predicts nothing


@dataclass(frozen=True)
class Layout:
    """A prompt and its answer in document order.

    ``tokens``, ``positions``, ``block`` [n]: ids, position ids, innermost block (0 = the prompt and the main thread).
    ``release`` [blocks, blocks]: from which index on a token of block a sees the tokens of block b.
    ``targets`` [n]: the token that each token predicts, the next one *of its own thread*, or ``IGNORE``.
    """

    tokens: Tensor
    positions: Tensor
    block: Tensor
    release: Tensor
    targets: Tensor

    def mask(self) -> Tensor:
        """Bool [n, n]: whether token i (row) sees token j (column)."""
        index = torch.arange(len(self.tokens))
        return sees(index[:, None], index[None, :], self.block, self.release)


def sees(i: Tensor, j: Tensor, block: Tensor, release: Tensor) -> Tensor:
    """The rule of visibility: a token sees what stands before it in its own blocks and in what has been synced.

    ``i``, ``j`` are indices that broadcast; ``release[a, b]`` is 0 where block a is b or lies in b.
    """
    return (j <= i) & (i >= release[block[i], block[j]])


def layout(prompt: Sequence[int], script: Script, policy: PositionPolicy, *, prompt_targets: bool = False) -> Layout:
    """Lay an answer out behind its prompt.

    ``prompt`` are ids at positions 0 .. ; the answer's positions follow ``policy``, its targets training's. Prompt
    tokens have no target, except the last, which predicts the answer's first token; ``prompt_targets`` gives them
    theirs, for models that start from random weights.
    """
    tokens = [*prompt, *script.tokens]
    block = [0] * len(prompt) + script.block
    return Layout(
        tokens=torch.tensor(tokens),
        positions=torch.tensor([*range(len(prompt)), *positions(len(prompt), script, policy)]),
        block=torch.tensor(block),
        release=_releases(script, len(prompt)),
        targets=torch.tensor(_targets(tokens, block, 0 if prompt_targets else len(prompt))),
    )


def positions(start: int, script: Script, policy: PositionPolicy) -> list[int]:
    """The position id of each token of an answer whose first token stands at ``start``."""
    following = [start] + [0] * (len(script.blocks) - 1)  # the next position of each thread
    placed: list[int] = []
    seen = 0
    for block in script.block:
        if block > seen:  # its first token: the parent has just written the promise, and jumps over the block
            seen, opened = block, script.blocks[block]
            following[block] = following[opened.parent]
            following[opened.parent] += policy.jump(opened.promised, opened.content)
        placed.append(following[block])
        following[block] += 1
    return placed


def _releases(script: Script, start: int) -> Tensor:
    chains = [_chain(script, index) for index in range(len(script.blocks))]
    table = torch.zeros(len(chains), len(chains), dtype=torch.long)
    for a, chain in enumerate(chains):
        for b, other in enumerate(chains):
            hidden = next((index for index in other if index not in chain), None)
            if hidden is not None:  # the outermost block around b that is not around a
                table[a, b] = script.blocks[hidden].release + start
    return table


def _chain(script: Script, index: int) -> list[int]:
    chain = [index]
    while chain[0] != 0:
        chain.insert(0, script.blocks[chain[0]].parent)
    return chain


def _targets(tokens: list[int], block: list[int], start: int) -> list[int]:
    targets = [IGNORE] * len(tokens)
    following: dict[int, int] = {}  # the next token of each thread, walking backwards
    for index in range(len(tokens) - 1, max(start, 1) - 2, -1):
        targets[index] = following.get(block[index], IGNORE)
        following[block[index]] = tokens[index]
    return targets


def draw(layout: Layout, names: Sequence[str]) -> str:
    """One line a token, with its position: what it sees, ``x``, of the tokens before it. ``names`` labels the tokens.

    Raises ``ValueError`` if there are not as many names as tokens.
    """
    if len(names) != len(layout.tokens):
        raise ValueError(f"There are {len(layout.tokens)} tokens, but {len(names)} names.")
    width = max(map(len, names), default=0)
    lines = []
    for index, (name, row) in enumerate(zip(names, layout.mask().tolist(), strict=True)):
        seen = "".join("x" if one else "." for one in row[: index + 1])
        lines.append(f"{name:>{width}} {layout.positions[index].item():4d}  {seen}")
    return "\n".join(lines) + "\n"
