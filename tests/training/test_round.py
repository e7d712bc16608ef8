"""What a round says of its answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pastalm.data.questions import Question
from pastalm.files.lines import DataError
from pastalm.training.round import Round
from tests.training.prefer_model import settings

ANSWER = {"critical_path": 20, "content_tokens": 30, "tokens": 40, "text": "ab"}
ANSWER |= {"script": {"tokens": [1, 2], "block": [0, 0], "blocks": [[-1, "", 0, 0, 0]]}}


def drawn_round(out: Path, finished: list[bool], monkeypatch: pytest.MonkeyPatch, number: int = 1) -> Round:
    """A round of one prompt whose answers are drawn already: equal but for who came to an end."""
    monkeypatch.setattr("pastalm.training.round.draw", lambda *_, **__: None)
    round_ = Round(settings(Path("m"), Path("d"), out), number, "m", [Question("p")])
    round_.folder.mkdir(parents=True)
    answers = [ANSWER | {"prompt": 0, "sample": k, "finished": end} for k, end in enumerate(finished)]
    (round_.folder / "samples.jsonl").write_text("".join(json.dumps(one) + "\n" for one in answers))
    round_.baseline.write_text(
        json.dumps({"prompt": 0, "sample": 0, "tokens": 60, "content_tokens": 60, "text": "b"}) + "\n"
    )
    return round_


def advice(round_: Round, end: str = "") -> str:
    """What a round without pairs says."""
    with pytest.raises(DataError, match=rf"all have the same score.*another --out\.{end}$") as caught:
        round_.make_pairs({"none": lambda candidates: [0.0] * len(candidates)})
    return str(caught.value)


def test_a_round_without_pairs_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cut = advice(drawn_round(tmp_path / "cut", [False] * 3, monkeypatch))
    assert "3 of 3 answers were ended by --max-tokens 40" in cut and "larger --max-tokens" in cut
    assert "--model that ends its answers" in cut and "--lambda" not in cut and "--reuse-samples" not in cut
    alike = advice(drawn_round(tmp_path / "alike", [True] * 3, monkeypatch))
    assert (
        f"another --lambda or --speed-term, with --reuse-samples {tmp_path / 'alike'}" in alike
        and "--max-tokens" not in alike
    )
    monkeypatch.setattr("pastalm.training.round.best_and_worst", lambda answers: None)
    some = advice(drawn_round(tmp_path / "some", [True, False, True], monkeypatch))
    assert "1 of 3 answers were ended by --max-tokens 40" in some and "--reuse-samples" in some


def test_a_later_round_without_pairs_names_the_model_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    end = r" Or give --rounds 1: the run then ends with the model of round 1\."
    alike = advice(drawn_round(tmp_path / "alike", [True] * 3, monkeypatch, 2), end)
    assert f"--reuse-samples {tmp_path / 'alike'} to keep what round 1 has sampled" in alike
    advice(drawn_round(tmp_path / "cut", [False] * 3, monkeypatch, 2), end)


def test_a_round_is_told_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    round_ = drawn_round(tmp_path, [True, False], monkeypatch)
    round_.make_pairs({"half": lambda candidates: [0.5] * len(candidates)})
    assert round_.summary() == (
        "Round 1: pairs from 1 of 1 prompts; all / chosen / rejected answers: finished 50% / 100% / 0%, "
        "speed 1.50 / 3.00 / 0.00, quality 0.25 / 0.50 / 0.00."
    )
