"""`pasta bench`: how fast a model decodes on this machine, in one report."""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pastalm.cli.models import hush, load_engine, name_of, working
from pastalm.cli.options import (
    BUNDLED,
    Compile,
    Device,
    DType,
    Json,
    Model,
    Quantize,
    Remote,
    TrustRemoteCode,
    name_option,
    place_option,
)

if TYPE_CHECKING:
    from pastalm.data.examples import AnnotatedAnswer
    from pastalm.evaluation.bench.report import BenchReport
    from pastalm.runtime.engine import Engine

SECTIONS = ("steps", "breakdown", "replay", "load", "peers")
REMOTE_SECTIONS = ("replay", "load")


class BenchError(ValueError):
    """Flags that do not go together, and what to do."""


def bench(
    out: Annotated[Path, place_option("Where to write: a folder for bench.md, bench.json and bench.png.")],
    model: Model = "",
    shape: Annotated[
        str, typer.Option(metavar="NAME", help="A random model of a known shape instead, such as llama-7b.")
    ] = "",
    data: Annotated[
        str, name_option("Annotated JSONL, whose answers are decoded. Default: some of pasta-instruct.", "DATA")
    ] = "",
    limit: Annotated[int, typer.Option(min=1, help="Take the first N answers that fork only.", metavar="N")] = 8,
    only: Annotated[
        str, typer.Option(metavar="SECTIONS", help=f"The sections wanted, with commas between: {', '.join(SECTIONS)}.")
    ] = "",
    threads: Annotated[str, typer.Option(metavar="N,..", help="The numbers of threads of a sequence.")] = "1,2,4,8,16",
    sequences: Annotated[str, typer.Option(metavar="N,..", help="The numbers of sequences at once.")] = "1,4,8,16,32",
    contexts: Annotated[str, typer.Option(metavar="N,..", help="The lengths of prompts, in tokens.")] = "256,1024",
    repeats: Annotated[
        int, typer.Option(min=1, help="How many steps are timed: their median counts, in breakdown their mean.")
    ] = 20,
    gguf: Annotated[Path | None, place_option("A GGUF file for llama.cpp, if it is installed, as a peer.")] = None,
    peer_url: Annotated[str, typer.Option(metavar="URL", help="A completion server, such as vLLM's, as a peer.")] = "",
    device: Device = "auto",
    dtype: DType = "auto",
    trust_remote_code: TrustRemoteCode = False,
    compile: Compile = False,
    cuda_graphs: Annotated[bool, typer.Option(help="Replay steps as CUDA graphs, on a GPU.")] = True,
    ahead: Annotated[
        bool | None,
        typer.Option(help="Launch steps before the last one's tokens are seen. Default: where they are CUDA graphs."),
    ] = None,
    quantize: Quantize = None,
    remote: Remote = None,
    json: Json = False,
) -> None:
    """Measure how fast a model decodes on this machine, and write one report: Markdown, JSON and a figure.

    steps: the time of a step against threads, sequences and context, the law that fits it, and the bytes it reads
    against the bandwidth of a copy. breakdown: where a step's time goes. replay: known answers in parallel and
    sequentially. load: many of them at once. peers: the same texts by transformers, llama.cpp and a server.
    With --remote, replay and load decode the model's own answers to the prompts of the known ones.
    """
    if shape and (model or remote):
        raise BenchError("Give --model or --shape, not both." if model else "A --shape runs here, not at a --remote.")
    wanted = _wanted(only, REMOTE_SECTIONS if remote else SECTIONS)
    _check_peers(wanted, gguf, peer_url)
    grid = [_numbers(values, name) for values, name in ((sequences, "sequences"), (threads, "threads"))]
    lengths = _numbers(contexts, "contexts")
    answers = _answers(data, limit)
    options: dict[str, Any] = {"compile": compile, "cuda_graphs": cuda_graphs, "ahead": ahead, "quantize": quantize}
    if remote:
        engine = load_engine(model or BUNDLED, device, dtype, remote, compile=compile, quantize=quantize)
        _show(_server_report(engine, name_of(model or BUNDLED), remote, wanted, answers, grid[0]), out, json)
        return
    if shape:
        engine = _random(shape, device, dtype, answers, **options)
    else:
        engine = load_engine(model or BUNDLED, device, dtype, trust_remote_code=trust_remote_code, **options)
    report = _report(engine, shape or name_of(model or BUNDLED))
    try:
        _measure_steps(report, engine, wanted, grid, lengths, repeats)
        _measure_answers(report, engine, wanted, answers, grid[0])
        if "peers" in wanted:
            _measure_peers(report, engine, answers, (model or BUNDLED, shape), gguf, peer_url, trust_remote_code)
    finally:  # what has been measured is not lost if what comes behind it fails
        _show(report, out, json)


def _wanted(only: str, sections: tuple[str, ...]) -> tuple[str, ...]:
    """The sections of --only, or all ``sections``."""
    wanted = tuple(section.strip() for section in only.split(",") if section.strip()) or sections
    unknown = [section for section in wanted if section not in sections]
    if unknown:
        raise BenchError(f"Unknown section {unknown[0]!r} in --only; choose from {', '.join(sections)}.")
    return wanted


def _check_peers(wanted: Sequence[str], gguf: Path | None, peer_url: str) -> None:
    """Refuse, before anything is measured, a peer that nobody asks for or that is not there."""
    if gguf is None and not peer_url:
        return
    if "peers" not in wanted:
        raise BenchError("--gguf and --peer-url name peers, but the section peers is not measured here.")
    from pastalm.evaluation.bench.peers import require_llama_cpp, require_server

    if gguf is not None:
        require_llama_cpp(gguf)
    if peer_url:
        require_server(peer_url)


def _numbers(values: str, name: str) -> list[int]:
    try:
        found = sorted({int(value) for value in values.split(",") if value.strip()})
    except ValueError:
        found = []
    if not found or found[0] < 1:
        raise BenchError(f"--{name} are whole numbers from 1 up with commas between, not {values!r}.")
    return found


def _answers(data: str, number: int) -> list[AnnotatedAnswer]:
    """The first answers of the data that fork, or the first ones if none does."""
    from importlib.resources import files

    from pastalm.data.examples import read_annotated

    place = data or str(files("pastalm") / "data" / "pasta-instruct" / "assistant" / "test.jsonl")
    found = list(read_annotated(place))
    if not found:
        raise BenchError(f"{place} has no annotated answer.")
    return ([one for one in found if one.answer.depth] or found)[:number]


def _random(shape: str, device: str, dtype: str, answers: Sequence[AnnotatedAnswer], **options: Any) -> Engine:
    """An engine for a random model of a shape, with a tokenizer for the texts of the answers."""
    from pastalm.evaluation.bench.shapes import random_tokenizer, shape_of

    kind = shape_of(shape)
    with working(f"Making a random {shape} .."):
        hush()
        from pastalm.runtime.engine import Engine
        from pastalm.runtime.load import load_tokenizer

        texts = [text for one in answers for text in (str(one.prompt), one.answer.plain)]
        tokenizer = random_tokenizer(load_tokenizer(BUNDLED), texts, kind.vocabulary)
        return Engine(_random_model(shape, device, dtype), tokenizer, **options)


def _random_model(shape: str, device: str, dtype: str) -> Any:
    from pastalm.evaluation.bench.shapes import random_model, shape_of
    from pastalm.runtime.device import choose_device, choose_dtype

    chosen = choose_device(device)
    return random_model(shape_of(shape), chosen, choose_dtype(dtype, chosen, None))


def _report(engine: Engine, name: str) -> BenchReport:
    from pastalm.evaluation.bench.report import BenchReport, describe_machine
    from pastalm.evaluation.bench.steps import copy_bandwidth

    return BenchReport(name, describe_machine(engine), copy_bandwidth(engine))


def _server_report(
    engine: Engine,
    name: str,
    urls: Sequence[str],
    wanted: Sequence[str],
    answers: Sequence[AnnotatedAnswer],
    loads: list[int],
) -> BenchReport:
    """What a model behind a completion server comes to with the prompts of ``answers``."""
    from pastalm.evaluation.bench.remote import MeasuredServer
    from pastalm.evaluation.bench.report import BenchReport
    from pastalm.progress import track

    server, prompts = MeasuredServer(engine, urls), [one.prompt for one in answers]
    report = BenchReport(name, {"device": engine.device}, costs=list(server.costs.values()))
    if "replay" in wanted:
        report.pairs = list(track(server.pairs(prompts), "Answering", len(prompts)))
    if "load" in wanted:
        report.load = list(track(server.load(prompts, loads), "Answering many at once", len(loads)))
    engine.release()
    return report


def _measure_steps(
    report: BenchReport,
    engine: Engine,
    wanted: Sequence[str],
    grid: Sequence[list[int]],
    contexts: list[int],
    repeats: int,
) -> None:
    from pastalm.evaluation.bench.breakdown import measure_breakdown
    from pastalm.evaluation.bench.steps import fit_law, measure_steps
    from pastalm.progress import track

    sequences, threads = grid
    if "steps" in wanted:
        report.steps = list(track(measure_steps(engine, sequences, threads, contexts, repeats), "Timing steps"))
        report.law = fit_law(report.steps)
    if "breakdown" in wanted:
        widths = sorted({(sequences[0], threads[0]), (sequences[0], threads[-1]), (sequences[-1], threads[0])})
        found = measure_breakdown(engine, widths, contexts[0], repeats)
        report.breakdown = list(track(found, "Timing the parts of a step", len(widths)))


def _measure_answers(
    report: BenchReport, engine: Engine, wanted: Sequence[str], answers: Sequence[AnnotatedAnswer], loads: list[int]
) -> None:
    from pastalm.evaluation.bench.answers import measure_load, replay_answers
    from pastalm.progress import track

    if "replay" in wanted or "peers" in wanted:
        engine.replay(answers[0].prompt, answers[0].answer)  # warms the model up
        report.pairs = list(track(replay_answers(engine, answers), "Decoding known answers", len(answers)))
    if "load" in wanted:
        report.load = list(track(measure_load(engine, answers, loads), "Decoding many at once", len(loads)))


def _measure_peers(
    report: BenchReport,
    engine: Engine,
    answers: Sequence[AnnotatedAnswer],
    names: tuple[str, str],
    gguf: Path | None,
    peer_url: str,
    trust: bool,
) -> None:
    from pastalm.evaluation.bench.peers import llama_cpp_times, server_times, transformers_times
    from pastalm.runtime.load import load

    model, shape = names
    device, number = str(engine.runner.device), str(engine.runner.model.dtype).removeprefix("torch.")
    with working("Asking other engines .."):
        if shape:
            plain = _random_model(shape, device, number)
        else:
            plain = load(model, device, number, trust_remote_code=trust)[0]
        report.peers.append(transformers_times(engine, plain, answers))
        if gguf is not None:
            report.peers.append(llama_cpp_times(gguf, answers, report.machine["threads"]))
        if peer_url:
            report.peers.append(server_times(peer_url, engine, answers))


def _show(report: BenchReport, out: Path, json: bool) -> None:
    from pastalm.evaluation.bench.report import markdown

    written = report.write(out)
    if json:
        typer.echo(json_module.dumps(report.as_json(), ensure_ascii=False))
        return
    typer.echo("\n".join(markdown(report)))
    typer.echo(f"Written: {', '.join(map(str, written))}", err=True)
