"""Terms of quality against a judge: pairwise agreement and tau by hand, over the files that stage 2 writes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from pastalm.annotation.exchange import items_of, take_verdicts
from pastalm.annotation.judge import TO_JUDGE, read_pairs
from pastalm.evaluation.terms import TOGETHER, JudgedPair, agreement, term_agreements
from pastalm.files.journal import read_journal
from pastalm.files.lines import DataError
from pastalm.training.score import Scored


def pair(first: float, second: float) -> JudgedPair:
    """The judge prefers the first."""
    return JudgedPair({"coverage": first}, {"coverage": second}, True)


def test_a_pair_that_the_term_sees_as_equal_counts_half() -> None:
    found = agreement("coverage", [[pair(0.9, 0.2), pair(0.2, 0.2), pair(0.9, 0.2)], [pair(0.2, 0.9)]])
    assert found.pairs == 4
    assert found.share.value == pytest.approx(2.5 / 4) and found.tau.value == pytest.approx(2 * 2.5 / 4 - 1)
    assert found.share.low == 0 and found.share.high == pytest.approx(2.5 / 3)  # a resample of one prompt alone
    assert JudgedPair({"x": 1}, {"x": 2}, False).alike("x") == 1


def test_the_interval_narrows_with_prompts() -> None:
    mixed = [[pair(0.9, 0.2)], [pair(0.2, 0.9)], [pair(0.9, 0.2)]]
    few, many = (agreement("coverage", mixed * times) for times in (2, 40))
    assert few.share.value == many.share.value == pytest.approx(2 / 3)
    assert many.share.high - many.share.low < 0.5 * (few.share.high - few.share.low)


def write(path: Path, lines: list[dict[str, Any]]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A round of two prompts: three whole samples and a cut one, then one."""
    parts = [
        {"verdicts": 3.0, "redundancy": 0.5, "coverage": 0.9},
        {"verdicts": 3.0, "redundancy": 0.8, "coverage": 0.4},
        {"verdicts": 3.0, "redundancy": 0.8, "coverage": 0.1},
        {},
    ]
    texts = ["good", "fair", "poor", "cut"]
    listed = [
        {"id": "0", "prompt": "Which?", "against": ["base", "own"], "answers": texts[:3]},
        {"id": "1", "prompt": "What?", "against": ["base", "own"], "answers": ["good"]},
    ]
    places = [(0, n) for n in range(4)] + [(1, 0)]
    scored = [asdict(Scored(prompt, n, 1.0, 1.0, 1.0, bool(parts[n]), parts[n])) for prompt, n in places]
    write(tmp_path / "round1" / TO_JUDGE, listed)
    write(tmp_path / "round1" / "samples.jsonl", [{"prompt": p, "sample": n, "text": texts[n]} for p, n in places])
    write(tmp_path / "round1" / "scores.jsonl", scored)
    return tmp_path


def shares(folder: Path, order: str, form: str = "rankings") -> dict[str, float | None]:
    """The cache after a reader has put the answers into this order."""
    place = {text: n for n, text in enumerate(order.split())}
    lines = []
    for item in items_of(read_pairs(folder / "judge.jsonl"), form):
        named = sorted(zip(item.letters, item.answers, strict=True), key=lambda pair: place[pair[1]])
        lines.append({"id": item.id, "verdict": " > ".join(letter for letter, _ in named)})
    write(folder / "verdicts.jsonl", lines)
    take_verdicts([folder / "judge.jsonl"], read_pairs(folder / "judge.jsonl"), "anna", [folder / "verdicts.jsonl"])
    return {line["id"]: line["share"] for line in read_journal(folder / "judge.jsonl")}


def test_a_ranking_says_how_each_two_samples_are_held(folder: Path) -> None:
    found = {one.term: (one.pairs, one.share.value) for one in term_agreements(folder, *judged(folder))}
    assert found == {
        "redundancy": (3, pytest.approx(0.5 / 3)),  # fair and poor are equal to it
        "coverage": (3, 1.0),
        TOGETHER: (3, 1.0),  # 0.45 > 0.32 > 0.08
    }
    assert term_agreements(folder, judged(folder)[0], "ben") == []


def judged(folder: Path) -> tuple[dict[str, float | None], str]:
    return shares(folder, "good fair own base poor"), "anna"


def test_samples_of_several_processes_are_one_round(folder: Path) -> None:
    found, name = judged(folder)
    whole = folder / "round1" / "samples.jsonl"
    lines = whole.read_text().splitlines(keepends=True)
    whole.write_text("".join(lines[::2]))
    whole.with_name("samples.rank1.jsonl").write_text("".join(lines[1::2]))
    assert {one.term for one in term_agreements(folder, found, name)} == {"redundancy", "coverage", TOGETHER}


@pytest.mark.parametrize("kept, terms", [({"verdicts"}, []), ({"verdicts", "coverage"}, ["coverage"])])
def test_a_product_of_fewer_than_two_terms_is_not_shown(folder: Path, kept: set[str], terms: list[str]) -> None:
    found, name = judged(folder)
    scores = folder / "round1" / "scores.jsonl"
    lines = read_journal(scores)
    for line in lines:
        line["parts"] = {part: value for part, value in line["parts"].items() if part in kept}
    write(scores, lines)
    assert [one.term for one in term_agreements(folder, found, name)] == terms


def test_pairs_with_the_baseline_alone_say_nothing_of_two_samples(folder: Path) -> None:
    assert term_agreements(folder, shares(folder, "good fair own base poor", "pairs"), "anna") == []


def test_what_stage_2_has_not_written_is_refused(folder: Path) -> None:
    found = shares(folder, "good fair own base poor")
    assert term_agreements(folder / "elsewhere", found, "anna") == []
    write(folder / "round1" / "scores.jsonl", [{"id": "x"}])
    with pytest.raises(DataError, match="round1 is no round of `pasta train prefer --quality verdicts"):
        term_agreements(folder, found, "anna")
