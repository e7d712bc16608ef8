"""`pasta eval`: a model on a set of prompts, its speed and its quality against a baseline's."""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pastalm.cli.judging import JudgeFlags
from pastalm.cli.models import load_engine, name_of
from pastalm.cli.options import (
    BUNDLED,
    Baseline,
    DecodingMode,
    Device,
    DType,
    Json,
    JudgeConcurrency,
    JudgeKeyEnv,
    JudgeModel,
    JudgeUrl,
    Limit,
    MaxBatch,
    MaxThreads,
    MaxTokens,
    Model,
    Name,
    Out,
    Speed,
    name_argument,
    place_option,
)
from pastalm.cli.tables import page_console
from pastalm.runtime.mode import Mode

if TYPE_CHECKING:
    from pastalm.data.questions import Question
    from pastalm.evaluation.answers import Answers, EvalSettings
    from pastalm.evaluation.outputs import Evaluation


class EvalError(ValueError):
    """An evaluation without any answer, and why."""


def evaluate(
    prompts: Annotated[
        str,
        name_argument(
            "A file of prompts (JSON, JSONL or .gz of it; 'instruction', 'prompt' or 'messages'), or generated tasks, "
            "such as tasks:held-out:330.",
            "PROMPTS",
        ),
    ],
    model: Model,
    out: Out,
    baseline: Baseline = "",
    limit: Limit = None,
    max_tokens: MaxTokens = 1024,
    mode: DecodingMode = Mode.ASYNC,
    skeleton: Annotated[bool, typer.Option("--skeleton", help="Answer by Skeleton-of-Thought instead.")] = False,
    speed: Speed = 0.0,
    max_threads: MaxThreads = None,
    max_batch: MaxBatch = 1,
    reuse: Annotated[
        Path | None,
        place_option("Another run's folder, whose baseline's answers are taken over."),
    ] = None,
    device: Device = "auto",
    dtype: DType = "auto",
    name: Name = "",
    judge_model: JudgeModel = "",
    judge_url: JudgeUrl = "",
    judge_key_env: JudgeKeyEnv = "OPENAI_API_KEY",
    judge_concurrency: JudgeConcurrency = 8,
    judge_cache: Annotated[
        Path | None, place_option("A file that keeps the judge's verdicts. Default: judge.jsonl in --out.")
    ] = None,
    reference: Annotated[
        Path | None, place_option("A file of answers to judge against, in AlpacaEval's form. Default: the baseline's.")
    ] = None,
    calibration: Annotated[
        Path | None, place_option("A folder with AlpacaEval's two calibration files. Default: the hub's.")
    ] = None,
    json: Json = False,
) -> None:
    """Answer a set of prompts greedily and report speed and quality with 95% intervals.

    Speedups are against the sequential answers of the baseline, decoded in turn with the model's. With --max-batch
    above 1 many prompts are answered at once: sooner done, but wall times are not measured, and --reuse may take the
    baseline's answers of another run. Stop it at any moment and start it again: it goes on where it was.
    """
    from pastalm.data.questions import read_questions
    from pastalm.evaluation.answers import EvalSettings
    from pastalm.evaluation.quality import read_reference
    from pastalm.evaluation.report import REPORT
    from pastalm.files.fingerprint import fingerprint

    judge = JudgeFlags(judge_model, judge_url, judge_key_env, judge_concurrency, judge_cache, reference, calibration)
    questions = read_questions(prompts, limit)
    if reference is not None:
        read_reference(reference, questions)  # what it lacks is said before anything is done
    prints = fingerprint(_place(model)), fingerprint(_place(baseline)) if baseline else ""
    asked = (model, prompts, baseline, mode.value, max_tokens, speed, max_threads, device, dtype)
    settings = EvalSettings(*asked, *prints, max_batch=max_batch, skeleton=skeleton)
    found = _answered(out, settings, questions, name or name_of(model), reuse)
    if not judge.wanted or not (out / REPORT).exists():  # a judge in trouble costs no figures, and no earlier verdicts
        report = found.write(out)
    if judge.wanted:
        with judge.open(out / "judge.jsonl") as opened:
            report = found.write(out, found.judge(opened, reference, calibration))
    if json:
        typer.echo(json_module.dumps(report, ensure_ascii=False))
    else:
        _print(report, out)


def _place(model: str) -> str:
    from importlib.resources import files

    return str(files("pastalm") / "bundled") if model == BUNDLED else model


def _answered(
    out: Path, settings: EvalSettings, questions: Sequence[Question], name: str, reuse: Path | None
) -> Evaluation:
    """All answers, those that are missing decoded now."""
    from pastalm.evaluation.answers import Answers
    from pastalm.evaluation.outputs import Evaluation

    with Answers(out, settings, reuse) as answers:
        _measure(answers, settings, questions)
        outcomes, refused = answers.outcomes(questions), answers.refused(questions)
        if not outcomes:
            raise EvalError(f"No prompt could be answered: {refused[0]}")
        return Evaluation(name, settings, answers.machine, outcomes, refused)


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


def _print(found: dict[str, Any], out: Path) -> None:
    from pastalm.cli.scores import notes, print_families, print_scores

    console = page_console()
    print_scores(console, found)
    if found["families"]:
        print_families(console, found)
    for note in notes(found):
        console.print(note, style="yellow", markup=False, highlight=False)
    console.print(f"Written to {out}: report.json, answers.jsonl, model_outputs.json.", style="dim")
