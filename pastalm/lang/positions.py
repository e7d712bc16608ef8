"""Position policies: how far the main thread jumps over a promised chunk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil


@dataclass(frozen=True)
class PositionPolicy:
    """With p the position of a promise's `` />``, the parent's next token stands at ``p + 1 + jump``.

    ``label(content)`` is the ``tokens`` attribute that a block of ``content`` tokens is trained with; ``jump(tokens,
    content)`` the distance. ``needs_length`` says that the jump needs the true length, which only a known answer has.
    ``unit`` is how many tokens one counted unit of the attribute stands for.
    """

    name: str
    unit: int
    jump: Callable[[int, int], int]
    needs_length: bool = False

    def label(self, content: int) -> int:
        """The ``tokens`` attribute of a block with ``content`` tokens between its tags; the two tags count too."""
        return max(1, ceil((content + 2) / self.unit))


CONTIGUOUS = "contiguous"  # what a plain completion server knows: a token stands behind the one before
POLICIES = {
    policy.name: policy
    for policy in (
        PositionPolicy("pred10", 10, lambda tokens, content: 10 * tokens),
        PositionPolicy("pred1", 1, lambda tokens, content: tokens),
        PositionPolicy("const40", 10, lambda tokens, content: 40),
        PositionPolicy("oracle", 10, lambda tokens, content: content + 2, needs_length=True),
        PositionPolicy(CONTIGUOUS, 10, lambda tokens, content: 0),
        PositionPolicy("const80", 10, lambda tokens, content: 80),
    )
}

DEFAULT = "pred10"


def position_policy(name: str) -> PositionPolicy:
    """Look a policy up. Raises ``ValueError`` with the known names for an unknown one."""
    if name not in POLICIES:
        raise ValueError(f"Unknown position policy {name!r}; choose one of {', '.join(POLICIES)}.")
    return POLICIES[name]
