"""Sampling answers for stage 2 with our runtime: batched, resumable, every answer kept."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pastalm.data.questions import Question
from pastalm.files.journal import Journal
from pastalm.files.lines import DataError
from pastalm.lang.script import Script, ScriptBlock
from pastalm.progress import track
from pastalm.runtime.engine import Engine, RequestError
from pastalm.runtime.limits import Limits
from pastalm.runtime.response import Response

SampleKey = tuple[int, int]  # the number of a prompt and of a sample
FIELDS = {"prompt": int, "sample": int}
WAITING = 16  # times the batch are handed to the engine at once: the last ones, decoded with empty places, count little


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn. Two runs with equal settings and models draw equal answers, whatever ``max_batch`` is; in
    bfloat16 up to the rounding of the model's arithmetic, which depends on how many answers share a step."""

    samples: int
    temperature: float
    max_tokens: int
    seed: int
    round: int = 1
    max_batch: int = 32
    mode: str = "async"
    dtype: str = "auto"

    def seed_of(self, key: SampleKey) -> int:
        """The seed of one answer: a matter of the run's seed, the round, the prompt and the sample, not of what is
        decoded beside it or was decoded before."""
        digest = hashlib.sha256(f"{self.seed} {self.round} {' '.join(map(str, key))}".encode()).digest()
        return int.from_bytes(digest[:8], "big") >> 1


def sample(
    engine: Engine,
    questions: Sequence[Question],
    sampling: Sampling,
    journal: Journal,
    share: tuple[int, int] = (0, 1),
    what: str = "Sampling",
) -> int:
    """Draw the answers that ``journal`` lacks, ``sampling.samples`` a prompt, and write each as soon as it and those
    before it are there.

    ``share`` (rank, processes) takes every so many-th prompt. Prompts that the engine refuses, such as those that fill
    the model's window, are left out, and the first process says how many. Returns how many answers the journal will
    hold when all processes are through. Raises ``DataError`` where all prompts are refused.
    """
    rank, processes = share
    refusals = {one.index: refusal for one in questions if (refusal := _refusal(engine, one))}
    asked = [one for one in questions if one.index not in refusals]
    if not asked:
        raise DataError(f"No prompt could be asked, so give others; the first: {refusals[questions[0].index]}")
    if refusals and rank == 0:
        counted = f"{what}: {len(refusals)} of {len(questions)} prompts could not be asked"
        print(f"{counted}; the first: {next(iter(refusals.values()))}", flush=True)
    total = len(asked) * sampling.samples
    keys = [(one.index, k) for one in asked[rank::processes] for k in range(sampling.samples)]
    wanted = [key for key in keys if key not in journal]
    found = _answers(engine, {one.index: one for one in asked}, wanted, sampling)
    for key, response in track(found, what, len(keys), done=len(keys) - len(wanted), unit="answers"):
        journal.append(sampled(key, response))
    return total


def _refusal(engine: Engine, question: Question) -> str:
    """Why a prompt cannot be asked; empty if it can."""
    try:
        engine.bounded(Limits(), engine.encode(question.prompt))
    except RequestError as error:
        return str(error)
    return ""


def _answers(
    engine: Engine, asked: dict[int, Question], wanted: Sequence[SampleKey], sampling: Sampling
) -> Iterator[tuple[SampleKey, Response]]:
    chunk = sampling.max_batch * WAITING
    for start in range(0, len(wanted), chunk):
        keys = wanted[start : start + chunk]
        responses = engine.generate_batch(
            [asked[index].prompt for index, _ in keys],
            max_batch=sampling.max_batch,
            seeds=[sampling.seed_of(key) for key in keys],
            mode=sampling.mode,
            temperature=sampling.temperature,
            top_p=1.0,  # whatever the model brings: the loss goes by the probabilities of the whole distribution
            max_tokens=sampling.max_tokens,
        )
        yield from zip(keys, responses, strict=True)


def sampled(key: SampleKey, response: Response) -> dict[str, Any]:
    """An answer as a journal keeps it: texts, figures, and its token ids exactly as they were decoded.

    ``cut`` are the blocks that a limit ended; ``ended`` says that no limit ended the main thread, by the token ``end``,
    ``finished`` that none ended anything.
    """
    cut = [block for block, thread in enumerate(response.threads) if thread.truncated]
    ended = response.finish_reason == "stop"
    return {
        **dict(zip(FIELDS, key, strict=True)),
        "finished": ended and not cut,
        "ended": ended,
        "end": response.end,
        "tokens": response.metrics.tokens,
        "content_tokens": response.metrics.content_tokens,
        "critical_path": response.metrics.critical_path,
        "chunks": len(response.threads) - 1,
        "text": response.text,
        "annotated": response.annotated,
        "cut": cut,
        "script": script_fields(response.script),
    }


def script_fields(script: Script) -> dict[str, Any]:
    """A script as plain JSON types; :func:`read_script` reads it."""
    blocks = [[one.parent, one.topic, one.promised, one.release, one.content] for one in script.blocks]
    return {"tokens": script.tokens, "block": script.block, "blocks": blocks}


def read_script(fields: dict[str, Any]) -> Script:
    """The script that :func:`script_fields` wrote."""
    return Script(fields["tokens"], fields["block"], [ScriptBlock(*one) for one in fields["blocks"]])
