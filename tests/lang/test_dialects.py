"""The dialects: what each reads and writes, what it refuses and why, and that nothing is ever lost silently."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pastalm.lang.answer import Answer, Block, Node, Sync
from pastalm.lang.dialects import DIALECTS, ConversionError, dialect, drop_lengths, drop_topics, shorten_topics
from pastalm.lang.dialects.dialect import normal
from pastalm.lang.parse import parse
from tests.strategies import answers

SAMPLES = Path(__file__).parent / "samples"
CASES = [
    pytest.param(name, case, id=f"{name}-{index}")
    for name in DIALECTS
    for index, case in enumerate((SAMPLES / f"{name}.txt").read_text(encoding="utf-8").split("=====\n"))
]
TAGS = sorted({tag for each in DIALECTS.values() for tag in each.abilities.tags})
SCRAPS = [
    *TAGS,
    "1: ",
    "2: ",
    "1. a\n",
    "2. a",
    "\n",
    " ",
    "a",
    "a 1",
    "a: ",
    "<async topic='a'>",
    "<sync/>",
    "</async>",
]
names = st.sampled_from(sorted(DIALECTS))


def blocks(answer: Answer) -> list[tuple[str, str]]:
    return [(block.topic, block.plain) for block in answer.blocks()]


# Reading and writing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, text", CASES)
def test_samples_come_back_byte_for_byte(name: str, text: str) -> None:
    text = text.removesuffix("\n")
    assert dialect(name).write(dialect(name).read(text)) == text


@pytest.mark.parametrize("name", DIALECTS)
def test_every_dialect_has_samples_with_chunks(name: str) -> None:
    first = (SAMPLES / f"{name}.txt").read_text(encoding="utf-8").split("=====\n")[0]
    assert dialect(name).read(first).depth >= 1


FIELD = Answer(
    (Block("long side", ("It is 24.",)), "\n", Block("short side", ("It is 10.",)), "\n", Sync(), "\nSo 240.")
)
LAYOUTS = {
    "multiverse": (
        "<Parallel>\n<Goal>\n<Outline>1: long side</Outline>\n <Outline> 2: short side </Outline>\n</Goal>\n<Path>\n"
        "1: It is 24.</Path>\n<Path>\n2: It is 10.</Path>\n<Conclusion>\nSo 240.</Conclusion></Parallel>"
    ),
    "npr": (
        "<guideline>\n<plan>1: long side</plan>\n<plan>2: short side</plan>\n</guideline>\n<step>\n1: It is 24."
        "</step>\n<step>2: It is 10.</step>\n<takeaway>\nSo 240.</takeaway>"
    ),
    "threadweaver": (
        "<Parallel>\n<Outlines>\n<Outline>1: long side</Outline>\n<Outline>2: short side</Outline>\n</Outlines>\n"
        "<Thread>\n1: It is 24.</Thread>\n<Thread>\n2: It is 10.</Thread>\n</Parallel>\nSo 240."
    ),
    "aspd": (
        "<|title|>long side<|/title|>\n<|title|> short side<|/title|>\n<|para|>\n<|branch|>long side: It is 24."
        "<|/branch|>\n<|branch|>short side:It is 10.<|/branch|>\n<|/para|>\nSo 240."
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout_in_a_plan_is_dropped_and_all_other_white_space_kept(name: str) -> None:
    assert dialect(name).read(LAYOUTS[name]) == FIELD


def test_a_join_is_implied_only_if_something_follows() -> None:
    group = "<Parallel><Goal><Outline>1: a</Outline></Goal><Path>1: x</Path></Parallel>"
    one = Block("a", ("x",))
    assert dialect("multiverse").read(group) == Answer((one,))
    assert dialect("multiverse").read(group + "\n") == Answer((one, "\n"))
    assert dialect("multiverse").read(group + "\nso") == Answer((one, Sync(), "\nso"))
    assert dialect("multiverse").read(group + group) == Answer((one, Sync(), one))


def test_planned_diffusion_reads_promises_first_or_in_place() -> None:
    read = dialect("planned-diffusion").read
    first, second = Block("a", ("x",), 3), Block("b", ("y",), 12)
    ahead = (
        "<promise>-<topic>a 3</topic><promise>-<topic>b 12</topic><async>x</async><async>y</async><sync/>z<|im_end|>"
    )
    assert read(ahead) == Answer((first, second, Sync(), "z"))
    in_place = "<promise>-<topic>a 3</topic><async>x[PAD][PAD]</async><promise>-<topic>b 12</topic><async>y</async>"
    assert read(in_place) == Answer((first, second))
    assert dialect("planned-diffusion").write(read(in_place)).startswith(ahead.split("<sync/>")[0])


def test_apar_reads_the_names_of_its_vocabulary_and_takes_topics_from_the_text() -> None:
    answer = dialect("apar").read("1. Oslo and its old town:[SplitMask]\n[SplitMask][SplitSop] x[SplitSop]y")
    assert blocks(answer) == [("Oslo and its", " x"), ("part 2", "y")]


def test_outlines_of_a_skeleton_are_the_topics() -> None:
    answer = dialect("skeleton").read("1. Saw\n2. Glue it\n\n1. Saw: cut.\n2. Glue it: wait.\n")
    assert answer == Answer((Block("Saw", ("1. Saw: cut.",)), "\n", Block("Glue it", ("2. Glue it: wait.",)), "\n"))


# Refusing ------------------------------------------------------------------------------------------------------------

A, B = "<async topic='a'>x</async>", "<async topic='b'>y</async>"
UNSAYABLE = {
    ("apar", f"p\n{A}<sync/>"): "no join: the sync after the chunk 'a' would be lost .at line 2, column 2",
    ("apar", A): "no topics: 'a' would be lost",
    ("skeleton", f"{A}<sync/>z"): "no join",
    ("skeleton", f"{A}\n"): "must begin with '1. a'",
    ("skeleton", "<async topic='a'>1. a</async>z"): "no text after its chunks: 'z'",
    ("skeleton", "z<async topic='a'>1. a</async>"): "no text before its points: 'z'",
    ("skeleton", "<async topic='a'>1. a</async><async topic='b'>2. b</async>"): "begins a line with each point",
    ("skeleton", "z"): "needs chunks",
    ("multiverse", f"{A} and {B}"): "no text between the chunks of a group: ' and '",
    ("multiverse", f"{A} z"): "joins right after a group: ' z', written without waiting for the chunk 'a'",
    ("multiverse", "<sync/>z"): "has none to wait for",
    ("multiverse", f"<Path>{A}"): "'<Path>' contains '<Path>', which is a tag",
    ("npr", f"{A} and {B}"): "no text between",
    ("threadweaver", f"{A}\n<sync/>\n"): "no sync that nothing follows",
    ("threadweaver", f"<async topic='o'>{A}</async>"): "no nested chunks: 'a' stands inside 'o'",
    ("aspd", f"{A}{A}"): "drops a branch whose title another one of its group has: 'a'",
    ("aspd", f"<async topic='o'>{A}</async>"): "no nested chunks",
    ("planned-diffusion", A): "needs the length of each chunk, and 'a' has none",
    ("planned-diffusion", "<promise topic='top 3' tokens=2 /><async>x</async>"): "first number of a promise",
    ("planned-diffusion", "<promise topic='a' tokens=100 /><async>x</async>"): "from 1 to 99: tokens=100",
    ("multiverse", "<promise topic='a' tokens=7 /><async>x</async>"): "no length hints: tokens=7 of the chunk 'a'",
    ("pasta", A): "needs the length",
}


@pytest.mark.parametrize("name, text", UNSAYABLE)
def test_names_what_would_be_lost(name: str, text: str) -> None:
    with pytest.raises(ConversionError, match=UNSAYABLE[name, text]):
        dialect(name).write(parse(text, max_depth=3))


UNREADABLE = {
    ("apar", "a\n[Fork]"): "line 2, column 7: not APAR: .Child. must stand here, but the text ends",
    ("apar", "a[Child]b"): "must have a .Fork. of its own",
    ("multiverse", "</Path>"): "line 1, column 1",
    ("multiverse", "<Parallel><Goal></Goal></Parallel>"): "a plan needs an outline",
    ("multiverse", "<Parallel><Goal><Outline>2: a</Outline>"): "outline 1 must begin with '1:'",
    ("multiverse", "<Parallel><Goal><Outline>1: a</Outline></Goal><Path>2: x</Path></Parallel>"): "thread 1 must begin",
    ("multiverse", "<Parallel><Goal><Outline>1: a</Outline></Goal></Parallel>"): "<Path> must stand here",
    ("threadweaver", "<Parallel><Outlines><Outline>1: a</Outline></Outlines><Thread>1: <Parallel>"): "at most 1 deep",
    ("aspd", "<|title|>a<|/title|><|para|><|branch|>b: x<|/branch|><|/para|>"): "must begin with its title, 'a:'",
    ("planned-diffusion", "<promise>-<topic>a</topic>"): "of one or two digits",
    ("planned-diffusion", "<promise>-<topic>a 3</topic><sync/>"): "the promise 'a' must be kept",
    ("planned-diffusion", "<async>x</async>"): "must keep a promise",
    ("planned-diffusion", "<promise>-<topic>a 3</topic><async>x<async>"): "</async> must stand here",
    ("skeleton", "Hello"): "needs '1. ..' and an empty line",
    ("skeleton", "1. a\n3. b\n\n1. a"): "point 2 must stand here",
    ("skeleton", "1. a\n2. b\n\n1. a"): "begins with '2. b'",
    ("pasta", "x</async>"): "closes nothing",
}


@pytest.mark.parametrize("name, text", UNREADABLE)
def test_says_where_a_text_cannot_be_read(name: str, text: str) -> None:
    with pytest.raises(ConversionError, match=UNREADABLE[name, text]):
        dialect(name).read(text)


def test_topics_are_never_cut_without_being_asked() -> None:
    answer = Answer((Block('the "very" long title', ("x",), 1), Block("fine", (Block("<>", (), 1),), 1)))
    with pytest.raises(ConversionError, match="at most 3 words"):
        dialect("pasta").write(answer)
    shortened, count = shorten_topics(answer)
    assert count == 2 and [block.topic for block in shortened.blocks()] == ["the very long", "fine", "part"]
    with pytest.raises(ConversionError, match="no quotes"):
        dialect("pasta-annotator").write(Answer((Block('"a"', ("x",)),)))
    with pytest.raises(ConversionError, match="one has none"):
        dialect("pasta-annotator").write(Answer((Block("", ("x",)),)))


def test_what_is_dropped_is_counted() -> None:
    answer = Answer(("Oslo:", Block("fjord", ("x",), 2), "Lima:", Block("Lima", ("y",))))
    assert drop_lengths(answer)[1] == 1
    titled, count = drop_topics(answer, dialect("apar"))
    assert (blocks(titled), count) == ([("Oslo", "x"), ("Lima", "y")], 1)
    assert drop_topics(answer, dialect("aspd")) == (answer, 0)


def test_text_that_would_become_a_tag_is_escaped() -> None:
    for name in ("pasta", "pasta-annotator"):
        said = dialect(name).write(Answer(("a <sync/> b",)))
        assert said == "a &lt;sync/> b" and dialect(name).read(said) == Answer(("a <sync/> b",))


def test_an_unknown_dialect_names_those_there_are() -> None:
    with pytest.raises(ValueError, match="no dialect 'x'; there are: pasta, "):
        dialect("x")


# Properties ----------------------------------------------------------------------------------------------------------


@given(names, st.one_of(st.text(), st.lists(st.sampled_from(SCRAPS)).map("".join)))
def test_reading_raises_nothing_else_and_what_is_read_is_stable(name: str, text: str) -> None:
    try:
        answer = dialect(name).read(text)
        written = dialect(name).write(answer)
    except ConversionError:
        return
    assert dialect(name).read(written) == answer


@given(st.sampled_from(CASES), st.data())
def test_damaged_samples_are_read_or_refused(case: pytest.ParameterSet, data: st.DataObject) -> None:
    name, text = case.values
    places = st.integers(0, len(text))
    start, end = sorted([data.draw(places), data.draw(places)])
    moved = data.draw(st.sampled_from(["", text[start:end] * 2, *SCRAPS]))
    try:
        answer = dialect(name).read(text[:start] + moved + text[end:])
        written = dialect(name).write(answer)
    except ConversionError:
        return
    assert dialect(name).read(written) == answer


@given(names, st.one_of(answers(2), answers(2, measured=False)))
def test_an_answer_is_said_exactly_or_refused(name: str, answer: Answer) -> None:
    try:
        text = dialect(name).write(answer)
    except ConversionError:
        return
    again = dialect(name).read(text)
    assert again == normal(answer) and again.plain == answer.plain and blocks(again) == blocks(answer)
    assert dialect(name).write(again) == text


words = st.lists(st.sampled_from(["red", "ox", "by", "é", "boys'", "x-y"]), min_size=1, max_size=3).map(" ".join)
prose = st.text("ab .\n1:", min_size=1, max_size=8).map(lambda text: f"z{text}z")
spaces = st.sampled_from(["", " ", "\n", "\n\n"])


def group(topics: list[str], body: st.SearchStrategy[tuple[Node, ...]]) -> st.SearchStrategy[tuple[Node, ...]]:
    """Chunks of these topics with white space between them."""
    parts = [st.tuples(st.builds(Block, st.just(topic), body), spaces) for topic in topics]
    return st.tuples(*parts).map(lambda pairs: tuple(node for pair in pairs for node in pair))


def groups(body: st.SearchStrategy[tuple[Node, ...]]) -> st.SearchStrategy[tuple[Node, ...]]:
    """Texts and groups in turn, each group but the last joined: what every dialect with a join can say."""
    one = st.lists(words, min_size=1, max_size=3, unique=True).flatmap(lambda topics: group(topics, body))
    joined = st.tuples(one, prose).map(lambda pair: (*pair[0], Sync(), pair[1]))
    return st.tuples(prose, st.lists(joined, max_size=2), st.one_of(one, st.just(()))).map(
        lambda parts: (parts[0], *(node for part in parts[1] for node in part), *parts[2])
    )


flat = groups(prose.map(lambda text: (text,)))
nested = groups(st.one_of(prose.map(lambda text: (text,)), flat))


def measured(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    return tuple(
        replace(node, tokens=7, body=measured(node.body)) if isinstance(node, Block) else node for node in nodes
    )


SAYABLE: dict[str, tuple[st.SearchStrategy[tuple[Node, ...]], Callable[..., tuple[Node, ...]]]] = {
    "pasta": (nested, measured),
    "pasta-annotator": (nested, tuple),
    "planned-diffusion": (flat, measured),
    "multiverse": (nested, tuple),
    "npr": (nested, tuple),
    "threadweaver": (flat, tuple),
    "aspd": (flat, tuple),
}


@pytest.mark.parametrize("name", SAYABLE)
@given(st.data())
def test_what_a_dialect_can_say_makes_the_round_trip(name: str, data: st.DataObject) -> None:
    nodes, change = SAYABLE[name]
    answer = normal(Answer(change(data.draw(nodes))))
    text = dialect(name).write(answer)
    assert dialect(name).read(text) == answer
    assert dialect(name).write(dialect(name).read(text)) == text


@given(flat)
def test_all_dialects_with_a_join_say_the_same(nodes: tuple[Node, ...]) -> None:
    answer = normal(Answer(nodes))
    for name in ("pasta-annotator", "multiverse", "npr", "threadweaver", "aspd"):
        answer = dialect(name).read(dialect(name).write(answer))
    assert answer == normal(Answer(nodes))


threads = st.recursive(
    prose.map(lambda text: (text,)),
    lambda inner: st.lists(st.tuples(prose, st.builds(Block, words, inner)), min_size=1, max_size=3).map(
        lambda pairs: tuple(node for pair in pairs for node in pair)
    ),
    max_leaves=6,
)


@given(threads)
def test_apar_says_any_tree_without_syncs(nodes: tuple[Node, ...]) -> None:
    answer, _ = drop_topics(normal(Answer(nodes)), dialect("apar"))
    assert dialect("apar").read(dialect("apar").write(answer)) == answer
    assert answer.plain == Answer(nodes).plain


@given(st.lists(st.tuples(words, st.text("ab .", max_size=6).map(lambda text: f": {text}z")), min_size=1, max_size=12))
def test_a_skeleton_says_numbered_points(points: list[tuple[str, str]]) -> None:
    chunks = [Block(topic, (f"{k}. {topic}{text}",)) for k, (topic, text) in enumerate(points, 1)]
    answer = Answer(tuple(node for chunk in chunks for node in (chunk, "\n")))
    assert dialect("skeleton").read(dialect("skeleton").write(answer)) == answer


def test_the_dialects_import_no_torch() -> None:
    program = "import sys, pastalm.lang.dialects; print([n for n in ('torch', 'transformers') if n in sys.modules])"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"
