"""The threads of a running answer side by side in the terminal."""

from __future__ import annotations

from math import ceil
from time import monotonic
from typing import TYPE_CHECKING, Any
from unicodedata import category

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from pastalm.cli.board import Board, CardState, ThreadCard
from pastalm.lang.positions import position_policy

if TYPE_CHECKING:
    from pastalm.runtime.engine import Engine
    from pastalm.runtime.response import Response

FRAME_SECONDS = 1 / 15
NARROWEST = 36  # columns that a panel needs to be readable
BORDER = {CardState.WRITING: "green", CardState.WAITING: "yellow", CardState.DONE: "dim"}


def watch(engine: Engine, prompt: Any, options: dict[str, Any], console: Console) -> Response:
    """Decode a prompt and draw its threads as they grow; the last picture, with all text, stays."""
    board = Board(position_policy(options.get("positions") or engine.positions).unit)
    drawn, response = 0.0, None
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        for event in engine.stream(prompt, **options):
            board.take(event)
            response = getattr(event, "response", None) or response
            if monotonic() - drawn > FRAME_SECONDS:
                live.update(picture(board, console), refresh=True)
                drawn = monotonic()
        live.update(picture(board, console, full=True))
    if response is None:
        raise RuntimeError("The engine's stream ended without a response.")
    return response


def picture(board: Board, console: Console, *, full: bool = False) -> RenderableType:
    """The main thread over the others in rows. Panels show the ends of their texts, as much as the terminal holds;
    all of them if ``full``."""
    main, *others = board.cards.values()
    room = 1 << 30 if full else max(6, console.height - 1)
    if not others:
        return _panel(main, console, console.width, room)
    columns = max(1, min(len(others), console.width // NARROWEST))
    rows = ceil(len(others) / columns)
    top = _panel(main, console, console.width, max(4, min(room // 3, room - 1 - 4 * rows)))
    room -= top.height or 0
    rows = min(rows, max(1, (room - 1) // 3))
    shown = others if len(others) <= rows * columns else _liveliest(others, rows * columns)
    grid = Table.grid(expand=True)
    for _ in range(columns):
        grid.add_column(ratio=1)
    for start in range(0, len(shown), columns):
        grid.add_row(*_row(shown[start : start + columns], console, columns, max(3, (room - 1) // rows)))
    hidden = len(others) - len(shown)
    return Group(top, grid, *([Text(f"and {hidden} more", style="dim")] if hidden else []))


def _liveliest(cards: list[ThreadCard], number: int) -> list[ThreadCard]:
    """Those that are still at work, then the latest; in their order."""
    chosen = sorted(cards, key=lambda card: (card.state is not CardState.DONE, card.path))[-number:]
    return sorted(chosen, key=lambda card: card.path)


def _row(cards: list[ThreadCard], console: Console, columns: int, height: int) -> list[Panel]:
    """Panels of one height."""
    width = console.width // columns
    panels = [_panel(card, console, width, height) for card in cards]
    tallest = max(panel.height or 0 for panel in panels)
    for panel in panels:
        panel.height = tallest
    return panels


def _panel(card: ThreadCard, console: Console, width: int, height: int) -> Panel:
    lines = _text(card).wrap(console, width - 4, tab_size=4)[-(height - 2) :]
    tokens = f"{card.tokens} of ~{card.promised_tokens}" if card.promised_tokens else str(card.tokens)
    return Panel(
        Text("\n").join(lines),
        title=Text(printable(card.name), style="bold"),
        title_align="left",
        subtitle=Text(f"{card.state}, {tokens} tokens"),
        subtitle_align="right",
        border_style=BORDER[card.state],
        height=max(1, len(lines)) + 2,
    )


def _text(card: ThreadCard) -> Text:
    """A thread's own text, with marks where its chunks stand."""
    text = Text()
    for piece in card.pieces:
        text.append(printable(piece.text), style="cyan" if piece.mark else "")
    text.rstrip()
    return text


def printable(text: str) -> str:
    """The text without characters that would steer the terminal; a model may write any."""
    return "".join(char for char in text if char in "\n\t" or category(char) != "Cc")
