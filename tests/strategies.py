"""Hypothesis strategies of answers, for tests of several layers."""

from __future__ import annotations

import re

from hypothesis import strategies as st

from pastalm.lang.answer import Answer, Block, Node, Sync, merge_text

_LOOKALIKE = re.compile(r"</?(promise|async|sync)")
_LETTERS = "abz<>/=\"' \n\té€😀 hello foo12"

texts = st.one_of(st.text(_LETTERS, max_size=8), st.text(st.characters(exclude_categories=["Cs"]), max_size=6)).filter(
    lambda text: not _LOOKALIKE.search(text)
)

_words = st.text("abz'/=é12-", min_size=1, max_size=5)
topics = st.lists(_words, min_size=1, max_size=3).map(" ".join)


def nodes(depth: int, counts: st.SearchStrategy[int | None]) -> st.SearchStrategy[tuple[Node, ...]]:
    """Contents of a thread whose blocks nest at most ``depth`` deep; a thread without blocks has no syncs."""
    kinds: list[st.SearchStrategy[Node]] = [texts]
    if depth:
        kinds += [st.builds(Block, topics, nodes(depth - 1, counts), counts), st.just(Sync())]
    return st.lists(st.one_of(kinds), max_size=5).map(merge_text)


def answers(depth: int = 3, *, measured: bool = True) -> st.SearchStrategy[Answer]:
    """Answers whose blocks have their lengths (up to four digits), or none of them."""
    counts = st.one_of(st.integers(1, 30), st.integers(1, 9999)) if measured else st.none()
    return st.builds(Answer, nodes(depth, counts))
