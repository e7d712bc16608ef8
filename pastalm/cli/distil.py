"""`pasta distil`: a model's own answers to prompts, the good ones, marked by their structure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
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
from pastalm.files.fingerprint import fingerprint
from pastalm.files.lines import DataError, json_line

if TYPE_CHECKING:
    from pastalm.data.questions import Question
    from pastalm.runtime.engine import Engine
    from pastalm.training.sampling import Sampling

FREE = {"samples", "max_batch"}  # settings that may change between the runs into one OUT
SAID = {"prompts": "for other prompts", "model_print": "by other weights under the model's name"}


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
    sampling = Sampling(samples, temperature, max_tokens, seed, max_batch=max_batch, mode="sequential", dtype=dtype)
    asked = {"model": model, "model_print": fingerprint(model), "prompts": prompts}
    _agree(out.with_suffix(".samples.json"), asked | asdict(sampling), [question.key for question in questions])
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


def _agree(place: Path, settings: dict[str, Any], keys: list[str]) -> None:
    """Note the settings and the keys of the prompts beside the samples, or see that those were drawn with the same. A
    sample names its prompt by number, so one list of prompts must begin as the other does; either may go on."""
    noted = settings | {"keys": keys}
    try:
        before = json.loads(place.read_text(encoding="utf-8")) if place.exists() else noted
        differing = [name for name in settings if name not in FREE and before[name] != settings[name]]
        known = before["keys"]
        if any(one != other for one, other in zip(known, keys, strict=False)):
            differing.append("prompts")
    except (ValueError, LookupError, TypeError):
        raise DataError(f"{place} was not written by this command; choose another OUT.") from None
    if differing:
        said = SAID.get(differing[0], f"with another {differing[0]}")
        raise DataError(f"{place} says that the samples were drawn {said}; choose another OUT.")
    write_json(place, noted | {"keys": max(known, keys, key=len)})


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
