"""The assistant's training: where list marks stand, and what its stages are given."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from bench.assistant import make_data, marks_outside, stages
from pastalm.lang.parse import parse


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


def test_the_stages_build_on_each_other(tmp_path: Path) -> None:
    make_data(tmp_path)
    pasta, baseline, prefer = stages(tmp_path, argparse.Namespace(base="smollm2", epochs=2.0, prompts=300, samples=10))
    assert (prefer.model, prefer.baseline) == (pasta.out, baseline.out)
    assert prefer.speed_term == "bounded" and set(prefer.qualities()) == {
        "redundancy", "repetition", "coverage", "likelihood",
    }  # fmt: skip
    assert baseline.plain == 1.0 and 0 < pasta.plain < 1
    records = [json.loads(line) for line in Path(pasta.data).read_text(encoding="utf-8").splitlines()]
    held = [json.loads(line) for line in Path(pasta.eval_data).read_text(encoding="utf-8").splitlines()]
    assert len(records) > 600 and not {one["id"] for one in records} & {one["id"] for one in held}
    assert any("1.<async" in one["annotated"] for one in records)
    prompts = [json.loads(line)["id"] for line in Path(prefer.data).read_text(encoding="utf-8").splitlines()]
    assert {prompt.split("-")[0] for prompt in prompts[:30]} >= {"assistant"}
    assert not set(prompts) & {one["id"] for one in held}
