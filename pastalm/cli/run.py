"""`pasta run`: answer a prompt, its threads side by side, then what the parallelism was worth."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from pastalm.cli.answers import print_answer, print_figures, print_prompt
from pastalm.cli.live import watch
from pastalm.cli.models import load_engine, name_of, working
from pastalm.cli.options import (
    BUNDLED,
    AnswerTemperature,
    Baseline,
    Compile,
    DecodingMode,
    Device,
    DType,
    Json,
    MaxAsyncTokens,
    MaxThreads,
    MaxTokens,
    Model,
    Positions,
    PromiseBias,
    Quantize,
    Remote,
    Seed,
    TopP,
    TrustRemoteCode,
    place_option,
)
from pastalm.cli.prompts import read_prompt
from pastalm.lang.prompt import Prompt, RawPrompt
from pastalm.runtime.mode import Mode

if TYPE_CHECKING:
    from pastalm.evaluation.comparison import Pair
    from pastalm.runtime.engine import Engine
    from pastalm.runtime.response import Response


class RunError(ValueError):
    """Flags that do not go together, and what to do."""


def run(
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMPT", help="The prompt; '-' reads stdin. Default: what is piped in, else an example."
        ),
    ] = None,
    file: Annotated[Path | None, place_option("A file to read the prompt from.")] = None,
    model: Model = BUNDLED,
    baseline: Baseline = "",
    mode: DecodingMode = Mode.ASYNC,
    max_tokens: MaxTokens = 1024,
    max_threads: MaxThreads = None,
    max_async_tokens: MaxAsyncTokens = None,
    temperature: AnswerTemperature = None,
    top_p: TopP = None,
    seed: Seed = 0,
    promise_bias: PromiseBias = 0.0,
    positions: Positions = None,
    device: Device = "auto",
    dtype: DType = "auto",
    trust_remote_code: TrustRemoteCode = False,
    remote: Remote = None,
    compile: Compile = False,
    quantize: Quantize = None,
    raw: Annotated[bool, typer.Option("--raw", help="Give the prompt as it is, without the chat template.")] = False,
    no_compare: Annotated[
        bool, typer.Option("--no-compare", help="Answer once: no sequential answer, and no second run for the time.")
    ] = False,
    json: Json = False,
) -> None:
    """Answer a prompt in parallel, then sequentially, and show both answers and what each took.

    The model promises chunks; each is written in a thread of its own beside the rest, and the threads appear side by
    side on a terminal. The answer goes to stdout; the prompt, the sequential answer and the figures go to stderr.
    """
    if baseline and no_compare:
        raise RunError("--baseline names what to compare with, and --no-compare compares with nothing; give one.")
    text = read_prompt(prompt, file)
    asked = RawPrompt(text) if raw else text
    engine = load_engine(
        model, device, dtype, remote, trust_remote_code=trust_remote_code, compile=compile, quantize=quantize
    )
    options: dict[str, Any] = {"mode": mode.value, "max_tokens": max_tokens, "temperature": temperature}
    options |= {"top_p": top_p, "seed": seed, "promise_bias": promise_bias, "positions": positions}
    options |= {"max_threads": max_threads, "max_async_tokens": max_async_tokens}
    engine.request(asked, **options)  # what cannot be asked is refused before anything is printed
    if not json:
        print_prompt(text, model)
    response = _answer(engine, asked, options, quiet=json)
    if not json:
        print_answer(response.text)
    pair = None
    if not no_compare:
        other = (
            load_engine(baseline, device, engine.dtype or dtype, trust_remote_code=trust_remote_code)
            if baseline
            else engine
        )
        response, pair = _timed(engine, other, asked, options, quiet=json)
    if json:
        typer.echo(_as_json(response, pair))
    else:
        print_figures(response, pair, engine, name_of(baseline) if baseline else "", timed=not no_compare)


def _answer(engine: Engine, prompt: Prompt, options: dict[str, Any], quiet: bool) -> Response:
    """The first run: drawn where there is a terminal. It also warms the model up for the timed ones."""
    console = Console()
    if not quiet and console.is_terminal and not console.is_dumb_terminal:
        return watch(engine, prompt, options, console)
    with working("Decoding .."):
        return engine.generate(prompt, **options)


def _timed(
    engine: Engine, baseline: Engine, prompt: Prompt, options: dict[str, Any], quiet: bool
) -> tuple[Response, Pair[Response] | None]:
    """The answer once more for its time, and the baseline's. A sequential answer is its own baseline."""
    from pastalm.evaluation.comparison import timed

    alone = options["mode"] == Mode.SEQUENTIAL and baseline is engine
    how = "once more for its time" if alone else "once more, and sequentially, to compare times"
    with working(f"Decoding it {how} (--no-compare leaves this out) ..", line=not quiet):
        if alone:
            return engine.generate(prompt, **options), None
        pair = timed(engine, prompt, baseline=baseline, **options)
    return pair.answer, pair


def _as_json(response: Response, pair: Pair[Response] | None) -> str:
    fields = response.to_dict()
    fields["baseline"] = fields["speedup"] = None
    if pair:
        fields["baseline"] = pair.baseline.to_dict()
        fields["speedup"] = {name: getattr(pair, name) for name in ("theoretical", "realised", "efficiency")}
    return json_module.dumps(fields, ensure_ascii=False)
