"""`pasta run`: answer a prompt, its threads side by side, then what the parallelism was worth."""

from __future__ import annotations

import json as json_module
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from pastalm.cli.figures import caption, figures_table, notes
from pastalm.cli.live import printable, watch
from pastalm.cli.models import BUNDLED, Device, DType, load_engine, working
from pastalm.cli.prompts import read_prompt
from pastalm.lang.positions import POLICIES
from pastalm.lang.prompt import Prompt, RawPrompt

if TYPE_CHECKING:
    from pastalm.runtime.engine import Engine
    from pastalm.runtime.response import Response


class Mode(StrEnum):
    """How an answer is decoded."""

    ASYNC = "async"
    SEQUENTIAL = "sequential"


def run(
    prompt: Annotated[
        str | None,
        typer.Argument(help="The prompt; '-' reads stdin. Without one: what is piped in, or else an example."),
    ] = None,
    file: Annotated[Path | None, typer.Option(help="Read the prompt from this file.")] = None,
    model: Annotated[
        str, typer.Option(help="A directory, a hub id, or 'bundled', which knows the tasks of `pasta tasks` alone.")
    ] = BUNDLED,
    mode: Annotated[
        Mode, typer.Option(metavar="MODE", help="'async' decodes in parallel, 'sequential' one token after the other.")
    ] = Mode.ASYNC,
    max_tokens: Annotated[int, typer.Option(help="The most tokens of the answer, all threads together.")] = 1024,
    max_threads: Annotated[
        int | None, typer.Option(help="The most threads in one step; more wait in line. Changes only the time.")
    ] = None,
    max_async_tokens: Annotated[int | None, typer.Option(help="The most tokens of one chunk.")] = None,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Sample from the likeliest tokens of this share.")] = 1.0,
    seed: Annotated[int, typer.Option(help="The seed of sampling.")] = 0,
    speed: Annotated[
        float,
        typer.Option(help="From -3 to 3: above 0 the model starts more chunks, below 0 fewer; 0 is the model itself."),
    ] = 0.0,
    positions: Annotated[
        str | None, typer.Option(help=f"The position policy: {', '.join(POLICIES)}. Default: the model's own.")
    ] = None,
    device: Device = "auto",
    dtype: DType = "auto",
    raw: Annotated[bool, typer.Option("--raw", help="Give the prompt as it is, without the chat template.")] = False,
    no_compare: Annotated[
        bool, typer.Option("--no-compare", help="Answer once; do not time it again, nor without parallelism.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Answer a prompt. The threads appear side by side while they are written, then the answer as plain text.

    The answer goes to stdout, the table of figures to stderr.
    """
    text = read_prompt(prompt, file)
    asked = RawPrompt(text) if raw else text
    engine = load_engine(model, device, dtype)
    options: dict[str, Any] = {"mode": mode.value, "max_tokens": max_tokens, "temperature": temperature}
    options |= {"top_p": top_p, "seed": seed, "speed": speed, "positions": positions}
    options |= {"max_threads": max_threads, "max_async_tokens": max_async_tokens}
    response = _answer(engine, asked, options, quiet=json)
    if not json:
        _print_answer(response.text)
    baseline = None
    if not no_compare:
        response, baseline = _timed(engine, asked, options)
    if json:
        typer.echo(_as_json(response, baseline))
    else:
        _print_figures(response, baseline, engine, timed=not no_compare)


def _answer(engine: Engine, prompt: Prompt, options: dict[str, Any], quiet: bool) -> Response:
    """The first run: drawn where there is a terminal. It also warms the model up for the timed ones."""
    console = Console()
    if not quiet and console.is_terminal and not console.is_dumb_terminal:
        return watch(engine, prompt, options, console)
    with working("Decoding .."):
        return engine.generate(prompt, **options)


def _timed(engine: Engine, prompt: Prompt, options: dict[str, Any]) -> tuple[Response, Response | None]:
    from pastalm.evaluation.comparison import timed

    with working("Timing .."):
        if options["mode"] == Mode.SEQUENTIAL:
            return engine.generate(prompt, **options), None
        pair = timed(engine, prompt, **{name: value for name, value in options.items() if name != "mode"})
    return pair.asynchronous, pair.sequential


def _print_answer(text: str) -> None:
    console = Console()
    if console.is_terminal:
        console.rule("answer", style="dim")
        console.print(Text(printable(text)))
    else:
        typer.echo(text)


def _print_figures(response: Response, baseline: Response | None, engine: Engine, timed: bool) -> None:
    console = Console(stderr=True)
    for note in notes(response):
        console.print(note, style="yellow", soft_wrap=True, markup=False, highlight=False)
    console.print()
    weights = next(engine.runner.model.parameters())
    place = f"{weights.device}, {str(weights.dtype).removeprefix('torch.')}"
    console.print(figures_table(response, baseline))
    console.print(caption(bool(baseline), place, timed), style="dim", soft_wrap=True, markup=False, highlight=False)


def _as_json(response: Response, baseline: Response | None) -> str:
    from pastalm.evaluation.comparison import Pair

    fields = response.to_dict()
    fields["baseline"] = fields["speedup"] = None
    if baseline:
        pair = Pair(response, baseline)
        fields["baseline"] = baseline.to_dict()
        fields["speedup"] = {name: getattr(pair, name) for name in ("theoretical", "realised", "efficiency")}
    return json_module.dumps(fields, ensure_ascii=False)
