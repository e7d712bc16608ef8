"""One generated task: a prompt, an annotated answer, and the facts a program needs to check any answer to it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from pastalm.lang.answer import Answer, Block, Node, Sync, merge_text


@dataclass(frozen=True)
class Chunk:
    """A stretch of the answer that an annotator might mark.

    ``independent`` says whether it truly can be written without seeing the other chunks since the last sync.
    """

    topic: str
    text: str
    independent: bool = True


@dataclass(frozen=True)
class Draft:
    """What a family draws: the prompt, the answer in parts, the facts for its checker.

    ``combination`` names the choices (wording, kind, count ..) that were drawn; the held-out split is made of
    combinations that are never trained on.
    """

    prompt: str
    parts: tuple[str | Chunk | Sync, ...]
    facts: dict[str, Any]
    combination: tuple[Any, ...]

    @property
    def held_out(self) -> bool:
        """Whether this combination belongs to the held-out split: one in eight does."""
        digest = hashlib.sha256(repr(self.combination).encode()).digest()
        return digest[0] % 8 == 0


@dataclass(frozen=True)
class Family:
    """A family of tasks.

    ``draw`` makes one from a random source; ``check`` says whether an answer's plain text is right, given the facts;
    ``forks`` says whether a good answer has blocks: yes, no, or (None) that it may, if its topics keep them apart.
    """

    name: str
    forks: bool | None
    draw: Callable[[Random], Draft]
    check: Callable[[dict[str, Any], str], bool]


@dataclass(frozen=True)
class Noise:
    """How far the annotation is from a perfect one, as an LLM's is (shares in [0, 1]).

    ``missed``: independent chunks left unmarked. ``wrong``: chunks marked although they depend on another.
    ``unsynced``: syncs left out, so that what follows cannot see what it needs.
    """

    missed: float = 0.04
    wrong: float = 0.04
    unsynced: float = 0.02

    def __post_init__(self) -> None:
        for name, share in vars(self).items():
            if not 0 <= share <= 1:
                raise ValueError(f"The share {name!r} is between 0 and 1, not {share}.")


@dataclass(frozen=True)
class Task:
    """A task as it is trained on: ``answer`` carries the (noisy) annotation, ``answer.plain`` is the text."""

    family: str
    prompt: str
    answer: Answer
    facts: dict[str, Any] = field(hash=False)


def annotate(draft: Draft, noise: Noise, rng: Random) -> Answer:
    """Mark the chunks of a draft as an LLM would: mostly right, wrong in the shares that ``noise`` names.

    A space before a chunk goes into it. Tokens are then the same with tags and without (" Jane" and not " ", "Jane"),
    so that a model whose tags are forbidden, as in sequential mode, goes on as plain answers do.
    """
    nodes: list[Node] = []
    open_blocks = 0
    for part in draft.parts:
        if isinstance(part, Chunk):
            marked = rng.random() >= noise.missed if part.independent else rng.random() < noise.wrong
            last, space = nodes[-1] if nodes else "", ""
            if marked and isinstance(last, str) and last.endswith(" "):
                nodes[-1], space = last[:-1], " "
            nodes.append(Block(part.topic, (space + part.text,)) if marked else part.text)
            open_blocks += marked
        elif isinstance(part, Sync):
            if open_blocks and rng.random() >= noise.unsynced:
                nodes.append(part)
                open_blocks = 0
        else:
            nodes.append(part)
    return Answer(merge_text(nodes))
