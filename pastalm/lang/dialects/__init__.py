"""The dialects: how PASTA and its peers write a parallel answer. Each reads texts into answers and writes them back."""

from __future__ import annotations

from pastalm.lang.dialects.abilities import Abilities, ConversionError, JoinStyle
from pastalm.lang.dialects.apar import APAR
from pastalm.lang.dialects.aspd import ASPD
from pastalm.lang.dialects.dialect import Dialect
from pastalm.lang.dialects.loss import drop_lengths, drop_topics, shorten_topics
from pastalm.lang.dialects.multiverse import MULTIVERSE, NPR
from pastalm.lang.dialects.pasta import ANNOTATOR, PASTA
from pastalm.lang.dialects.planned_diffusion import PLANNED_DIFFUSION
from pastalm.lang.dialects.skeleton import SKELETON
from pastalm.lang.dialects.threadweaver import THREADWEAVER

__all__ = [
    "DIALECTS",
    "Abilities",
    "ConversionError",
    "Dialect",
    "JoinStyle",
    "dialect",
    "drop_lengths",
    "drop_topics",
    "shorten_topics",
]

DIALECTS = {
    each.name: each
    for each in (PASTA, ANNOTATOR, PLANNED_DIFFUSION, APAR, MULTIVERSE, NPR, THREADWEAVER, ASPD, SKELETON)
}


def dialect(name: str) -> Dialect:
    """The dialect of this name. Raises ``ValueError`` with the names there are."""
    if name not in DIALECTS:
        raise ValueError(f"There is no dialect {name!r}; there are: {', '.join(DIALECTS)}.")
    return DIALECTS[name]
