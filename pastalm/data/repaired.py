"""The repaired data set: blocks that need their siblings see them, all else stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pastalm.data.audit import Audited
from pastalm.data.separate import separate
from pastalm.files.atomic import writing
from pastalm.files.lines import json_line
from pastalm.lang.parse import parse


@dataclass
class Repaired:
    """What was repaired: records ``kept`` as they are, ``changed``, or ``left_out`` because they were not
    measured; ``dependent`` blocks that were put right, and ``unmarked`` ones, these or others, that lost their marks by
    it."""

    kept: int = 0
    changed: int = 0
    left_out: int = 0
    dependent: int = 0
    unmarked: int = 0


def write_repaired(
    audited: Sequence[Audited], out: Path, above: float, steps: Callable[[str], int], *, max_depth: int = 1
) -> Repaired:
    """Write all records, in the order of the set, those with blocks that depend on their siblings by more than
    ``above`` nats a token put right by :func:`pastalm.data.separate.separate`, whose ``steps`` are asked for. The file
    is there whole or not at all.

    Raises ``ValueError`` for a negative ``above``: blocks with nothing hidden from them depend by 0.
    """
    if not above >= 0:
        raise ValueError(f"Dependence above {above} is not a limit; give 0 nats a token or more.")
    counts = Repaired()
    with writing(out) as file:
        for one in sorted(audited, key=lambda one: one.line.index):
            if one.too_long:
                counts.left_out += 1
            else:
                file.write(_line(one, above, steps, max_depth, counts) + "\n")
    return counts


def _line(one: Audited, above: float, steps: Callable[[str], int], max_depth: int, counts: Repaired) -> str:
    dependent = {block.number for block in one.blocks if block.dependence > above}
    if not dependent:
        counts.kept += 1
        return one.line.text
    after = separate(one.line.record.annotated or "", dependent, steps, max_depth=max_depth)
    counts.changed += 1
    counts.dependent += len(dependent)
    counts.unmarked += len(one.blocks) - sum(1 for _ in parse(after, max_depth=max_depth).blocks())
    return json_line(one.line.record.fields | {"annotated": after})
