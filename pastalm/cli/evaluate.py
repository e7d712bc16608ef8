"""`pasta eval`: a model on a set of prompts, its speed and its quality against a baseline's."""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pastalm.cli.judging import JudgeFlags
from pastalm.cli.models import load_engine, name_of
from pastalm.cli.options import (
    BUNDLED,
    AnswerTemperature,
    Baseline,
    Compile,
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
    PromiseBias,
    Quantize,
    Remote,
    TopP,
    TrustRemoteCode,
    name_argument,
    place_option,
)
from pastalm.cli.tables import page_console
from pastalm.runtime.mode import Mode

if TYPE_CHECKING:
    from pastalm.data.questions import Question
    from pastalm.evaluation.answers import Answers, EvalSettings
    from pastalm.evaluation.outputs import Evaluation
    from pastalm.runtime.engine import Engine


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
    promise_bias: PromiseBias = 0.0,
    promise_biases: Annotated[
        str,
        typer.Option(
            metavar="NATS,..", help="Values for --promise-bias, each evaluated in a folder of its own under --out."
        ),
    ] = "",
    temperature: AnswerTemperature = None,
    top_p: TopP = None,
    max_threads: MaxThreads = None,
    max_batch: MaxBatch = 1,
    reuse_baseline: Annotated[
        Path | None,
        place_option("Another run's folder, whose baseline's answers are taken over."),
    ] = None,
    device: Device = "auto",
    dtype: DType = "auto",
    trust_remote_code: TrustRemoteCode = False,
    compile: Compile = False,
    quantize: Quantize = None,
    remote: Remote = None,
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
    """Answer a set of prompts and report speed and quality with 95% intervals.

    Speedups are against the sequential answers of the baseline, decoded in turn with the model's. With --max-batch
    above 1 many prompts are answered at once: sooner done, but wall times are not measured, and --reuse-baseline may
    take the baseline's answers of another run. Stop it at any moment and start it again: it goes on where it was.
    """
    from pastalm.data.questions import read_questions
    from pastalm.evaluation.answers import EvalSettings
    from pastalm.evaluation.quality import read_reference
    from pastalm.files.fingerprint import fingerprint

    judge = JudgeFlags(judge_model, judge_url, judge_key_env, judge_concurrency, judge_cache, reference, calibration)
    biases = _biases(promise_biases)
    if biases and promise_bias:
        raise EvalError("--promise-bias and --promise-biases both say how readily chunks start; give one of them.")
    questions = read_questions(prompts, limit)
    if reference is not None:
        read_reference(reference, questions)  # what it lacks is said before anything is done
    prints = fingerprint(_place(model)), fingerprint(_place(baseline)) if baseline else ""
    asked = (model, prompts, baseline, mode.value, max_tokens, promise_bias, max_threads, device, dtype)
    settings = EvalSettings(
        *asked,
        *prints,
        max_batch=max_batch,
        skeleton=skeleton,
        quantize=quantize,
        temperature=temperature,
        top_p=top_p,
        compile=compile,
    )
    engines = Engines(settings, remote, trust_remote_code=trust_remote_code, compile=compile)
    called = name or name_of(model)
    if not biases:
        report = _evaluated(out, settings, questions, called, reuse_baseline, engines, judge)
        _show(report, out, json)
        return
    curve, reuse = [], reuse_baseline
    for value in biases:
        folder, moved = out / f"promise-bias{value:+g}", replace(settings, promise_bias=value)
        curve.append(_evaluated(folder, moved, questions, f"{called} {value:+g}", reuse, engines, judge))
        reuse = reuse or (folder if baseline and max_batch > 1 else None)  # the baseline's answers are the same
    _show_curve(curve, out, json)


class Engines:
    """The two engines of an evaluation, each loaded when it is first needed. ``remote`` are the servers of the model;
    a baseline of another name is loaded here."""

    def __init__(self, settings: EvalSettings, remote: Sequence[str] | None = None, **options: Any) -> None:
        self.settings, self.remote, self.options = settings, remote, options

    @cached_property
    def model(self) -> Engine:
        """The model's."""
        return self._load(self.settings.model, self.settings.dtype, self.remote)

    @cached_property
    def baseline(self) -> Engine:
        """The baseline's, which may be the model itself; of the same number type, since their times are compared."""
        if not self.settings.baseline:
            return self.model
        return self._load(self.settings.baseline, self.model.dtype or self.settings.dtype)

    def _load(self, model: str, dtype: str, remote: Sequence[str] | None = None) -> Engine:
        return load_engine(model, self.settings.device, dtype, remote, quantize=self.settings.quantize, **self.options)


def _biases(values: str) -> list[float]:
    """The values of --promise-biases."""
    try:
        return [float(value) for value in values.split(",") if value.strip()]
    except ValueError:
        raise EvalError(f"--promise-biases are numbers with commas between, such as -1,0,1, not {values!r}.") from None


def _place(model: str) -> str:
    from importlib.resources import files

    return str(files("pastalm") / "bundled") if model == BUNDLED else model


def _evaluated(
    out: Path,
    settings: EvalSettings,
    questions: Sequence[Question],
    name: str,
    reuse: Path | None,
    engines: Engines,
    judge: JudgeFlags,
) -> dict[str, Any]:
    """The report of one folder: all answers, those that are missing decoded now, and what the judge says of them."""
    from pastalm.annotation.judge import VERDICTS
    from pastalm.evaluation.report import REPORT

    found = _answered(out, settings, questions, name, reuse, engines)
    if not judge.wanted or not (out / REPORT).exists():  # a judge in trouble costs no figures, and no earlier verdicts
        report = found.write(out)
    if judge.wanted:
        with judge.open(out / VERDICTS) as opened:
            report = found.write(out, found.judge(opened, judge.reference, judge.calibration))
    return report


def _answered(
    out: Path,
    settings: EvalSettings,
    questions: Sequence[Question],
    name: str,
    reuse: Path | None,
    engines: Engines,
) -> Evaluation:
    from pastalm.evaluation.answers import Answers
    from pastalm.evaluation.outputs import Evaluation

    with Answers(out, settings, reuse) as answers:
        _measure(answers, questions, engines)
        outcomes, refused = answers.outcomes(questions), answers.refused(questions)
        if not outcomes:
            raise EvalError(f"No prompt could be answered: {refused[0]}")
        return Evaluation(name, settings, answers.machine, outcomes, refused)


def _measure(answers: Answers, questions: Sequence[Question], engines: Engines) -> None:
    """Decode what is missing; a folder that has everything needs no model."""
    missing = len(answers.missing(questions))
    if not missing:
        return
    from pastalm.progress import track

    total = len({one.key for one in questions})
    also = "sequential answers taken over where they are known" if answers.known else "each also sequentially"
    typer.echo(f"Answering {missing} of {total} prompts, {also}, into {answers.folder} ..", err=True)
    measured = answers.measure(questions, engines.model, engines.baseline)
    for _ in track(measured, "Answering", total, done=total - missing, unit="prompts"):
        pass


def _show(report: dict[str, Any], out: Path, json: bool) -> None:
    if json:
        typer.echo(json_module.dumps(report, ensure_ascii=False))
    else:
        _print(report, out)


def _show_curve(curve: Sequence[dict[str, Any]], out: Path, json: bool) -> None:
    """What the promise bias does: a report a value of --promise-biases."""
    from pastalm.cli.scores import print_curve

    if json:
        typer.echo(json_module.dumps(curve, ensure_ascii=False))
        return
    print_curve(page_console(), curve)
    drawn = f"`pasta pareto {out}/promise-bias* --out FOLDER` draws them."
    typer.echo(f"Written to {out}: a folder for each value. {drawn}")


def _print(found: dict[str, Any], out: Path) -> None:
    from pastalm.cli.scores import notes, print_families, print_scores

    console = page_console()
    print_scores(console, found)
    if found["families"]:
        print_families(console, found)
    for note in notes(found):
        console.print(note, style="yellow", markup=False, highlight=False)
    written = f"Written to {out}: report.json, answers.jsonl, model_outputs.json."
    console.print(written, style="dim", markup=False, highlight=False)
