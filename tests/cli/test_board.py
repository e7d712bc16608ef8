"""The live view: what it makes of events, and that it fits its terminal."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from pastalm.cli.board import Board, CardState
from pastalm.cli.live import picture, printable
from pastalm.runtime.events import DoneEvent, ForkEvent, JoinEvent, TokenEvent, WaitEvent


def board(threads: int, rounds: int) -> Board:
    """Main forks ``threads`` chunks and writes no more; thread k ends after k + 2 further rounds."""
    made = Board(10)
    made.take(TokenEvent((), (0,), 5, "Start: "))
    for child in range(threads):
        made.take(ForkEvent((child,), (0, child), f"topic {child}", 4))
    for step in range(rounds):
        for child in range(threads):
            if step == child + 2:
                made.take(DoneEvent((child,), (0, child)))
            elif step < child + 2:
                made.take(TokenEvent((child,), (0, child, step), 5, "words "))
    return made


def render(made: Board, width: int, height: int, *, full: bool = False) -> list[str]:
    console = Console(width=width, height=height, file=StringIO())
    console.print(picture(made, console, full=full))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_states_and_counts():
    made = board(2, 0)
    assert [card.state for card in made.cards.values()] == [CardState.WRITING] * 3
    made = board(2, 6)
    made.take(WaitEvent((), (8,)))
    assert [card.state for card in made.cards.values()] == [CardState.WAITING, CardState.DONE, CardState.DONE]
    first = made.cards[(0,)]
    assert (first.name, first.tokens, first.promised_tokens) == ("1 topic 0", 2, 40)
    made.take(JoinEvent((), (9,), ((0,), (1,))))
    assert made.cards[()].state is CardState.WRITING
    assert "".join(piece.text for piece in made.cards[()].pieces) == "Start: [1 topic 0][2 topic 1][sync 1, 2]"


def test_threads_stand_in_document_order():
    made = Board(10)
    for path in ((0,), (1,), (0, 0)):
        made.take(ForkEvent(path, path, "t", 1))
    assert [card.name for card in made.cards.values()] == ["main", "1 t", "1.1 t", "2 t"]


@pytest.mark.parametrize("threads", range(9))
@pytest.mark.parametrize("width, height", [(80, 24), (120, 40), (50, 60)])
def test_up_to_eight_threads_fit_with_all_titles(threads: int, width: int, height: int):
    lines = render(board(threads, 5), width, height)
    assert len(lines) < height and max(map(len, lines)) <= width
    page = "\n".join(lines)
    assert all(f"{child + 1} topic {child}" in page for child in range(threads)) and "main" in page


def test_the_most_alive_threads_are_kept_when_there_are_too_many():
    lines = render(board(20, 5), 80, 24)
    page = "\n".join(lines)
    assert len(lines) < 24 and "20 topic 19" in page and "and " in lines[-1] and "1 topic 0 ─" not in page


def test_long_texts_show_their_ends_and_all_in_the_last_picture():
    made = board(1, 0)
    made.take(TokenEvent((0,), (0, 0, 0), 5, "first " + "middle " * 500 + "last"))
    assert "last" in "\n".join(render(made, 80, 24)) and "first" not in "\n".join(render(made, 80, 24))
    assert "first" in "\n".join(render(made, 80, 24, full=True))


def test_text_cannot_steer_the_terminal():
    assert printable("a\x1b[2Jb\x07\n\té\u200d\x9b") == "a[2Jb\n\té\u200d"
    made = board(0, 0)
    made.take(TokenEvent((), (0,), 5, "[bold]not markup[/bold] \x1b[2J"))
    page = "\n".join(render(made, 80, 24))
    assert "[bold]not markup[/bold]" in page and "\x1b" not in page
