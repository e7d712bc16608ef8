"""What an audit has measured: blocks with their dependence, and a summary of many."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from pastalm.data.check import check_file
from pastalm.files.lines import DataError

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)


@dataclass(frozen=True)
class Line:
    """A sound record of the data file: its line number, its text, its fields."""

    number: int
    text: str
    fields: dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Measured:
    """One block. ``number`` counts the answer's blocks from 1 in document order, ``place`` those of its group that are
    open together; ``tokens`` are those scored, the block's own and its ``</async>``. ``hidden`` and ``seen`` are its
    log-likelihood a token in nats; None for the first of a group, which has nothing hidden."""

    number: int
    topic: str
    place: int
    tokens: int
    hidden: float | None = None
    seen: float | None = None

    @property
    def dependence(self) -> float:
        """What hiding the siblings costs the block, nats a token; 0 where nothing is hidden."""
        return 0.0 if self.hidden is None or self.seen is None else self.seen - self.hidden


@dataclass(frozen=True)
class Audited:
    """What was measured of one line; ``too_long`` if it does not fit the model, and nothing was."""

    line: Line
    blocks: tuple[Measured, ...]
    too_long: bool = False


def read_sound(path: Path, *, max_depth: int = 1) -> list[Line]:
    """All records of a data file. Raises :class:`DataError` for the first problem that `pasta check` would show."""
    lines = []
    for record in check_file(path, max_depth=max_depth):
        for finding in record.findings:
            raise DataError(f"{finding.place(path)}: {finding.message} `pasta check` lists all such problems.")
        lines.append(Line(record.line, record.text, json.loads(record.text)))
    return lines


@dataclass(frozen=True)
class Place:
    """The blocks that stand at one place of their groups: how many, and their mean dependence."""

    blocks: int
    mean: float


@dataclass(frozen=True)
class Summary:
    """Many audited lines. ``blocks`` are all that were measured, ``hidden`` those of them that have siblings hidden
    from them; the other figures are of the dependence of these, in nats a token: ``mean``, ``quantiles`` (a share to
    the value that it lies below) and ``places`` (from 2, the first place with something hidden)."""

    records: int
    too_long: int
    blocks: int
    hidden: int
    mean: float | None
    quantiles: dict[float, float]
    places: dict[int, Place]

    def as_json(self) -> dict[str, Any]:
        """The same for JSON."""
        return asdict(self)


def summarise(audited: Iterable[Audited]) -> Summary:
    """The summary of what was measured."""
    audited = list(audited)
    blocks = [block for one in audited for block in one.blocks]
    hidden = [block for block in blocks if block.place > 1]
    values = sorted(block.dependence for block in hidden)
    places = defaultdict(list)
    for block in hidden:
        places[block.place].append(block.dependence)
    return Summary(
        records=len(audited),
        too_long=sum(one.too_long for one in audited),
        blocks=len(blocks),
        hidden=len(hidden),
        mean=mean(values) if values else None,
        quantiles={share: values[int(share * (len(values) - 1))] for share in QUANTILES} if values else {},
        places={place: Place(len(found), mean(found)) for place, found in sorted(places.items())},
    )


def ranked(audited: Iterable[Audited], most: int) -> list[tuple[Line, Measured]]:
    """The ``most`` blocks that need their siblings most, with their lines; the neediest first."""
    pairs = [(one.line, block) for one in audited for block in one.blocks if block.place > 1]
    pairs.sort(key=lambda pair: (-pair[1].dependence, pair[0].number, pair[1].number))
    return pairs[:most]
