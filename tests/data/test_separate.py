"""Dependent blocks put right: the text untouched, the result sound, every dependent block sees its siblings."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pastalm.data.check import flaws
from pastalm.data.separate import separate, unmark
from pastalm.data.words import WordVocabulary
from pastalm.lang.clock import critical_path
from pastalm.lang.parse import parse
from pastalm.lang.positions import POLICIES
from pastalm.lang.script import compile_script

WORDS = WordVocabulary()


def steps(annotated: str) -> int:
    script = compile_script(parse(annotated, max_depth=3), WORDS, POLICIES["pred10"], end=False)  # type: ignore[arg-type]
    return critical_path(script, WORDS)  # type: ignore[arg-type]


def block(topic: str, words: int = 30) -> str:
    return f"<async topic='{topic}'>{' '.join([topic] * words)}</async>"


A, B, C, D = map(block, "abcd")


def plain(topic: str) -> str:
    return " ".join([topic] * 30)


@pytest.mark.parametrize(
    "annotated, dependent, wanted",
    [
        # The block and what follows stay parallel, behind what it needs.
        (f"{A} {B} {C} {D}<sync/> end", {3}, f"{A} {B} <sync/>{C} {D}<sync/> end"),
        # Alone behind the new sync it has nothing to run beside: its text becomes main's, the old sync idle.
        (f"{A} {B} {C}<sync/> end", {3}, f"{A} {B} <sync/>{plain('c')} end"),
        # The first is alone as well, so nothing is left to mark.
        (f"{A} {B}<sync/> end", {2}, f"{plain('a')} {plain('b')} end"),
        (f"{A} {B}", {2}, f"{plain('a')} {plain('b')}"),
        # A block that main writes beside for long is worth its mark.
        (f"{A} {plain('x')} {B} {C}", {2}, f"{A} {plain('x')} <sync/>{B} {C}"),
        # A chain: each needs the one before.
        (f"{A} {B} {C}<sync/> end", {2, 3}, f"{plain('a')} {plain('b')} {plain('c')} end"),
        # Other groups stay, alone or not.
        (f"{A}<sync/> x {B} {C} {D}<sync/> end", {4}, f"{A}<sync/> x {B} {C} <sync/>{plain('d')} end"),
        # Promises keep their writing.
        (
            f'<promise topic="q" tokens="4" /><async>{plain("q")}</async> {B} <promise tokens=3 topic="r"/><async>'
            f"{plain('r')}</async> {C}",
            {3},
            f'<promise topic="q" tokens="4" /><async>{plain("q")}</async> {B} <sync/>'
            f'<promise tokens=3 topic="r"/><async>{plain("r")}</async> {C}',
        ),
    ],
)
def test_what_is_moved_and_what_is_unmarked(annotated: str, dependent: set[int], wanted: str):
    assert separate(annotated, dependent, steps) == wanted


def test_unmark():
    nested = f"<async topic='o'>x {A} y {B}<sync/> z</async>, {C}<sync/> end"
    assert unmark(nested, 1, max_depth=2) == f"x {A} y {B}<sync/> z, {C}<sync/> end"
    assert unmark(nested, 2, max_depth=2) == nested.replace(A, plain("a"))
    assert unmark(f"{A} m<sync/> end", 1) == f"{plain('a')} m end"
    with pytest.raises(ValueError, match="1 blocks, so there is no block 2"):
        unmark(A, 2)


@st.composite
def sound(draw: st.DrawFn) -> tuple[str, set[int]]:
    """A sound annotated text, and some blocks of it that have an open sibling before them."""
    parts, dependent, number, open_ = [], set(), 0, 0
    for kind in draw(st.lists(st.sampled_from(["text", "long", "block", "block", "full", "sync"]), max_size=12)):
        if kind == "sync" and open_:
            parts, open_ = [*parts, "<sync/>"], 0
        elif kind in ("block", "full"):
            number += 1
            if open_ and draw(st.booleans()):
                dependent.add(number)
            open_ += 1
            body = " ".join(["é<b>"] * draw(st.integers(5, 20)))
            opening = '<async topic="it\'s">' if kind == "block" else '<promise topic="t" tokens="3"/><async>'
            parts.append(f"{opening}{body}</async>")
        elif kind != "sync":
            parts.append(" so\n" if kind == "text" else " word" * 25)
    return "".join(parts), dependent


@given(sound())
@settings(max_examples=200, deadline=None)
def test_every_dependent_block_ends_where_it_sees_its_siblings(drawn: tuple[str, set[int]]):
    annotated, dependent = drawn
    text = parse(annotated).plain
    after = separate(annotated, dependent, steps)
    assert list(flaws(after, text)) == []
    if not dependent:
        assert after == annotated
    # Let each block name itself, so that it is known again, marked or not.
    named = _named(annotated)
    result = parse(separate(named, dependent, steps))
    open_: list[str] = []
    kept = []
    for node in result.nodes:
        if isinstance(node, str):
            continue
        if not hasattr(node, "topic"):
            open_ = []
            continue
        kept.append(node.topic)
        if int(node.topic.strip("n")) in dependent:
            assert open_ == []
        open_.append(node.topic)
    assert len(kept) == len(set(kept))


def _named(annotated: str) -> str:
    head, *pieces = annotated.split("topic=")
    named = [f'"n{index}"' + piece[piece.index('"', 1) + 1 :] for index, piece in enumerate(pieces, 1)]
    return "topic=".join([head, *named])
