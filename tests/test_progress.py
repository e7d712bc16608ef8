"""Progress: everything passes through, lines where there is no terminal, patience."""

from __future__ import annotations

import io
from itertools import count

import pytest
from rich.console import Console

from pastalm import progress
from pastalm.progress import Progress, pace, track


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock on which every look is ten seconds after the last."""
    ticks = count(0, 10)
    monkeypatch.setattr(progress, "monotonic", lambda: float(next(ticks)))


def test_items_pass_and_the_end_is_told(capsys: pytest.CaptureFixture[str]):
    assert list(track("abc", "Reading", done=4, unit="letters")) == ["a", "b", "c"]
    said = capsys.readouterr().err
    assert said.startswith("Reading: 7 of 7, ") and said.endswith("letters/s\n") and said.count("\n") == 1


def test_a_line_now_and_then(clock: None, capsys: pytest.CaptureFixture[str]):
    list(track(range(9), "Reading"))
    lines = capsys.readouterr().err.splitlines()
    assert 3 <= len(lines) <= 6 and lines[-1].startswith("Reading: 9 of 9, ") and "s per item" in lines[0]


def test_what_is_short_needs_no_word(capsys: pytest.CaptureFixture[str]):
    assert list(track(iter("ab"), "Reading", 2, patience=60)) == ["a", "b"]
    assert list(track([], "Reading")) == []
    assert list(track("ab", "Reading", enabled=False)) == ["a", "b"]
    with pytest.raises(RuntimeError), Progress("Reading", 1) as bar:
        bar.update(1)
        raise RuntimeError
    assert capsys.readouterr().err == ""


def test_a_note_and_a_total_that_is_learned(clock: None, capsys: pytest.CaptureFixture[str]):
    with Progress("Asking") as bar:
        for number in range(4):
            bar.update(number, "waiting: [x]")
        bar.print("[b] a line")
        bar.update(5, "done", total=5)
    said = capsys.readouterr().err.splitlines()
    assert said == ["Asking: 2 of ?, waiting: [x]", "[b] a line", "Asking: 5 of 5, done"]


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch):
    screen = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda stderr: Console(file=screen, force_terminal=True, width=100))
    assert list(track("abc", "Reading", unit="letters")) == ["a", "b", "c"]
    assert "3/3" in screen.getvalue() and "letters/s" in screen.getvalue() and "\x1b[?25h" in screen.getvalue()


def test_the_pace_is_told_in_seconds_where_it_is_slow():
    assert pace(30, 10.0, "answers") == "3.0 answers/s"
    assert pace(3, 60.0, "answers") == "20.0 s per answer"
    assert pace(1, 0.0, "pairs").endswith("pairs/s")
