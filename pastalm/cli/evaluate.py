"""`pasta eval`: a model on a set of prompts, its speed and its quality against a baseline's."""

from __future__ import annotations

import json as json_module
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from pastalm.cli.models import BUNDLED, Device, DType, load_engine, name_of

if TYPE_CHECKING:
    from pastalm.annotation.judge import Judge
    from pastalm.data.questions import Question
    from pastalm.evaluation.answers import Answers, EvalSettings, Outcome
    from pastalm.evaluation.quality import Reference


class Mode(StrEnum):
    """How the model's answers are decoded."""

    ASYNC = "async"
    SEQUENTIAL = "sequential"
    SKELETON = "skeleton"


class EvalError(ValueError):
    """Options that do not go together, and what to do."""


def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A directory, a hub id, or 'bundled'.")],
    prompts: Annotated[
        str,
        typer.Argument(
            metavar="PROMPTS",
            help="JSON(L) of 'instruction', 'prompt' or 'messages', or .gz of it; or tasks:held-out[:NUMBER[:SEED]].",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="The folder to write; an interrupted run goes on there.")],
    baseline: Annotated[
        str, typer.Option(help="The model that speed is measured against, decoded sequentially. Default: MODEL.")
    ] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="Take the first N prompts only.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="The most tokens of an answer, all threads together.")] = 1024,
    mode: Annotated[
        Mode, typer.Option(metavar="MODE", help="'async', 'sequential', or 'skeleton' for Skeleton-of-Thought.")
    ] = Mode.ASYNC,
    speed: Annotated[float, typer.Option(help="From -3 to 3: above 0 the model starts more chunks.")] = 0.0,
    max_threads: Annotated[int | None, typer.Option(help="The most threads in one step.")] = None,
    batch: Annotated[
        int, typer.Option(min=1, help="Prompts answered at once: sooner done, but wall times are not measured.")
    ] = 1,
    reuse: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Another evaluation, with --batch: its baseline's answers are taken."),
    ] = None,
    device: Device = "auto",
    dtype: DType = "auto",
    name: Annotated[
        str, typer.Option(help="What reports call the model. Default: the folder's name or the hub id.")
    ] = "",
    judge: Annotated[
        str, typer.Option(metavar="URL", help="An OpenAI-compatible endpoint that judges the answers.")
    ] = "",
    judge_model: Annotated[str, typer.Option(help="The model that judges, as the endpoint names it.")] = "",
    judge_key_env: Annotated[str, typer.Option(help="The variable that holds the key.")] = "OPENAI_API_KEY",
    judge_cache: Annotated[
        Path | None, typer.Option(help="Where verdicts are kept. Default: judge.jsonl in FOLDER.")
    ] = None,
    judge_concurrency: Annotated[int, typer.Option(min=1, help="Requests to the judge at once.")] = 8,
    reference: Annotated[
        Path | None, typer.Option(help="Answers to judge against, in AlpacaEval's form. Default: the baseline's.")
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="A folder with AlpacaEval's two calibration files; else they come from the hub.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON and nothing else.")] = False,
) -> None:
    """Answer a set of prompts greedily and report speed and quality with 95% intervals.

    Speedups are against the baseline's sequential answers, decoded in turn with the model's. Stop it at any moment and
    start it again: it goes on where it was.
    """
    from pastalm.data.questions import read_questions
    from pastalm.evaluation.answers import Answers, EvalSettings
    from pastalm.evaluation.quality import read_reference
    from pastalm.evaluation.report import REPORT
    from pastalm.files.fingerprint import fingerprint

    key = _judge_key(judge, judge_model, judge_key_env, reference, calibration)
    questions = read_questions(prompts, limit)
    if reference is not None:
        read_reference(reference, questions)  # what it lacks is said before anything is done
    settings = EvalSettings(
        *(model, prompts, baseline, mode.value, max_tokens, speed, max_threads, device, dtype),
        *(fingerprint(_place(model)), fingerprint(_place(baseline)) if baseline else "", batch),
    )
    called = name or name_of(model)
    with Answers(out, settings, reuse) as answers:
        _measure(answers, settings, questions)
        outcomes = answers.outcomes(questions)
        refused = answers.refused(questions)
    if not outcomes:
        raise EvalError(f"No prompt could be answered: {refused[0]}")
    if not judge or not (out / REPORT).exists():  # a judge in trouble costs no figures, and no earlier verdicts
        found = _write(out, called, settings, answers, outcomes, refused)
    if judge:
        against = _reference(reference, settings, called, outcomes)
        with _judging(judge, judge_model, key, judge_concurrency, judge_cache or out / "judge.jsonl") as asked:
            found = _write(out, called, settings, answers, outcomes, refused, (asked, against, calibration))
    if json:
        typer.echo(json_module.dumps(found, ensure_ascii=False))
    else:
        _print(found, out)


def _judge_key(url: str, model: str, key_env: str, reference: Path | None, calibration: Path | None) -> str:
    """The key of the judge; refuses what would be found out only after all answers."""
    from pastalm.evaluation.alpaca import DIFFICULTY, GAMED

    if bool(url) != bool(model):
        raise EvalError("A judge needs both --judge URL and --judge-model NAME.")
    if not url and (reference or calibration):
        raise EvalError("--reference and --calibration serve a judge: add --judge URL and --judge-model NAME.")
    if reference is not None and not reference.is_file():
        raise EvalError(f"There is no file {reference}.")
    if calibration is not None and not all((calibration / file).is_file() for file in (GAMED, DIFFICULTY)):
        raise EvalError(f"{calibration} must hold both {GAMED} and {DIFFICULTY}.")
    if not url:
        return ""
    from pastalm.annotation.endpoint import Settings
    from pastalm.annotation.sources import require

    require("openai")
    key = os.environ.get(key_env, "").strip()
    if not key:
        raise EvalError(f"The environment has no {key_env}: set it to your key (any text where none is needed).")
    Settings(model, key, url)  # refuses a malformed address now, not after all answers
    return key


def _place(model: str) -> str:
    from importlib.resources import files

    return str(files("pastalm") / "bundled") if model == BUNDLED else model


def _measure(answers: Answers, settings: EvalSettings, questions: Sequence[Question]) -> None:
    """Decode what is missing; a folder that has everything needs no model."""
    missing = len(answers.missing(questions))
    if not missing:
        return
    from pastalm.progress import track

    engine = load_engine(settings.model, settings.device, settings.dtype)
    number = str(engine.runner.model.dtype).removeprefix("torch.")  # the same for both: their times are compared
    other = load_engine(settings.baseline, settings.device, number) if settings.baseline else engine
    total = len({one.key for one in questions})
    for _ in track(answers.measure(questions, engine, other), "Answering", total, done=total - missing, unit="prompts"):
        pass


def _reference(path: Path | None, settings: EvalSettings, name: str, outcomes: Sequence[Outcome]) -> Reference:
    from pastalm.evaluation.quality import Reference, read_reference

    if path is not None:
        return read_reference(path, [one.question for one in outcomes])
    baseline = Path(settings.baseline).name if settings.baseline else f"{name} (sequential)"
    return Reference(baseline, tuple(one.baseline.text for one in outcomes))


def _write(
    out: Path,
    name: str,
    settings: EvalSettings,
    answers: Answers,
    outcomes: Sequence[Outcome],
    refused: Sequence[str],
    judging: tuple[Judge, Reference, Path | None] | None = None,
) -> dict[str, Any]:
    """Write the report and the files for AlpacaEval; with a judge, after asking it."""
    from dataclasses import asdict

    from pastalm.evaluation import report
    from pastalm.evaluation.alpaca import model_outputs
    from pastalm.evaluation.quality import compare
    from pastalm.files.atomic import write_text

    quality, judgement = report.checked(outcomes), None
    if judging is not None:
        judge, against, calibration = judging
        judgement = compare(judge, outcomes, against, name, calibration)
        own = against.texts == tuple(one.baseline.text for one in outcomes)
        quality = report.judged(judgement.preferences, judgement.rates, 50.0 if own else None) or quality
    more: dict[str, Any] = {"settings": asdict(settings), "machine": answers.machine, "refused": list(refused)}
    timed = settings.batch == 1
    found = report.report(name, outcomes, quality, timed, judge=judgement and judgement.to_dict(), **more)
    instructions = [one.question.instruction for one in outcomes]
    datasets = [one.question.dataset for one in outcomes]
    base = Path(settings.baseline).name if settings.baseline else f"{name} (sequential)"
    if base == name:  # the official tool would take the two for one model
        base = f"{name} (baseline)"
    own, other = ([getattr(one, side).text for one in outcomes] for side in ("answer", "baseline"))
    write_text(out / "model_outputs.json", model_outputs(instructions, own, name, datasets))
    write_text(out / "baseline_outputs.json", model_outputs(instructions, other, base, datasets))
    write_text(out / report.REPORT, json_module.dumps(found, ensure_ascii=False, indent=2) + "\n")
    return found


@contextmanager
def _judging(url: str, model: str, key: str, concurrency: int, cache: Path) -> Iterator[Judge]:
    """A judge whose progress is shown on a terminal."""
    from pastalm.annotation.endpoint import Settings
    from pastalm.annotation.judge import Judge

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[state]}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        job = bar.add_task("Judging", total=None, state="")

        def show() -> None:
            tally = asked.tally
            state = f"waiting: {tally.trouble}" if tally.trouble else ""
            bar.update(job, completed=tally.known + tally.asked, total=tally.total, state=state)

        with Judge(Settings(model, key, url, concurrency=concurrency), cache, show) as asked:
            yield asked


def _print(found: dict[str, Any], out: Path) -> None:
    from pastalm.cli.scores import families_table, notes, scores_table

    console = Console()
    console.print(scores_table(found))
    if found["families"]:
        console.print(families_table(found))
    for note in notes(found):
        console.print(note, style="yellow", markup=False, highlight=False, soft_wrap=True)
    console.print(f"Written to {out}: report.json, answers.jsonl, model_outputs.json.", style="dim", soft_wrap=True)
