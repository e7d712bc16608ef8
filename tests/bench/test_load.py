"""The load sweep over HTTP, on a scale that takes seconds: a real server, real clients."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from bench.load import ModelServer, running, slowest
from bench.load import main as load

pytestmark = pytest.mark.slow
PROMPTS = ["--prompts", "tasks:held-out:2"]


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServer]:
    """A server that is started once, as `main` starts it, for all tests here."""
    with running("bundled", ["--max-batch-threads", "4"]) as server:
        yield server


@pytest.fixture(autouse=True)
def started(server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.load.running", lambda *_: nullcontext(server))


def test_a_sweep_asks_both_ways_at_every_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "load.json"
    load(["--clients", "1,2", "--answers", "2", "--max-tokens", "40", "--out", str(place), *PROMPTS])
    found = json.loads(place.read_text(encoding="utf-8"))
    assert [(one["clients"], one["mode"], one["answers"]) for one in found] == [
        *((1, "async", 3), (1, "sequential", 3), (2, "async", 6), (2, "sequential", 6)),
    ]
    for one in found:
        assert 0 < one["first_p50"] <= one["first_p99"] <= one["seconds_p99"]
        assert 0 < round(one["tokens_per_second"] / one["answers_per_second"], 6) <= 40
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(found) and lines[-1].endswith("| 1.00 |")


def test_a_long_prompt_beside_an_answer(capsys: pytest.CaptureFixture[str]) -> None:
    load(["--long", "300", "--max-tokens", "250", *PROMPTS])
    said = capsys.readouterr().out
    assert "A prompt of 300 words is read in " in said and "meanwhile" in said


def test_the_slowest_hundredth() -> None:
    assert slowest([3.0, 1.0, 2.0]) == 3.0 and slowest([float(n) for n in range(1, 201)]) == 198.0
