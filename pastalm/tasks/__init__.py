"""Generated instruction tasks whose answers a program can check: reproducible from a seed, endless."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count, islice
from random import Random
from typing import Any

from pastalm.lang.render import render_annotator
from pastalm.tasks import (
    chain,
    distance,
    profiles,
    prose,
    ranking,
    rewrite,
    sharing,
    short,
    sorting,
    spelling,
    totals,
)
from pastalm.tasks.task import Draft, Family, Noise, Task, annotate

FAMILIES = {
    module.FAMILY.name: module.FAMILY
    for module in (profiles, sorting, spelling, prose, ranking, distance, totals, sharing, chain, rewrite, short)
}
SPLITS = ("train", "held-out")


def tasks(split: str, seed: int, noise: Noise | None = None, families: tuple[str, ...] = ()) -> Iterator[Task]:
    """Tasks without end, the families in turn. The same arguments give the same tasks.

    ``split``: ``train`` or ``held-out``; they share neither a random draw nor a combination of choices. ``families``
    names those wanted, none means all. Raises ``ValueError`` for an unknown split or family.
    """
    if split not in SPLITS:
        raise ValueError(f"Unknown split {split!r}; choose one of {', '.join(SPLITS)}.")
    unknown = set(families) - set(FAMILIES)
    if unknown:
        raise ValueError(f"Unknown family {', '.join(sorted(unknown))}; there are {', '.join(FAMILIES)}.")
    noise = noise or Noise()
    wanted = [FAMILIES[name] for name in families or FAMILIES]
    for index in count():
        for family in wanted:
            rng = Random(f"{split} {seed} {family.name} {index}")
            draft = _draw(family, rng, held_out=split == "held-out")
            yield Task(family.name, draft.prompt, annotate(draft, noise, rng), draft.facts)


def _draw(family: Family, rng: Random, *, held_out: bool) -> Draft:
    return next(draft for draft in (family.draw(rng) for _ in count()) if draft.held_out == held_out)


def to_json(task: Task) -> str:
    """One line of a task file: what training reads, and the facts that its checker needs."""
    fields = {"family": task.family, "prompt": task.prompt, "annotated": render_annotator(task.answer)}
    return json.dumps({**fields, "answer": task.answer.plain, "facts": task.facts}, ensure_ascii=False)


def check(family: str, facts: dict[str, Any], text: str) -> bool:
    """Whether ``text``, without tags, answers the task with these facts. Raises ``ValueError`` for unknown families."""
    if family not in FAMILIES:
        raise ValueError(f"Unknown family {family!r}; there are {', '.join(FAMILIES)}.")
    return FAMILIES[family].check(facts, text)


def sample(split: str, seed: int, number: int, noise: Noise | None = None) -> list[Task]:
    """The first ``number`` tasks of a split; see :func:`tasks`."""
    return list(islice(tasks(split, seed, noise), number))
