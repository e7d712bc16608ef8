"""Answers of several evaluations ranked together: what is compared, who wins, and which folders do not go together."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path

import pytest

from pastalm.annotation.verdict import AnswerPair
from pastalm.evaluation.ranked import ANSWERS, BASELINE, RankedAnswers, read_ranked
from pastalm.files.lines import DataError

ANNA = "anna"


def evaluation(folder: Path, *answers: str, baseline: str = "plain", error: int | None = None) -> Path:
    """A folder with an answer to each of the prompts "0?", "1?", ..; ``error``: the prompt that could not be asked."""
    folder.mkdir(parents=True)
    lines = [
        {"id": str(number), "prompt": f"{number}?"}
        | ({"error": "long"} if number == error else {"answer": {"text": text}, "baseline": {"text": baseline}})
        for number, text in enumerate(answers)
    ]
    (folder / ANSWERS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def read_as(order: str, prompts: list[str]) -> dict[str, float | None]:
    """The shares of a judge that puts all answers to these prompts into this order."""
    pairs = [(prompt, one, other) for prompt in prompts for one, other in permutations(order.split(), 2)]
    place = order.split().index
    return {AnswerPair(*pair).orders[0].key(ANNA): float(place(pair[1]) < place(pair[2])) for pair in pairs}


def test_each_two_different_answers_are_compared_once(tmp_path: Path) -> None:
    folders = [
        evaluation(tmp_path / "one", "good", "plain", "same"),
        evaluation(tmp_path / "two", "bad", "bad", "same"),
    ]
    found = read_ranked(folders)
    assert list(found.answers) == ["one", "two", BASELINE] and found.answers["two"]["0?"] == "bad"
    assert found.pairs == [
        AnswerPair("0?", "good", "bad"), AnswerPair("0?", "good", "plain"), AnswerPair("0?", "bad", "plain"),
        AnswerPair("1?", "plain", "bad"), AnswerPair("2?", "same", "plain"),
    ]  # fmt: skip
    assert [pair.prompt for pair in read_ranked(folders, 1).pairs] == ["0?"] * 3


def test_win_rates_against_the_baseline_then_of_each_two(tmp_path: Path) -> None:
    answers = ("good", "plain", "good", "plain"), ("bad", "bad", "good", "plain")
    found = read_ranked([evaluation(tmp_path / str(number), *texts) for number, texts in enumerate(answers)])
    shares = read_as("good plain bad", ["0?", "1?", "2?"])
    rates = [(one.one, one.other, one.prompts, one.share.value) for one in found.head_to_head(shares, ANNA)]
    assert rates == [
        ("0", BASELINE, 4, pytest.approx(3 / 4)), ("1", BASELINE, 4, pytest.approx(1.5 / 4)),
        ("0", "1", 4, pytest.approx(3 / 4)),
    ]  # fmt: skip
    (first, *_) = found.head_to_head(shares, ANNA)
    assert first.share.low < first.share.value < first.share.high == 1.0
    assert found.head_to_head(shares, "ben") == []  # not even of the prompt whose answers are all equal


def test_equal_answers_count_half_only_where_the_prompt_was_read() -> None:
    texts = {"one": {"0?": "good", "1?": "plain"}, "two": {"0?": "bad", "1?": "bad"}}
    found = RankedAnswers(texts | {BASELINE: {"0?": "plain", "1?": "plain"}})
    counted = {one.one: one.prompts for one in found.head_to_head(read_as("good plain bad", ["0?"]), ANNA)}
    assert counted == {"one": 1, "two": 1}
    shares = read_as("good plain bad", ["0?", "1?"])
    counted = {one.one: one.prompts for one in found.head_to_head(shares, ANNA) if one.other == BASELINE}
    assert counted == {"one": 2, "two": 2}


def test_evaluations_of_one_name_are_called_by_their_paths(tmp_path: Path) -> None:
    folders = [evaluation(tmp_path / parent / "eval", "good") for parent in ("a", "b")]
    assert list(read_ranked(folders).answers) == [*map(str, folders), BASELINE]
    with pytest.raises(DataError, match="eval is given twice"):
        read_ranked([folders[0], folders[1], folders[0]])


def test_folders_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    one = evaluation(tmp_path / "one", "good", "good", "good")
    fewer = evaluation(tmp_path / "fewer", "bad", "bad")
    for folders in ((one, fewer), (fewer, one)):
        with pytest.raises(DataError, match=r"fewer does not answer '2\?', as .*one does; .* --limit"):
            read_ranked(folders)
    assert len(read_ranked([one, fewer], 2).answers["one"]) == 2
    with pytest.raises(DataError, match=r"refused does not answer '1\?'"):
        read_ranked([one, evaluation(tmp_path / "refused", "bad", "", "bad", error=1)])
    with pytest.raises(
        DataError, match=r"The baseline's answer to '0\?' is another in .*other than in .*one; .*--reuse-baseline"
    ):
        read_ranked([one, evaluation(tmp_path / "other", "bad", "bad", "bad", baseline="other")])


@pytest.mark.parametrize("text", [None, "{oops\n", '{"id": "0", "prompt": "0?"}\n', "[]\n"])
def test_other_folders_are_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / ANSWERS).write_text(text)
    with pytest.raises(DataError, match=r"is no folder of `pasta eval`: it has no answers\.jsonl that can be read"):
        read_ranked([tmp_path])


def test_a_folder_without_answers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none has no answers yet"):
        read_ranked([evaluation(tmp_path / "none")])
