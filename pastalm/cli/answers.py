"""What `pasta run` prints: the prompt, the answer, the sequential answer beside it, and the figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.text import Text

from pastalm.cli.live import printable
from pastalm.cli.options import BUNDLED
from pastalm.cli.prompts import DEFAULT_PROMPT
from pastalm.cli.tables import page_console, print_table

if TYPE_CHECKING:
    from pastalm.evaluation.comparison import Pair
    from pastalm.runtime.engine import Engine
    from pastalm.runtime.response import Metrics, Response

SMALL = (
    "The bundled model is small and knows only tasks like those of `pasta tasks`: if this prompt is none, expect noise "
    "and name a real model with --model."
)
SLOW = 0.6  # an efficiency below which something slows this answer's steps
ROWS: tuple[tuple[str, Callable[[Metrics], str]], ...] = (
    ("tokens", lambda metrics: str(metrics.tokens)),
    ("decode steps", lambda metrics: str(metrics.steps)),
    ("critical path", lambda metrics: str(metrics.critical_path)),
    ("parallelism", lambda metrics: f"{metrics.parallelism:.2f}"),
    ("wall time", lambda metrics: f"{metrics.wall_seconds:.3f} s"),
    ("tokens/s", lambda metrics: f"{metrics.tokens_per_second:.1f}"),
)


def print_prompt(text: str, model: str) -> None:
    """The prompt, on stderr, and a warning where the model is the small one and the prompt not its example."""
    console = page_console(stderr=True)
    console.rule("prompt", style="dim")
    console.print(Text(printable(text)))
    if model == BUNDLED and text != DEFAULT_PROMPT:
        _note(console, SMALL)


def print_answer(text: str) -> None:
    """The answer, on stdout."""
    console = Console()
    if console.is_terminal:
        console.rule("answer", style="dim")
        console.print(Text(printable(text)))
    else:
        typer.echo(text)


def print_figures(response: Response, pair: Pair[Response] | None, engine: Engine, baseline: str, timed: bool) -> None:
    """The sequential answer, what to know about the two, and the figures, all on stderr. ``baseline`` is the name of
    the model that gave the sequential answer if it is another; ``timed``: the answer was decoded again for its time."""
    console = page_console(stderr=True)
    if pair:
        console.rule(Text(f"sequential answer of {baseline or 'the same model'}", style="rule.text"), style="dim")
        same = pair.answer.text == pair.baseline.text
        console.print(Text("The same text." if same else printable(pair.baseline.text)))
    console.rule("figures", style="dim")
    for note in (*notes(response), *((*pair.remarks(), *timing_notes(pair)) if pair else ())):
        _note(console, note)
    if pair:
        _print_pair(console, pair)
    else:
        print_table(console, ("", "this answer"), [(name, value(response.metrics)) for name, value in ROWS])
    console.print(_caption(engine, baseline, bool(pair), timed), style="dim", markup=False, highlight=False)


def notes(response: Response) -> Iterator[str]:
    """What the reader should know about an answer besides its text."""
    if response.finish_reason == "length":
        yield "A limit ended this answer before it was complete (--max-tokens, or the model's window)."
    elif cut := [thread.topic for thread in response.threads if thread.truncated]:
        yield f"A limit ended these chunks before they were complete: {', '.join(cut)}."
    yield from response.problems


def timing_notes(pair: Pair[Any]) -> Iterator[str]:
    """What the reader should know where much of the theoretical speedup is lost."""
    if pair.efficiency < SLOW:
        yield (
            "Much of the theoretical speedup is lost. Other work on the machine slows parallel steps more than "
            "sequential ones: times count on an idle machine."
        )


def _print_pair(console: Console, pair: Pair[Response]) -> None:
    rows = [(name, value(pair.answer.metrics), value(pair.baseline.metrics)) for name, value in ROWS]
    speedups = [
        ("theoretical speedup", f"{pair.theoretical:.2f} x", ""),
        ("realised speedup", f"{pair.realised:.2f} x", ""),
        ("efficiency", f"{pair.efficiency:.2f}", ""),
    ]
    print_table(console, ("", "this answer", "sequential"), [*rows, *speedups])


def _caption(engine: Engine, baseline: str, compared: bool, timed: bool) -> str:
    """On what the figures were measured, and what they mean."""
    place = ", ".join(filter(None, (engine.device, engine.dtype)))
    if not compared:
        return f"On {place}" + (", after a warm-up." if timed else "; the first run, warm-up included.")
    return (
        f"Baseline: {baseline or 'the same model'}, decoded sequentially ({place}, same prompt, after a warm-up). "
        "Theoretical: its tokens / critical path of this answer. Realised: its wall time / wall time of this answer. "
        "Efficiency: realised / theoretical."
    )


def _note(console: Console, text: str) -> None:
    console.print(text, style="yellow", markup=False, highlight=False)
