"""The table under an answer: what it took, beside the same model without threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rich.table import Table

from pastalm.evaluation.comparison import Pair

if TYPE_CHECKING:
    from pastalm.runtime.response import Metrics, Response

ROWS: tuple[tuple[str, Callable[[Metrics], str]], ...] = (
    ("tokens", lambda metrics: str(metrics.tokens)),
    ("decode steps", lambda metrics: str(metrics.steps)),
    ("critical path", lambda metrics: str(metrics.critical_path)),
    ("parallelism", lambda metrics: f"{metrics.parallelism:.2f}"),
    ("wall time", lambda metrics: f"{metrics.wall_seconds:.3f} s"),
    ("tokens/s", lambda metrics: f"{metrics.tokens_per_second:.1f}"),
)


def figures_table(response: Response, baseline: Response | None) -> Table:
    """The figures of an answer, of its baseline if there is one, and the speedups."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("")
    table.add_column("this answer" if baseline else "", justify="right")
    if baseline:
        table.add_column("sequential", justify="right")
    for name, value in ROWS:
        table.add_row(name, value(response.metrics), *([value(baseline.metrics)] if baseline else []))
    if baseline:
        pair = Pair(response, baseline)
        table.add_row("theoretical speedup", f"{pair.theoretical:.2f} x", "", style="bold")
        table.add_row("realised speedup", f"{pair.realised:.2f} x", "", style="bold")
        table.add_row("efficiency", f"{pair.efficiency:.2f}", "", style="bold")
    return table


def caption(compared: bool, place: str, timed: bool) -> str:
    """What was compared. ``place``: device and dtype; ``timed``: whether it was decoded again for its time."""
    if compared:
        return (
            f"Both: the same model ({place}), prompt and options, after a warm-up.\n"
            "Theoretical: sequential tokens / critical path of this answer.\n"
            "Realised: sequential wall time / wall time. Efficiency: realised / theoretical."
        )
    return f"On {place}" + (", after a warm-up." if timed else "; the first run, warm-up included.")


def notes(response: Response) -> Iterator[str]:
    """What the reader should know about an answer besides its text."""
    if response.finish_reason == "length":
        yield "A limit ended this answer before it was complete (--max-tokens, or the model's window)."
    elif cut := [thread.topic for thread in response.threads if thread.truncated]:
        yield f"A limit ended these chunks before they were complete: {', '.join(cut)}."
    yield from response.problems
