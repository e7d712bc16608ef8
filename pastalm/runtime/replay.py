"""A known answer as a teacher: the model runs and samples for real, its choices are replaced by the answer's tokens."""

from __future__ import annotations

from torch import Tensor

from pastalm.lang.recogniser import Legal
from pastalm.lang.script import Script
from pastalm.runtime.thread import ThreadPath


class Replay:
    """The teacher that gives each thread the tokens that ``script`` holds for it.

    The main thread ends with ``eos``; without one, the script ends it, and no chunk may go on after that. A chunk that
    a limit has cut ends with ``chunk_end``.
    """

    def __init__(self, script: Script, eos: int | None, chunk_end: int | None = None) -> None:
        self.paths = block_paths(script)
        self.tokens: dict[ThreadPath, list[int]] = {path: script.of(block) for block, path in enumerate(self.paths)}
        self.lengths = {path: script.blocks[block].content for block, path in enumerate(self.paths)}
        for path in self.paths[1:]:
            del self.tokens[path][0]  # <async>, which the runtime writes
            if chunk_end is not None and self.tokens[path][-1:] != [chunk_end]:
                self.tokens[path].append(chunk_end)
        if eos is not None and self.tokens[()][-1:] != [eos]:
            self.tokens[()].append(eos)
        self.next = dict.fromkeys(self.tokens, 0)

    def __call__(self, logits_TV: Tensor, legal: list[Legal], paths: list[ThreadPath]) -> list[int]:
        """See :class:`pastalm.runtime.sequence.Teacher`."""
        chosen = [self.tokens[path][self.next[path]] for path in paths]
        for path in paths:
            self.next[path] += 1
        return chosen

    def coming(self, path: ThreadPath) -> int:
        """The token that a thread is given next."""
        return self.tokens[path][self.next[path]]

    def length(self, path: ThreadPath) -> int:
        """The content length of a chunk."""
        return self.lengths[path]

    @property
    def total(self) -> int:
        """How many tokens the whole answer takes."""
        return sum(map(len, self.tokens.values()))


def block_paths(script: Script) -> list[ThreadPath]:
    """The path of the thread that writes each block of a script."""
    paths: list[ThreadPath] = [()]
    children = [0] * len(script.blocks)
    for block in script.blocks[1:]:
        paths.append((*paths[block.parent], children[block.parent]))
        children[block.parent] += 1
    return paths
