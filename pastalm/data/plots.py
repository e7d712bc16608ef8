"""The figures of a data set as PNG files; needs the extra 'plots'."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pastalm.files.lines import DataError
from pastalm.lang.metrics import geometric

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pastalm.data.report import Census

SIZE = (6.4, 4.0)  # inches
DPI = 150
COLOUR, MARK = "#3b6ea5", "#c8553d"
MOST_BARS = 40  # beyond these a count goes into the last bar


class NoPlotsError(DataError):
    """matplotlib is not installed."""


def write_plots(census: Census, folder: Path) -> list[Path]:
    """Write one PNG a figure into ``folder``, which is made if need be; returns their paths.

    A figure of which the data set has nothing, say lengths where no block carries one, is left out. Raises
    :class:`NoPlotsError` without matplotlib.
    """
    _matplotlib()
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, draw in _figures(census):
        path = folder / f"{name}.png"
        _write(path, draw)
        written.append(path)
    return written


def _matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        raise NoPlotsError("Plots need matplotlib: install it with  pip install 'pastalm[plots]'") from error


def _figures(census: Census) -> Iterator[tuple[str, Callable[[Axes], None]]]:
    """What can be drawn: a file's name, and who draws it."""
    answers, unit = census.figures, "words" if census.vocabulary is None else "tokens"
    forking = [one for one in answers if one.block_tokens]
    blocks = [len(one.block_tokens) for one in answers]
    lengths = [length for one in forking for length in one.block_tokens]
    errors = [error for one in answers for error in one.length_errors]
    if blocks:
        yield "blocks_per_answer", lambda axes: _blocks(axes, blocks)
    if lengths:
        yield "tokens_per_block", lambda axes: _lengths(axes, lengths, unit)
        yield "speedup", lambda axes: _speedups(axes, [one.speedup for one in forking])
    if errors:
        yield "length_error", lambda axes: _errors(axes, errors, census.policy.unit)


def _write(path: Path, draw: Callable[[Axes], None]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)  # draws without a display
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    draw(axes)
    figure.savefig(path)


def _blocks(axes: Axes, blocks: Sequence[int]) -> None:
    _bars(axes, blocks, 0, max(blocks))
    axes.set_title(f"Blocks per answer: mean {sum(blocks) / len(blocks):.2f}, {len(blocks)} answers", loc="left")
    axes.set_xlabel("blocks (0: nothing is marked)")
    axes.set_ylabel("share of answers")


def _lengths(axes: Axes, lengths: Sequence[int], unit: str) -> None:
    # The longest hundredth goes into the last bar: a few long blocks would leave the others no room.
    ordered = sorted(lengths)
    end = max(ordered[int(0.99 * (len(ordered) - 1))], 1)
    step = end // MOST_BARS + 1  # bars of whole numbers, all as many
    edges = range(0, end + step + 1, step)
    _histogram(axes, [min(length, end) for length in lengths], [edge - 0.5 for edge in edges])
    _line(axes, ordered[(len(ordered) - 1) // 2], "median {:.0f}")
    axes.set_title(f"{unit.capitalize()} per block: {len(lengths)} blocks", loc="left")
    axes.set_xlabel(f"{unit} between the tags" + (f" (last bar: {end} and more)" if ordered[-1] > end else ""))
    axes.set_ylabel("share of blocks")


def _speedups(axes: Axes, speedups: Sequence[float]) -> None:
    first, last = min([1.0, *speedups]), max([2.0, *speedups])
    _histogram(axes, speedups, [first + (last - first) * k / MOST_BARS for k in range(MOST_BARS + 1)])
    axes.axvline(1, color="#888888", linewidth=1)
    _line(axes, geometric(speedups), "geometric mean {:.2f}")
    axes.set_title(f"Theoretical speedup: {len(speedups)} answers that fork", loc="left")
    axes.set_xlabel("plain tokens / critical path")
    axes.set_ylabel("share of answers")


def _errors(axes: Axes, errors: Sequence[int], unit: int) -> None:
    half = max(1, min(MOST_BARS // 2, max(map(abs, errors))))
    _bars(axes, [max(-half, min(half, error)) for error in errors], -half, half)
    mean, off = sum(errors) / len(errors), sum(map(abs, errors)) / len(errors)
    axes.set_title(f"Length error: mean {mean:+.2f}, absolute {off:.2f}, {len(errors)} blocks", loc="left")
    beyond = " (outermost bars: and beyond)" if max(map(abs, errors)) > half else ""
    axes.set_xlabel(f"promised - measured, in units of {unit} token{'s' * (unit > 1)}" + beyond)
    axes.set_ylabel("share of blocks")


def _bars(axes: Axes, values: Sequence[int], first: int, last: int) -> None:
    """A bar for each whole number from ``first`` to ``last``, at most ``MOST_BARS`` of them and one for the rest."""
    from matplotlib.ticker import MaxNLocator

    last = min(last, first + MOST_BARS)
    counts = Counter(min(value, last) for value in values)
    numbers = range(first, last + 1)
    axes.bar(numbers, [counts[number] / len(values) for number in numbers], width=0.85, color=COLOUR)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _percent(axes)


def _histogram(axes: Axes, values: Sequence[float], edges: Sequence[float]) -> None:
    weights = [1 / len(values)] * len(values)
    axes.hist(values, bins=edges, weights=weights, color=COLOUR, edgecolor="white", linewidth=0.5)
    _percent(axes)


def _line(axes: Axes, value: float, label: str) -> None:
    axes.axvline(value, color=MARK, linewidth=1.5, label=label.format(value))
    axes.legend(frameon=False)


def _percent(axes: Axes) -> Any:
    from matplotlib.ticker import PercentFormatter

    axes.yaxis.set_major_formatter(PercentFormatter(1))
