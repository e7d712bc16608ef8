"""What a sampled answer is worth: speed, the factors of quality, the best and the worst."""

from __future__ import annotations

from math import exp, inf

import pytest

from pastalm.data.questions import Question
from pastalm.files.lines import DataError
from pastalm.lang.parse import parse
from pastalm.lang.positions import POLICIES
from pastalm.lang.script import compile_script
from pastalm.lang.vocabulary import Vocabulary
from pastalm.training.config import PreferConfig
from pastalm.training.score import (
    Candidate,
    Scored,
    best_and_worst,
    checked,
    covered,
    distinct,
    likely,
    require_checks,
    score_all,
    speed_term,
    unrepeated,
)

PLAIN = {"tokens": [1, 2], "block": [0, 0], "blocks": [[-1, "", 0, 0, 0]]}
ANSWER = {"sample": 0, "finished": True, "critical_path": 20, "content_tokens": 30, "tokens": 40, "text": "t"}
ANSWER |= {"script": PLAIN}
BASELINE = {"tokens": 60, "content_tokens": 60, "text": "b"}


def test_speed_terms():
    found = {kind: speed_term(kind, ANSWER, BASELINE) for kind in ("speedup", "parallelism", "harmonic", "arithmetic")}
    assert found == {
        "speedup": 60 / 20,
        "parallelism": 30 / 20,
        "harmonic": pytest.approx(2 * 3 * 1.5 / (3 + 1.5)),
        "arithmetic": pytest.approx((3 + 1.5) / 2),
    }
    assert speed_term("bounded", ANSWER, BASELINE) == pytest.approx(1.2 * 30 / 20)  # 60 count as 36
    assert speed_term("bounded", ANSWER, {"tokens": 20, "text": ""}) == 20 / 20
    assert speed_term("speedup", ANSWER | {"critical_path": 0}, {"tokens": 0, "text": ""}) == 1.0  # two empty answers


def lengths(candidates: list[Candidate]) -> list[float]:
    return [float(len(one.text)) for one in candidates]


def test_scores():
    answers = [
        ANSWER,
        ANSWER | {"sample": 1, "text": "four"},
        ANSWER | {"sample": 2, "finished": False, "text": "four"},
    ]
    groups = [(Question("p", index=7), answers, BASELINE)]
    assert score_all("speedup", 4.0, {"length": lengths}, groups) == [
        Scored(7, 0, 3.0, 1.0, 3 + 4 * 1), Scored(7, 1, 3.0, 4.0, 3 + 4 * 4), Scored(7, 2, 0.0, 0.0, 0.0, False)
    ]  # fmt: skip
    assert [one.score for one in score_all("speedup", inf, {"length": lengths}, groups)] == [1.0, 4.0, 0.0]
    assert [one.score for one in score_all("speedup", 0.0, {"length": lengths}, groups)] == [3.0, 3.0, 0.0]


def test_best_and_worst():
    one, two, three = Scored(0, 0, 2.0, 1.0, 6.0), Scored(0, 1, 1.0, 0.0, 1.0), Scored(0, 2, 3.0, 1.0, 7.0)
    assert best_and_worst([one, two, three]) == (three, two)
    assert best_and_worst([one, one]) is None
    # by quality alone (lambda = infinity): speed breaks ties inside the best and inside the worst, and makes no pair
    slow, fast = Scored(0, 0, 1.0, 1.0, 1.0), Scored(0, 1, 2.0, 1.0, 1.0)
    bad, worse = Scored(0, 2, 5.0, 0.0, 0.0), Scored(0, 3, 4.0, 0.0, 0.0)
    assert best_and_worst([slow, fast, bad, worse]) == (fast, worse)
    assert best_and_worst([slow, fast]) is None


def test_the_checker_is_the_quality():
    from pastalm.tasks import sample as tasks

    task = tasks("train", 0, 3)[2]
    question = Question(task.prompt, "", task.family, task.facts, task.answer.plain)
    wrong = Candidate(question, "I do not know.", "")
    assert checked([Candidate(question, task.answer.plain, ""), wrong]) == [1.0, 0.0]
    require_checks([question], "d.jsonl")
    with pytest.raises(DataError, match=r"prompt 4: no 'family'.*--judge"):
        require_checks([question, Question("p", index=3)], "d.jsonl")


def test_quality_is_the_product_of_its_factors():
    factors = {"length": lengths, "half": lambda candidates: [0.5] * len(candidates)}
    answers = [ANSWER | {"text": "four"}, ANSWER | {"sample": 1, "finished": False}]
    whole, cut = score_all("speedup", 4.0, factors, [(Question("p"), answers, BASELINE)])
    assert (whole.quality, whole.score, whole.parts) == (2.0, 3 + 4 * 2, {"length": 4.0, "half": 0.5})
    assert (cut.quality, cut.score, cut.parts) == (0.0, 0.0, {})


def chunk(topic: str, text: str) -> str:
    return f"<async topic='{topic}'>{text}</async>"


def candidate(annotated: str, vocabulary: Vocabulary) -> Candidate:
    answer = parse(annotated)
    return Candidate(Question("p"), answer.plain, "", compile_script(answer, vocabulary, POLICIES["pred10"]))


def test_distinct_chunks_and_topics(vocabulary: Vocabulary):
    """x, y, z and digits are a token each: a text of five letters has two 4-grams."""
    found = {
        chunk("a", "xyzxy") + chunk("b", "zzyyx"): 1.0,
        chunk("a", "xyzxy") + chunk("b", "xyzxy"): 0.0,  # all four grams stand in the sibling
        chunk("a", "xyzxz") + chunk("b", "xyzxy"): 0.5,  # one of two, in both
        chunk("a", "xyzxy") + chunk(" A ", "zzyyx"): 0.5,  # the second topic has been promised before
        chunk("a", "xy") + chunk("a", "zz"): 0.0,  # too short for 4-grams, but the topic is the same
        "xyzxyzxyz": 1.0,
    }
    for annotated, expected in found.items():
        assert distinct([candidate(annotated, vocabulary)]) == [expected], annotated


def test_text_that_a_thread_has_seen_before(vocabulary: Vocabulary):
    quality = unrepeated(vocabulary)
    assert quality([candidate("xyz123", vocabulary)]) == [1.0]
    # six 4-grams: xyz1 yz1x z1xy 1xyz | xyz1; five tokens more than four, the last gram repeats the first
    assert quality([candidate("xyz1xyz1", vocabulary)]) == [pytest.approx(4 / 5)]
    assert quality([candidate("xyz1" * 20, vocabulary)]) == [0.0], "it ends in a loop"
    # a sibling's text is not seen before the sync, a synced one's is
    apart = chunk("a", "xyz12") + chunk("b", "xyz12")
    assert quality([candidate(apart, vocabulary)]) == [1.0]
    assert quality([candidate(chunk("a", "xyz12") + "<sync/>xyz12", vocabulary)]) == [pytest.approx(1 - 2 / 4)]
    assert quality([candidate("xyz12" + chunk("a", "xyz12"), vocabulary)]) == [pytest.approx(1 - 2 / 4)]
    # the text of promises is no text
    assert quality([candidate("".join(chunk("a", letter) for letter in "xyz"), vocabulary)]) == [1.0]


def test_an_answer_that_is_long_enough():
    shares = [Candidate(Question("p"), "", "", share=share) for share in (0.0, 0.3, 0.6, 2.0)]
    assert covered(shares) == [0.0, 0.5, 1.0, 1.0]
    [half] = score_all("speedup", 1.0, {"coverage": covered}, [(Question("p"), [ANSWER], {**BASELINE, "tokens": 100})])
    assert half.quality == pytest.approx(0.5 / 0.6)


def test_likelihood_is_against_the_baselines_answer():
    nats = {"good": 1.0, "bad": 3.0, "circles": 0.1, "base": 2.0}
    quality = likely(lambda texts: [nats[text] for _, text in texts])
    asked = [Candidate(Question("p"), text, "base") for text in ("good", "bad", "circles")]
    assert quality(asked) == [1.0, pytest.approx(exp(-1)), 1.0]


def test_what_quality_may_be():
    assert PreferConfig("m", "d", "o").qualities() == ("checker",)
    assert PreferConfig("m", "d", "o", judge_model="j").qualities() == ("judge",)
    mixed = PreferConfig("m", "d", "o", judge_model="j", quality="verdicts, redundancy")
    assert mixed.qualities() == ("verdicts", "redundancy")
    for wrong in (
        {"quality": "good"},
        {"quality": ","},
        {"quality": "judge"},
        {"quality": "repetition, repetition"},
        {"quality": "judge,verdicts", "judge_model": "j"},
        {"quality": "checker", "judge_model": "j"},
    ):
        with pytest.raises(ValueError, match=r"--quality .*\.$"):
            PreferConfig("m", "d", "o", **wrong)
