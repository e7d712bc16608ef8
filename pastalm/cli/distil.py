"""`pasta distil`: a model's own answers to prompts, the good ones, marked by their structure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pastalm.cli.models import load_engine
from pastalm.cli.options import (
    Device,
    DType,
    Limit,
    MaxBatch,
    MaxTokens,
    Model,
    Seed,
    Temperature,
    TrustRemoteCode,
    name_argument,
    place_argument,
)
from pastalm.files.atomic import write_json, writing
from pastalm.files.lines import DataError, json_line

if TYPE_CHECKING:
    from pastalm.data.questions import Question
    from pastalm.runtime.engine import Engine
    from pastalm.training.sampling import Sampling


def distil(
    prompts: Annotated[str, name_argument("Prompts: JSON lines, a JSON list, Parquet, or .gz of it.", "PROMPTS")],
    out: Annotated[
        Path, place_argument("The annotated JSONL to write; all answers go to OUT's .samples.jsonl.", "OUT")
    ],
    model: Model,
    samples: Annotated[int, typer.Option(min=1, help="Answers a prompt: how many to draw.")] = 4,
    keep: Annotated[int, typer.Option(min=1, metavar="N", help="The most good answers to keep of each prompt.")] = 2,
    temperature: Temperature = 0.7,
    max_tokens: MaxTokens = 600,
    max_batch: MaxBatch = 32,
    seed: Seed = 0,
    limit: Limit = None,
    device: Device = "auto",
    dtype: DType = "auto",
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Draw a model's own answers, drop those that are cut or repeat themselves, and mark the plainly structured ones.

    A model learns marks best on text that it would have written. Answers that the rules do not mark are kept unmarked;
    `pasta annotate` can have a model mark them. Stop it at any moment and start it again: it goes on where it was.
    """
    from pastalm.data.questions import read_questions
    from pastalm.files.journal import Journal
    from pastalm.training.sampling import FIELDS, Sampling

    if Path(prompts).resolve() == out.resolve():
        raise DataError(f"{prompts} would be read and written at once; choose another OUT.")
    questions = read_questions(prompts, limit)
    sampling = Sampling(samples, temperature, max_tokens, seed, max_batch=max_batch, mode="sequential")
    _agree(out.with_suffix(".samples.json"), prompts, model, sampling)
    with Journal(out.with_suffix(".samples.jsonl"), FIELDS) as journal:
        load = partial(load_engine, model, device, dtype, trust_remote_code=trust_remote_code)
        _draw(journal, questions, sampling, load)
        counts: Counter[str] = Counter()
        lines = list(_marked(questions, journal, keep, counts))
    if not lines:
        raise DataError(f"No answer could be kept: {_listed(counts)}; raise --samples or --max-tokens.")
    with writing(out) as file:
        file.writelines(json_line(fields) + "\n" for fields in lines)
    typer.echo(_summary(counts, len(lines), out), err=True)


def _agree(place: Path, prompts: str, model: str, sampling: Sampling) -> None:
    """Note the settings beside the samples, or see that those were drawn with the same."""
    settings = {"model": model, "prompts": prompts} | vars(sampling)
    free = {"samples", "max_batch"}
    try:
        before = json.loads(place.read_text(encoding="utf-8")) if place.exists() else settings
        differing = [name for name in settings if name not in free and before[name] != settings[name]]
    except (ValueError, LookupError, TypeError):
        raise DataError(f"{place} was not written by this command; choose another OUT.") from None
    if differing:
        raise DataError(f"{place} says that the samples were drawn with another {differing[0]}; choose another OUT.")
    write_json(place, settings)


def _draw(journal: Any, questions: Sequence[Question], sampling: Sampling, load: Callable[[], Engine]) -> None:
    wanted = ((question.index, number) for question in questions for number in range(sampling.samples))
    if all(key in journal for key in wanted):
        return  # a run that has everything needs no model
    from pastalm.training.sampling import sample

    sample(load(), questions, sampling, journal)


def _marked(questions: Sequence[Question], journal: Any, keep: int, counts: Counter[str]) -> Iterator[dict[str, Any]]:
    """The fields of each answer that is kept."""
    from pastalm.data.structure import own_answers

    keys: dict[int, list[tuple[int, int]]] = {}
    for key in journal:
        keys.setdefault(key[0], []).append(key)
    for question in questions:
        drawn = (journal[key] for key in keys.get(question.index, []))
        for number, (text, annotated, rule) in enumerate(own_answers(drawn, keep, counts)):
            asked = "prompt" if isinstance(question.prompt, str) else "messages"
            head = {"id": f"{question.key}-{number}", asked: question.prompt}
            yield head | {"annotated": annotated, "answer": text, "rule": rule}


def _summary(counts: Counter[str], kept: int, out: Path) -> str:
    from pastalm.data.structure import RULES

    forked = sum(counts[rule] for rule in RULES)
    ways = ", ".join(f"{counts[rule]} by {rule}" for rule in RULES)
    dropped = Counter({fault: number for fault, number in counts.items() if fault not in (*RULES, "unmarked")})
    said = f"{kept} of {counts.total()} answers written to {out}, {forked} of them marked ({ways})."
    return f"{said} Left out: {_listed(dropped)}." if dropped else said


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in counts.most_common()) or "none was drawn"
