"""Reading annotated text: both forms, what spelling is accepted, and every problem with its line and column."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pastalm.lang.answer import Answer, Block, Sync
from pastalm.lang.parse import AnnotationError, parse, scan


def test_reads_the_full_form() -> None:
    text = 'Hi <promise topic="length formula" tokens=2 /><async>a b</async>, <sync/>so.'
    assert parse(text) == Answer(("Hi ", Block("length formula", ("a b",), 2), ", ", Sync(), "so."))


def test_reads_the_annotators_form() -> None:
    assert parse("<async topic='a b'>x</async><sync/>y") == Answer((Block("a b", ("x",)), Sync(), "y"))


@pytest.mark.parametrize(
    "promise",
    [
        '<promise topic="it" tokens=2 />',
        '<promise topic="it" tokens=2/>',
        '<promise topic="it" tokens="2" />',
        "<promise topic='it' tokens='2'/>",
        "<promise tokens=2 topic=it />",
        '<promise  topic = "it"\n  tokens\t=  2   />',
        '<promise topic=" it " tokens=02 />',
    ],
)
def test_accepts_other_spellings_of_a_promise(promise: str) -> None:
    assert parse(promise + "<async>x</async>") == Answer((Block("it", ("x",), 2),))


@pytest.mark.parametrize("sync", ["<sync/>", "<sync />", "<sync\n/>"])
def test_accepts_other_spellings_of_a_sync(sync: str) -> None:
    assert parse(sync) == Answer((Sync(),))


@pytest.mark.parametrize("topic", ["boys'", "'tis", "'so'", "a'b"])
def test_an_apostrophe_belongs_to_the_topic(topic: str) -> None:
    assert parse(f'<async topic="{topic}">x</async>') == Answer((Block(topic, ("x",)),))


@pytest.mark.parametrize(
    "text", ["a < b", "<br />", "<promised a=1 />", "<async-io>", "<Sync/>", "< sync/>", "<syncs>", ' /> " tokens=3']
)
def test_what_only_resembles_a_tag_is_text(text: str) -> None:
    assert parse(text) == Answer((text,))


def test_whitespace_belongs_to_the_text() -> None:
    answer = parse(" \n<async topic='a'> x\n</async>\t<sync/> ")
    assert answer == Answer((" \n", Block("a", (" x\n",)), "\t", Sync(), " "))


P = '<promise topic="t" tokens=1 />'  # 30 characters
PROBLEMS = {
    f"a\n {P}": [(2, 2, "not kept")],
    f"{P} <async topic='u'>x</async>": [(1, 1, "not kept")],
    f"{P}<sync/>": [(1, 1, "not kept")],
    f"{P}{P}<async>x</async>": [(1, 1, "not kept")],
    f"<async topic='a'>{P}</async>": [(1, 18, "not kept")],
    "ab\n\ncd<async topic='a'>x": [(3, 3, "never closed")],
    "x</async>": [(1, 2, "closes nothing")],
    "a<sync/": [(1, 2, "no closing '>'")],
    "a <promise topic='b": [(1, 3, "no closing '>'")],
    "</sync>": [(1, 1, "</sync> is not a tag")],
    "</promise>": [(1, 1, "</promise> is not a tag")],
    "<async topic='a'>x</async x>": [(1, 19, "</async x> is not a tag"), (1, 1, "never closed")],
    "<sync>": [(1, 1, "<sync> is written")],
    "<async topic='a'/>x</async>": [(1, 1, "<async> is written")],
    '<promise topic="t" tokens=1><async>x</async>': [(1, 1, "<promise> is written")],
    "<async>x</async>": [(1, 1, "needs topic")],
    "<async topic=' '>x</async>": [(1, 1, "needs topic")],
    "<promise tokens=1 /><async>x</async>": [(1, 1, "needs topic")],
    "<async topic='a\"b'>x</async>": [(1, 1, "cannot contain quotes")],
    "<async topic='a<b'>x</async>": [(1, 1, "cannot contain quotes")],
    "<async topic='a\nb'>x</async>": [(1, 1, "cannot contain quotes, angle brackets or line breaks")],
    "<promise topic='a' /><async>x</async>": [(1, 1, "needs tokens=N")],
    "<promise topic='a' tokens=0 /><async>x</async>": [(1, 1, "needs tokens=N")],
    "<promise topic='a' tokens=-1 /><async>x</async>": [(1, 1, "needs tokens=N")],
    "<promise topic='a' tokens=1.5 /><async>x</async>": [(1, 1, "needs tokens=N")],
    "<promise topic='a' tokens=\u0662 /><async>x</async>": [(1, 1, "needs tokens=N")],
    f"<promise topic='a' tokens={'9' * 5000} /><async>x</async>": [(1, 1, "needs tokens=N")],
    "<async topic='a' topic='b'>x</async>": [(1, 1, "given twice")],
    "<async topic='a' tokens=2>x</async>": [(1, 1, "'tokens' of <async> is not known")],
    "<sync when='now'/>": [(1, 1, "'when' of <sync> is not known")],
    "<async topic='a' b>x</async>": [(1, 1, "cannot read 'b'")],
    f"{P}<async topic='a'>x</async>": [(1, 31, "carries no attributes")],
    "<async topic='a'>x\n<async topic='b'>y</async></async>": [(2, 1, "blocks cannot nest")],
    "<async topic='a'>x <sync/></async>": [(1, 20, "inside a chunk")],
}


@pytest.mark.parametrize("text", PROBLEMS, ids=lambda text: text[:40])
def test_names_every_problem_with_its_place(text: str) -> None:
    with pytest.raises(AnnotationError) as caught:
        parse(text)
    found = [(problem.line, problem.column) for problem in caught.value.problems]
    assert found == [place[:2] for place in PROBLEMS[text]]
    for problem, (line, column, words) in zip(caught.value.problems, PROBLEMS[text], strict=True):
        assert words in problem.message
        assert str(problem) == f"line {line}, column {column}: {problem.message}"


def test_the_error_lists_all_problems() -> None:
    with pytest.raises(AnnotationError, match=r"line 1, column 1: .*closes nothing.*\nline 2, column 1: .*never"):
        parse("</async>\n<async topic='a'>")


def test_blocks_nest_as_deep_as_allowed() -> None:
    text = "<async topic='a'><async topic='b'>x</async><sync/></async>"
    assert parse(text, max_depth=2) == Answer((Block("a", (Block("b", ("x",)), Sync())),))
    deeper = text.replace("x", "<async topic='c'>x</async>")
    with pytest.raises(AnnotationError, match="line 1, column 35: blocks nest at most 2 deep"):
        parse(deeper, max_depth=2)


def test_a_sync_may_not_stand_in_the_deepest_block() -> None:
    with pytest.raises(AnnotationError, match="inside a chunk"):
        parse("<async topic='a'><async topic='b'><sync/></async></async>", max_depth=2)


_SCRAPS = ["<", ">", "/", '"', "'", "=", " ", "\n", "<promise", "<async", "</async>", "<sync/>", "topic", "tokens"]
_SCRAPS += ["topic='a'", "tokens=2", " />", "<async>", "x", "9", '<promise topic="a" tokens=1 />']


@given(st.one_of(st.text(), st.lists(st.sampled_from(_SCRAPS)).map("".join)), st.integers(1, 3))
def test_scan_never_raises_and_places_lie_in_the_text(text: str, max_depth: int) -> None:
    answer, problems = scan(text, max_depth=max_depth)
    lines = text.split("\n")
    assert all(1 <= problem.column <= len(lines[problem.line - 1]) for problem in problems)
    assert problems or answer.depth <= max_depth
