"""The assistant's training: where list marks stand, what its quality counts, and what its stages are given."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from bench.assistant import make_data, marks_outside, quality, stages
from pastalm.data.questions import Question
from pastalm.lang.parse import parse
from pastalm.training.score import Candidate


def test_list_marks_stand_before_their_chunks() -> None:
    before = (
        "Do:\n\n<async topic='a b'>1. **Walk**: slowly</async>\n"
        "<async topic=\"c\">- rest</async> <async topic='d'>2.5 hours</async>"
    )
    after = marks_outside(before)
    assert after == (
        "Do:\n\n1.<async topic='a b'> **Walk**: slowly</async>\n"
        "-<async topic=\"c\"> rest</async> <async topic='d'>2.5 hours</async>"
    )
    assert parse(after).plain == parse(before).plain


def test_quality_falls_with_what_a_program_sees() -> None:
    good = "1. **Walk**: Go for a short walk each day.\n2. **Rest**: Sleep for eight hours in a dark room."
    scores = quality([
        Candidate(Question("q"), text, good)
        for text in (
            good,
            good.replace("Rest", "Walk"),
            good[: len(good) // 4],
            "Here are some ways to do it. " * 3,
            "",
        )
    ])  # fmt: skip
    assert scores[0] == 1.0
    assert all(score < 0.8 for score in scores[1:])
    assert scores[3] == scores[4] == 0.0


def test_the_stages_build_on_each_other(tmp_path: Path) -> None:
    make_data(tmp_path)
    pasta, baseline, prefer = stages(tmp_path, argparse.Namespace(epochs=2.0, prompts=300, samples=10))
    assert (prefer.model, prefer.baseline) == (pasta.out, baseline.out)
    assert baseline.plain == 1.0 and 0 < pasta.plain < 1
    records = [json.loads(line) for line in Path(pasta.data).read_text(encoding="utf-8").splitlines()]
    held = [json.loads(line) for line in Path(pasta.eval_data).read_text(encoding="utf-8").splitlines()]
    assert len(records) > 600 and not {one["id"] for one in records} & {one["id"] for one in held}
    assert any("1.<async" in one["annotated"] for one in records)
    prompts = [json.loads(line)["id"] for line in Path(prefer.data).read_text(encoding="utf-8").splitlines()]
    assert {prompt.split("-")[0] for prompt in prompts[:30]} >= {"assistant"}
    assert not set(prompts) & {one["id"] for one in held}
