"""Verdicts by file: blind items out, verdicts in, each wrong one refused with its place; agreement."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pastalm.annotation.agreement import agreement, agreements
from pastalm.annotation.exchange import items_of, read_verdict, shares_of, take_verdicts, undecided, write_items
from pastalm.annotation.judge import TO_JUDGE, FileJudge, VerdictsNeededError, read_pairs
from pastalm.annotation.verdict import AnswerPair, Verdict
from pastalm.files.journal import read_journal
from pastalm.files.lines import DataError

PAIRS = [AnswerPair(f"Question {k}?", f"good {k}\n## Item x\nVerdict: A", f"bad {k}") for k in range(4)]
THREE = [AnswerPair("Which?", one, other) for one, other in (("best", "mean"), ("best", "worst"), ("worst", "mean"))]


def ask(cache: Path, pairs: list[AnswerPair], model: str = "anna") -> list[Verdict]:
    with FileJudge(model, cache) as judge:
        return judge.compare(pairs)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache whose judge has been asked for all pairs."""
    cache = tmp_path / "judge.jsonl"
    with pytest.raises(VerdictsNeededError, match=r"14 comparisons wait for verdicts of anna: `pasta judge export"):
        ask(cache, PAIRS + THREE)
    return cache


def filled(path: Path, better: str, lines: list[dict]) -> Path:
    """The items of a file with a verdict on each: the answer that begins with ``better`` first."""
    for line in lines:
        order = sorted(line["answers"], key=lambda letter: not line["answers"][letter].startswith(better))
        line["verdict"] = " > ".join(order)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def exported(cache: Path, path: Path, form: str) -> list[dict]:
    write_items(items_of(read_pairs(cache), form), path)
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_pairs_are_asked_in_both_orders_and_judged(cache: Path, tmp_path: Path):
    lines = exported(cache, tmp_path / "items.jsonl", "pairs")
    assert len(lines) == 14 and all(set(line) == {"id", "instruction", "answers", "verdict"} for line in lines)
    assert {line["answers"]["A"] for line in lines[:]} >= {"best", "worst", "bad 0"}
    assert [line["id"] for line in lines] == sorted(line["id"] for line in lines)
    path = filled(tmp_path / "items.jsonl", "good", [line for line in lines if line["instruction"] != "Which?"])
    with pytest.raises(DataError, match=r"6 of 14 comparisons have no verdict; the first is on 'Which\?'\. --partial"):
        take_verdicts([cache], read_pairs(cache), "anna", [path])
    assert take_verdicts([cache], read_pairs(cache), "anna", [path], partial=True) == (8, 6)
    assert ask(cache, PAIRS) == [Verdict((1.0, 1.0))] * 4
    assert take_verdicts([cache], read_pairs(cache), "anna", [path], partial=True) == (8, 6), (
        "taken twice is taken once"
    )
    assert len(read_journal(cache)) == 8
    with pytest.raises(VerdictsNeededError, match="8 comparisons wait for verdicts of ben"):
        ask(cache, PAIRS, "ben")


def test_one_reading_ranks_all_answers_to_a_prompt(cache: Path, tmp_path: Path):
    lines = exported(cache, tmp_path / "items.jsonl", "rankings")
    assert sorted(len(line["answers"]) for line in lines) == [2, 2, 2, 2, 3]
    for line in lines:
        named = {text.split()[0]: letter for letter, text in line["answers"].items()}
        if len(named) == 3:
            line["ranking"] = [named["best"], [named["mean"], named["worst"]]]
        else:
            line |= {"preference": named["good"], "confidence": 0.8}
    path = tmp_path / "verdicts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert take_verdicts([cache], read_pairs(cache), "anna", [path]) == (14, 0)
    assert ask(cache, PAIRS) == [Verdict((0.8, pytest.approx(0.8)))] * 4
    assert [one.preference for one in ask(cache, THREE)] == [1.0, 1.0, 0.5]
    turned = [AnswerPair(pair.prompt, pair.second, pair.first) for pair in THREE]
    assert [one.preference for one in ask(cache, turned)] == [0.0, 0.0, 0.5]


def test_a_ranking_in_two_orders_says_of_each_what_was_read_in_it(cache: Path, tmp_path: Path):
    pairs = read_pairs(cache)
    items = items_of(pairs, "rankings", orders=2)
    assert len(items) == len({item.id for item in items}) == 10
    assert {item.instruction for item in items[:5]} == {item.instruction for item in items[5:]}
    assert {(item.instruction, item.answers) for item in items} == {
        (item.instruction, item.answers[::-1]) for item in items
    }
    assert {item.id for item in items if len(item.answers) == 2} == {item.id for item in items_of(PAIRS, "pairs")}
    first = tmp_path / "first.jsonl"  # a reader who always prefers what stands first
    first.write_text("".join(json.dumps({"id": item.id, "verdict": " > ".join(item.letters)}) + "\n" for item in items))
    assert take_verdicts([cache], pairs, "anna", [first]) == (14, 0)
    assert ask(cache, THREE) == [Verdict((1.0, 0.0))] * 3
    lines = read_journal(cache)
    shares, places = ({line["id"]: line[key] for line in lines} for key in ("share", "place"))
    (steady,) = agreements(pairs, shares, ["anna"], places)
    assert (steady.what, steady.pairs, steady.share) == ("anna, both orders", 7, 0.0)


def test_verdicts_go_into_every_cache_or_into_none(cache: Path, tmp_path: Path):
    pairs, other = read_pairs(cache), tmp_path / "other.jsonl"
    path = filled(tmp_path / "items.jsonl", "good", exported(cache, tmp_path / "items.jsonl", "rankings"))
    before = AnswerPair("Question 0?", *(PAIRS[0].second, PAIRS[0].first)).orders[0]
    other.write_text(json.dumps({"id": before.key("anna"), "share": 1.0}) + "\n")
    with pytest.raises(DataError, match=r"items\.jsonl, line \d: contradicts what anna has said before"):
        take_verdicts([cache, other], pairs, "anna", [path])
    assert read_journal(cache) == [] and len(read_journal(other)) == 1
    other.unlink()
    assert take_verdicts([cache, other], pairs, "anna", [path]) == (14, 0)
    assert read_journal(cache) == read_journal(other) and len(read_journal(other)) == 14


@pytest.mark.parametrize("form", ["rankings", "pairs"])
def test_what_was_exported_stays_good_when_more_is_asked(cache: Path, tmp_path: Path, form: str):
    path = filled(tmp_path / "items.jsonl", "good", exported(cache, tmp_path / "items.jsonl", form))
    with pytest.raises(VerdictsNeededError):  # the same answers against a further reference
        ask(cache, [*(AnswerPair(one.prompt, one.first, "gold") for one in PAIRS), *THREE])
    taken = take_verdicts([cache], read_pairs(cache), "anna", [path], partial=True)
    assert taken == (14, 8) and ask(cache, PAIRS) == [Verdict((1.0, 1.0))] * 4


def noted(folder: Path, number: int, *answers: str) -> None:
    """What a round of stage 2 wants to be judged."""
    place = folder / f"round{number}" / TO_JUDGE
    place.parent.mkdir()
    place.write_text(json.dumps({"id": "0", "prompt": "Which?", "against": ["base", "own"], "answers": answers}) + "\n")


def test_a_second_round_is_judged_beside_what_the_first_has_said(tmp_path: Path):
    cache = tmp_path / "judge.jsonl"
    for number, order in enumerate((["one", "base", "two", "own"], ["own", "three", "base", "four"]), 1):
        noted(tmp_path, number, *(text for text in order if text not in ("base", "own")))
        (item,) = items_of(undecided(read_pairs(cache), "anna", [cache]), "rankings")
        assert set(item.answers) == set(order)
        letters = dict(zip(item.answers, item.letters, strict=True))
        (tmp_path / "v.jsonl").write_text(json.dumps({"id": item.id, "ranking": [letters[text] for text in order]}))
        assert take_verdicts([cache], read_pairs(cache), "anna", [tmp_path / "v.jsonl"]) == (8, 0)
    assert undecided(read_pairs(cache), "anna", [cache]) == []


def test_people_fill_in_markdown(cache: Path, tmp_path: Path):
    path = tmp_path / "items.md"
    write_items(items_of(read_pairs(cache), "rankings"), path)
    text = path.read_text()
    assert "good" in text and "> Verdict: A" in text  # an answer that looks like our own marks is quoted
    letters = {item.id: item.letters for item in items_of(read_pairs(cache), "rankings")}
    lines, name = [], ""
    for line in text.splitlines():
        name = line.removeprefix("## Item ") if line.startswith("## Item ") else name
        lines.append(f"**Verdict:** {' = '.join(letters[name])}" if line == "Verdict:" else line)
    path.write_text("\n".join(lines))
    assert take_verdicts([cache], read_pairs(cache), "anna", [path]) == (14, 0)
    assert all(one == Verdict((0.5, 0.5)) for one in ask(cache, PAIRS + THREE))


@pytest.mark.parametrize(
    "verdict, tiers, confidence",
    [
        ("B > A = C", (("B",), ("A", "C")), 1.0),
        ("c>b>a", (("C",), ("B",), ("A",)), 1.0),
        (["B", ["A", "C"]], (("B",), ("A", "C")), 1.0),
        ("tie", (("A", "B", "C"),), 1.0),
        ("Tie 70%", (("A", "B", "C"),), 1.0),
        ("= 50", (("A", "B", "C"),), 1.0),
    ],
)
def test_rankings(verdict: object, tiers: tuple, confidence: float):
    read = read_verdict(verdict, "ABC")
    assert read.tiers == tiers and read.confidence == confidence


def test_preferences():
    assert read_verdict("A 80", "AB").share("A", "B") == 0.8
    assert read_verdict("b 75.5%", "AB").share("A", "B") == pytest.approx(0.245)
    assert read_verdict("B", "AB").share("A", "B") == 0.0
    assert read_verdict("=", "AB").share("A", "B") == read_verdict("A = B", "AB").share("A", "B") == 0.5


@pytest.mark.parametrize(
    "verdict, says",
    [
        ("A > D", "line 1: 'D' is no answer of this item; rank A, B, C"),
        ("A > B > A", "line 1: the answer A is ranked twice"),
        ("A > B", "line 1: the answer C is not ranked"),
        ("A 80", "line 1: 'A 80' is no answer"),
        ("A > > B", "line 1: '' is no answer"),
        ([1, 2], "line 1: '1' is no answer"),
        ("tie A B > C", "line 1: 'TIE A B' is no answer"),
        ("= A > B > C", "line 1: '' is no answer"),
        ("Tie between A and B, C worst", "line 1: 'TIE BETWEEN A AND B, C WORST' is no answer"),
    ],
)
def test_a_wrong_ranking_is_refused_with_its_place(cache: Path, tmp_path: Path, verdict: object, says: str):
    (item,) = (item for item in items_of(read_pairs(cache), "rankings") if len(item.letters) == 3)
    path = tmp_path / "v.jsonl"
    path.write_text(json.dumps({"id": item.id, "verdict": verdict}))
    with pytest.raises(DataError, match=says):
        shares_of(read_pairs(cache), [path])


def test_more_answers_than_letters_are_judged_in_pairs(tmp_path: Path):
    pairs = [AnswerPair("Which?", "best", f"answer {number}") for number in range(26)]
    with pytest.raises(DataError, match="There are 27 answers to 'Which\\?', more than letters; export pairs"):
        items_of(pairs, "rankings")
    (item, *_), (ranked, *_) = items_of(pairs, "pairs"), items_of(PAIRS, "rankings")
    path = tmp_path / "v.jsonl"
    path.write_text("".join(json.dumps({"id": one.id, "verdict": "A"}) + "\n" for one in (item, ranked)))
    found = shares_of([*pairs, *PAIRS], [path])
    assert {order.instruction for order in found} == {"Which?", ranked.instruction}


def test_other_wrong_verdicts_are_refused_with_their_place(cache: Path, tmp_path: Path):
    item, other, *_ = items_of([PAIRS[0]], "pairs")
    path = tmp_path / "v.jsonl"
    for text, says in (
        ('{"id": "zzz", "verdict": "A"}', "line 1: 'zzz' is none of the items"),
        (f'{{"id": "{item.id}", "verdict": "A"}}\n' * 2, "line 2: the item .* has a verdict already, at .*line 1"),
        ('{"verdict": "A"}', "line 1: has no 'id'"),
        (f'{{"id": "{item.id}", "verdict": "A", "ranking": "B"}}', "line 1: has both 'verdict' and 'ranking'"),
        (f'{{"id": "{item.id}", "preference": "A", "confidence": 0.3}}', "line 1: the confidence is 30"),
        (f'{{"id": "{item.id}", "preference": "A", "confidence": "x"}}', "line 1: the confidence is 'x'"),
        (f'{{"id": "{item.id}", "preference": "C"}}', "line 1: 'C' is no answer of this item, which has A and B"),
        ("{oops", "line 1: not JSON"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=says):
            shares_of(read_pairs(cache), [path])
    path.write_text(f'{{"id": "{item.id}", "verdict": null}}\n{{"id": "{other.id}", "verdict": ""}}')
    assert shares_of(read_pairs(cache), [path]) == {}
    path.write_text(f'{{"id": "{item.id}", "verdict": "A"}}')
    take_verdicts([cache], read_pairs(cache), "anna", [path], partial=True)
    path.write_text(f'{{"id": "{item.id}", "verdict": "B"}}')
    with pytest.raises(DataError, match="line 1: contradicts what anna has said before"):
        take_verdicts([cache], read_pairs(cache), "anna", [path], partial=True)


def test_a_cache_that_nothing_was_asked_of(tmp_path: Path):
    with pytest.raises(DataError, match="holds no comparisons: run `pasta eval`"):
        read_pairs(tmp_path / "judge.jsonl")


def test_kappa_is_agreement_beyond_chance():
    readings = [(1.0, 0.9), (1.0, 0.0), (0.0, 0.2), (0.5, 0.5), (0.0, 0.0), (None, 1.0)]
    found = agreement("x", readings)
    # labels: (f f) (f s) (s s) (t t) (s s); 4 of 5 agree; chance = (2*1 + 2*3 + 1*1) / 25
    assert found.pairs == 5 and found.share == 0.8 and found.kappa == pytest.approx((0.8 - 9 / 25) / (1 - 9 / 25))
    assert agreement("x", [(1.0, 1.0), (0.8, 0.7)]).kappa is None, "chance alone explains it"
    assert agreement("x", [(None, 1.0)]) is None


def test_judges_agree_with_themselves_and_with_each_other():
    first, second = PAIRS[0].orders
    shares = {
        first.key("anna"): 1.0, second.key("anna"): 0.0, first.key("ben"): 1.0, second.key("ben"): 1.0,
    }  # fmt: skip
    found = agreements(PAIRS, shares, ["anna", "ben"])
    assert [(one.what, one.pairs, one.share) for one in found] == [
        ("anna, both orders", 1, 1.0), ("ben, both orders", 1, 0.0), ("anna and ben", 1, 0.0)
    ]  # fmt: skip


def test_one_reading_of_a_ranking_is_called_one_where_there_is_no_other():
    keys = [order.key("anna") for pair in PAIRS[:2] for order in pair.orders]
    shares, places = dict.fromkeys(keys, 0.5), dict(zip(keys, ("v, line 1", "v, line 1", "v, line 2", "v, line 3")))
    (twice,) = agreements(PAIRS, shares, ["anna"], places)
    assert (twice.what, twice.pairs) == ("anna, both orders", 1)
    (once,) = agreements(PAIRS[:1], shares, ["anna"], places)
    assert (once.what, once.pairs) == ("anna, both orders in one reading", 1)


def test_a_pair_that_two_rounds_compare_is_one(tmp_path: Path):
    for name, answers in (("round1", ["one", "one"]), ("round2", ["two", "base"])):
        (tmp_path / name).mkdir()
        prompt = [{"role": "user", "content": "Which?"}]
        line = {"id": "q", "prompt": prompt, "against": ["base", "own"], "answers": answers}
        (tmp_path / name / "to_judge.jsonl").write_text(json.dumps(line) + "\n")
    pairs = read_pairs(tmp_path / "judge.jsonl")
    assert sorted(sorted({pair.first, pair.second}) for pair in pairs) == [
        ["base", "one"], ["base", "own"], ["base", "two"], ["one", "own"], ["own", "two"]
    ]  # fmt: skip


def test_a_round_of_stage_2_is_ranked_prompt_by_prompt(tmp_path: Path):
    cache, rounds = tmp_path / "judge.jsonl", tmp_path / "round1"
    rounds.mkdir()
    lines = [{"id": "q", "prompt": "Which?", "against": ["base", "own"], "answers": ["one", "two"]}]
    (rounds / "to_judge.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    pairs = read_pairs(cache)
    assert {frozenset((pair.first, pair.second)) for pair in pairs} == {
        frozenset(pair) for pair in (("base", "one"), ("base", "two"), ("own", "one"), ("own", "two"))
    }
    (item,) = exported(cache, tmp_path / "items.jsonl", "rankings")
    named = {text: letter for letter, text in item["answers"].items()}
    item["verdict"] = " > ".join(named[text] for text in ("two", "own", "base", "one"))
    (tmp_path / "items.jsonl").write_text(json.dumps(item))
    assert take_verdicts([cache], read_pairs(cache), "anna", [tmp_path / "items.jsonl"]) == (8, 0)
    with FileJudge("anna", cache) as judge:
        assert judge.missing(pairs) == 0
        found = judge.compare([AnswerPair("Which?", text, "base") for text in ("one", "two")])
    assert [(one.wins, one.losses) for one in found] == [(0, 2.0), (2.0, 0)]
