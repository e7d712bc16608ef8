"""The report on a data set: every figure by hand; the plots; the demonstrations of the annotator."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest

from pastalm.annotation.prompts import DEMONSTRATIONS
from pastalm.data.check import check_file
from pastalm.data.plots import NoPlotsError, write_plots
from pastalm.data.report import Census, Spread
from pastalm.lang.answer import Sync
from pastalm.lang.parse import parse
from pastalm.lang.positions import POLICIES
from pastalm.lang.vocabulary import Vocabulary

POLICY = POLICIES["pred10"]
TWO = (
    "Hi there: <async topic='a'>one two three four five</async> and <async topic='b'>one two three four six</async> end"
)


def census(*annotated: str, vocabulary: Vocabulary | None = None) -> Census:
    found = Census(POLICY, vocabulary, "tiny" if vocabulary else "")
    for text in annotated:
        found.add(parse(text))
    return found


def test_figures_in_words_by_hand():
    report = census(TWO, "no block in six words here").report()
    assert (report.unit, report.positions, report.answers, report.blocks) == ("words", "pred10", 2, 2)
    assert (report.forking, report.blocks_per_answer, report.blocks_per_forking_answer) == (0.5, 1, 2)
    assert report.block_counts == {0: 1, 2: 1}
    assert report.tokens_per_block == Spread(5, 5, 5, 5, 5, 5)
    # Main: 2 words, a promise of 3 tags with topic and number, 1 word, another promise, 1 word: 14 steps. The second
    # block starts after 13 of them and writes 5 words and its end: 19 steps in all, for 14 words.
    assert report.speedup_forking.geometric == pytest.approx(14 / 19)
    assert report.speedup.geometric == pytest.approx(math.sqrt(14 / 19))
    assert report.speedup.arithmetic == pytest.approx((14 / 19 + 1) / 2)
    assert report.parallelism_forking.arithmetic == pytest.approx(14 / 19)
    assert report.redundancy == 0.5  # "one two three four" of two 4-grams
    assert report.length_errors is None


def test_lengths_are_measured_in_tokens_against_those_promised(vocabulary: Vocabulary):
    words = "hello world foo bar 12 34"
    content = len(vocabulary.encode(words))
    measured = math.ceil((content + 2) / 10)
    promised = [measured + 2, measured, measured - 1 or measured + 1]
    text = "".join(f'<promise topic="a" tokens={n} /><async>{words}</async>' for n in promised)
    found = census(text, f"<async topic='a'>{words}</async>", vocabulary=vocabulary).report()
    errors = [n - measured for n in promised]
    assert found.unit == "tokens of tiny" and found.tokens_per_block.most == content
    assert found.length_errors is not None and (found.length_errors.blocks, found.length_errors.unit) == (3, 10)
    assert found.length_errors.signed == pytest.approx(sum(errors) / 3)
    assert found.length_errors.absolute == pytest.approx(sum(map(abs, errors)) / 3)
    assert found.length_errors.exact == pytest.approx(1 / 3)
    assert census(f"<async topic='a'>{words}</async>", vocabulary=vocabulary).report().length_errors is None
    assert census(text).report().length_errors is None  # words are not what the attribute counts


def test_nothing_gives_no_figures_and_clean_json():
    report = census().report()
    assert math.isnan(report.speedup.geometric)
    assert json.loads(json.dumps(report.as_json(), allow_nan=False))["speedup"] == {
        "geometric": None,
        "arithmetic": None,
    }


def test_spreads():
    assert Spread.of([5, 1, 3]) == Spread(3, 1, 1, 3, 3, 5)
    assert Spread.of(range(101)) == Spread(50, 0, 10, 50, 90, 100)


def test_plots_are_written_and_show_something(tmp_path: Path, vocabulary: Vocabulary):
    text = '<promise topic="a" tokens=3 /><async>hello world foo bar hello</async>' * 3
    written = write_plots(census(text, TWO, "plain", vocabulary=vocabulary), tmp_path / "new" / "plots")
    names = [path.name for path in written]
    assert names == ["blocks_per_answer.png", "tokens_per_block.png", "speedup.png", "length_error.png"]
    from matplotlib.image import imread

    for path in written:
        pixels = imread(path)
        assert pixels.shape[:2] == (600, 960) and pixels.std() > 0.05
    assert [path.name for path in write_plots(census("plain"), tmp_path)] == ["blocks_per_answer.png"]
    assert write_plots(census(), tmp_path) == []


def test_plots_without_matplotlib_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(NoPlotsError, match=r"pip install 'pastalm\[plots\]'"):
        write_plots(census(TWO), tmp_path)


def test_the_demonstrations_pass_the_check_and_cover_their_ground(tmp_path: Path):
    file = tmp_path / "demonstrations.jsonl"
    rows = [{"prompt": one.question, "answer": one.answer, "annotated": one.annotated} for one in DEMONSTRATIONS]
    file.write_text("\n".join(map(json.dumps, rows)))
    records = list(check_file(file))
    assert len(records) == 7 and not any(record.findings for record in records)
    trees = {one.shows: parse(one.annotated) for one in DEMONSTRATIONS}
    blocks = {shows: len(list(tree.blocks())) for shows, tree in trees.items()}
    syncs = {shows: sum(isinstance(node, Sync) for node in tree.nodes) for shows, tree in trees.items()}
    expected = {  # what it shows: blocks, syncs
        "prose": (4, 0),
        "lists": (4, 0),
        "a dependent conclusion after a sync": (2, 1),
        "maths": (3, 1),
        "code, where nothing is marked": (0, 0),
        "a short answer, where nothing is marked": (0, 0),
        "an answer with two syncs": (4, 2),
    }
    assert {shows: (blocks[shows], syncs[shows]) for shows in trees} == expected
    text = {one.shows: one.answer for one in DEMONSTRATIONS}
    assert not any(line[:2] in ("- ", "1.") for line in text["prose"].splitlines())
    assert text["lists"].count("\n2. ") == 1 and "```" in text["code, where nothing is marked"]
    assert len(text["a short answer, where nothing is marked"].split()) < 20
    for shows in ("a dependent conclusion after a sync", "maths"):
        last = trees[shows].nodes[-1]
        assert isinstance(trees[shows].nodes[-2], Sync) and isinstance(last, str) and len(last.split()) > 5
