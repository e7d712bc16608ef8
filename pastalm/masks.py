"""Masks as ASCII drawings, for docs, tests and eyes."""

from __future__ import annotations

from collections.abc import Sequence

from pastalm.layout import Layout


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
