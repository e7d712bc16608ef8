"""Tables that fit: where the columns of a table do not fit the terminal, each row becomes a block of lines."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

PAGE = 160  # columns where there is no terminal that says how many it has


def page_console(*, stderr: bool = False) -> Console:
    """A console that breaks no line of a file or a pipe for a width that these do not have."""
    console = Console(stderr=stderr)
    if not console.is_terminal and not os.environ.get("COLUMNS"):
        console.width = PAGE
    return console


def print_table(
    console: Console,
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    title: str = "",
    left: Sequence[str] = (),
    dim: Sequence[int] = (),
) -> None:
    """Print rows under their heads. ``left``: the heads of text besides the first; ``dim``: the rows to print faintly.

    No cell is cut: a table that is wider than the console is printed a row after the other.
    """
    rows = [[str(cell) for cell in row] for row in rows]
    if _width(heads, rows) <= console.width:
        console.print(_table(heads, rows, title, left, dim))
        return
    if title:
        console.print(Text(title, style="bold"))
    for row in rows:
        console.print(Text(row[0], style="bold"))
        for head, cell in list(zip(heads, row, strict=True))[1:]:
            if cell:
                console.print(Text(f"  {head}: {cell}" if head else f"  {cell}"))


def figures_grid() -> Table:
    """A table of figures: their names, their values, and what each means, which is the column that wraps."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="dim", overflow="fold")
    return table


def _width(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """The columns that a table needs so that every cell stands on one line."""
    columns = zip(heads, *rows, strict=True)
    return sum(max(map(cell_len, column)) for column in columns) + 3 * len(heads) - 3


def _table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], title: str, left: Sequence[str], dim: Sequence[int]
) -> Table:
    titled = Text(title, style="table.title") if title else None  # a string would be read as markup
    table = Table(title=titled, title_justify="left", box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for number, head in enumerate(heads):
        table.add_column(head, justify="left" if number == 0 or head in left else "right", no_wrap=True)
    for number, row in enumerate(rows):
        table.add_row(*map(Text, row), style="dim" if number in dim else None)
    return table
