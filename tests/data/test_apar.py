"""APAR's rules on plain answers: what is forked, what is not, and that no character changes."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pastalm.data.apar import evened, extract, mark
from pastalm.data.records import Record
from pastalm.lang.answer import Block
from pastalm.lang.dialects import dialect
from pastalm.lang.parse import parse
from pastalm.lang.positions import position_policy
from pastalm.lang.render import render_annotator
from pastalm.lang.script import compile_script
from pastalm.lang.vocabulary import Vocabulary
from pastalm.layout import layout

LIST = """Three places:

1. **Oslo**: a town by the sea.
2. **Lima, Peru:** a town of millions.
Near the sea too.

3. Kyoto: old and full of gardens.

All are worth a visit."""
LIST_MARKED = """Three places:

1. **Oslo**:<async topic='Oslo'> a town by the sea.</async>
2. **Lima, Peru:**<async topic='Lima Peru'> a town of millions.
Near the sea too.</async>

3. Kyoto:<async topic='Kyoto'> old and full of gardens.</async>

All are worth a visit."""

PARAGRAPHS = """Rain comes in the autumn. It is cold. Take a coat.

This line stands alone here.

Snow comes in the winter. It's deep.


Flowers come in the spring. They are many."""
PARAGRAPHS_MARKED = """Rain comes in the autumn.<async topic='Rain comes in'> It is cold. Take a coat.</async>

This line stands alone here.

Snow comes in the winter.<async topic='Snow comes in'> It's deep.</async>


Flowers come in the spring.<async topic='Flowers come in'> They are many.</async>"""


def marked(text: str, **options: bool) -> str:
    return render_annotator(extract(text, **options)[0])


def details(text: str, **options: bool) -> list[str]:
    return [block.plain for block in extract(text, **options)[0].blocks()]


def record(answer: str) -> Record:
    return Record(({"role": "user", "content": "hi"},), answer, id="a")


@pytest.mark.parametrize(
    "text, expected, rule", [(LIST, LIST_MARKED, "list"), (PARAGRAPHS, PARAGRAPHS_MARKED, "paragraphs")]
)
def test_the_two_rules(text: str, expected: str, rule: str) -> None:
    answer, found = extract(text)
    assert (render_annotator(answer), found) == (expected, rule)
    assert answer.plain == text


@pytest.mark.parametrize(
    "change, to",
    [
        ("3. Kyoto: old and full of gardens.", "That is all."),  # two items
        ("a town by the sea.", "a town"),  # seven characters with the space
        ("3. Kyoto: old and full", "3. Kyoto, old and full"),  # no head: it would be read into the second detail
        ("gardens", "gardens = parks"),
        ("gardens", "```gardens```"),
        ("gardens", "gardens, see http://kyoto"),
        ("gardens", "$$gardens$$"),
        ("gardens", "<b>gardens</b>"),
        ("All are", "---\nAll are"),
    ],
)
def test_lists_that_do_not_fork(change: str, to: str) -> None:
    assert change in LIST
    text = LIST.replace(change, to)
    assert marked(text) == text and extract(text)[1] == ""


@pytest.mark.parametrize(
    "change, to",
    [
        ("Flowers come in the spring. They are many.", "Flowers come in the spring."),  # two paragraphs fork
        ("This line stands alone here.", "Short."),
        ("Rain comes in the autumn.", "Rain. So."),
        ("It's deep.", "Mr. Snow likes it."),
        ("It's deep.", "x == y."),
    ],
)
def test_paragraphs_that_do_not_fork(change: str, to: str) -> None:
    assert change in PARAGRAPHS
    text = PARAGRAPHS.replace(change, to)
    assert marked(text) == text and extract(text)[1] == ""


def test_a_list_comes_before_paragraphs() -> None:
    text = "\n\n".join(f"{k}. Head {k}: one sentence of it. And one more." for k in (1, 2, 3))
    assert details(text) == [" one sentence of it. And one more."] * 3


def test_a_detail_ends_with_its_list() -> None:
    ones = "\n".join(f"{k}. Head {k}: detail of one.\n   - and more" for k in (1, 2))
    text = f"{ones}\n\nOthers:\n\n1. Head: detail of another.\n\nThe end."
    assert details(text) == [" detail of one.\n   - and more"] * 2 + [" detail of another."]


def test_a_colon_inside_a_word_makes_no_head() -> None:
    text = "\n".join(f"{k}. At 10:30 we meet: bring bread and water." for k in (1, 2, 3))
    assert details(text) == [" bring bread and water."] * 3


def test_bullets_fork_on_request_only() -> None:
    text = "\n".join(f"- Head {k}: detail of one,\n  in two lines." for k in (1, 2, 3)) + "\n\nThe end."
    assert extract(text)[1] == "" and extract(text, bullets=True)[1] == "list"
    assert details(text, bullets=True) == [" detail of one,\n  in two lines."] * 3


def test_other_scripts() -> None:
    lines = [f"{k}. 城市：这是一个很大的城市，人口很多。" for k in (1, 2, 3)]
    assert details("\n".join(lines)) == ["这是一个很大的城市，人口很多。"] * 3
    text = "\n\n".join(["这是一个有二十个字以上的第一个句子，还要再长一点。后面的话。"] * 3)
    assert details(text) == ["后面的话。"] * 3


PIECES = ["1. ", "2. ", "3. ", "- ", "Head: ", "**Bold:** ", "a detail of some length", ". ", "."]
PIECES += ["\n", "\n\n", " ", "。"]
PIECES += ["One sentence of twenty. ", "And one more. ", '"quoted"', "it's", "Mr.", "：", "\t", "é", "\r\n"]


@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join), st.booleans())
def test_nothing_of_the_text_changes_and_apar_s_own_form_can_hold_it(text: str, bullets: bool) -> None:
    answer, rule = extract(text, bullets=bullets)
    assert answer.plain == text
    assert (len(list(answer.blocks())) >= 3) == bool(rule) and answer.depth <= 1
    assert all(isinstance(node, str | Block) for node in answer.nodes)  # no sync: APAR has no join
    assert parse(render_annotator(answer)) == answer
    apar = dialect("apar")
    assert apar.read(apar.write(answer)) == answer


@given(st.permutations(range(1, 5)), st.integers(1, 3))
def test_lists_as_they_are_found(order: list[int], gap: int) -> None:
    lines = [f"{k}. Head {k}: detail number {k}" for k in order]
    text = ("\n" * gap).join(lines)
    expected = [f" detail number {k}" for k in order]
    joined = any(b != a + 1 for a, b in pairwise(order)) and gap == 1  # a new list in the same paragraph
    assert details(text) == ([] if joined else expected)


def test_threads_go_on_without_a_jump(vocabulary: Vocabulary) -> None:
    policy = position_policy("contiguous")
    laid = layout([1, 2], compile_script(extract(LIST)[0], vocabulary, policy), policy)
    main = laid.positions[laid.block == 0].tolist()
    assert main == list(range(len(main)))


def test_records_are_counted_by_rule_and_fault() -> None:
    counts: Counter[str] = Counter()
    answers = (LIST, "Yes.", "", PARAGRAPHS, LIST)
    found = list(mark(map(record, answers), counts))
    assert counts == {"list": 2, "paragraphs": 1, "sequential": 1, "no answer": 1}
    head = {"id": "a", "prompt": "hi"}
    assert found[0] == {**head, "annotated": LIST_MARKED, "answer": LIST, "rule": "list"}
    assert found[1] == {**head, "annotated": "Yes.", "answer": "Yes.", "rule": ""}


def test_both_kinds_come_half_and_half() -> None:
    for forked, sequential in permutations((["a", "b"], [1, 2, 3, 4, 5])):
        lines = Counter(evened(list(forked), list(sequential)))
        assert lines == {1: 1, 2: 1, 3: 1, 4: 1, 5: 1, "a": 3, "b": 2}
    assert list(evened([], [1, 2])) == list(evened([1, 2], [])) == [1, 2]
