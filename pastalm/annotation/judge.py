"""A pairwise judge: which of two answers is better, asked in both orders through any OpenAI-compatible endpoint.

Every reply is kept in a cache on disk the moment it is there: no pair is paid for twice, in this run or another.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from pastalm.annotation.endpoint import Endpoint, EndpointError, RefusedError, Settings
from pastalm.annotation.tally import TokenUsage
from pastalm.annotation.verdict import REMINDER, VERSION, AnswerPair, JudgePrompt, Verdict, read_share
from pastalm.files.journal import Journal, read_journal
from pastalm.files.lines import DataError
from pastalm.files.rows import objects
from pastalm.lang.prompt import as_text

ALTERNATIVES = 5  # likeliest tokens asked for at each place
BY_FILE = "file"  # in the place of an endpoint: the verdicts come by `pasta judge`
VERDICTS = "judge.jsonl"  # the cache of verdicts in the folder of an evaluation or of a run of stage 2
TO_JUDGE = "to_judge.jsonl"  # in the folder of a round of stage 2: prompts with the answers that are compared
MOST_REFUSED = 8  # requests refused before the first answer: then all will be


@dataclass
class JudgeTally:
    """What a judge has come to. ``known``: orders that the cache had; ``asked``: those that got their last reply now;
    ``refused``: what the endpoint would not answer, not cached."""

    total: int = 0
    known: int = 0
    asked: int = 0
    refused: int = 0
    usage: TokenUsage = field(default_factory=TokenUsage)
    trouble: str = ""  # the last failure of the endpoint, until it answers again


class Judge:
    """Judges pairs of answers. Use it as a context manager, or close it.

    ``settings`` say whom to ask and how patiently; ``max_attempts`` replies are read before an order stays unjudged.
    ``cache`` is a file of JSON lines that only grows; one judge at a time writes it. ``on_change`` is called as
    ``tally`` changes. Raises ``DataError`` for a cache in use, or not written by a judge.
    """

    def __init__(self, settings: Settings, cache: Path, on_change: Callable[[], None] = lambda: None) -> None:
        self.settings, self.on_change = settings, on_change
        self.tally = JudgeTally()
        cache.parent.mkdir(parents=True, exist_ok=True)
        self.cache = Journal(cache)
        self.shares: dict[str, float | None] = {key: line.get("share") for key, line in self.cache.items()}
        self.dropped: set[str] = set()  # fields that the endpoint has refused

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Close the cache."""
        self.cache.close()

    def compare(self, items: Iterable[AnswerPair]) -> list[Verdict]:
        """The verdicts, in the order of ``items``. What the cache knows costs no request.

        Raises ``EndpointError`` when the endpoint is no use; what was judged until then is kept.
        """
        pairs = list(items)
        wanted = self._wanted(pairs)
        missing = {key: question for key, question in wanted.items() if key not in self.shares}
        self.tally.total += len(wanted)
        self.tally.known += len(wanted) - len(missing)
        if missing:
            self._judge(missing)
        return [pair.verdict(self.shares, self.settings.model) for pair in pairs]

    def missing(self, items: Iterable[AnswerPair]) -> int:
        """How many judgements of ``items``, one for each order, are not in the cache."""
        return sum(key not in self.shares for key in self._wanted(items))

    def _wanted(self, pairs: Iterable[AnswerPair]) -> dict[str, JudgePrompt]:
        """The judgements that ``pairs`` need, by their key; equal answers need none."""
        asked = (question for pair in pairs for question in pair.orders if question.a != question.b)
        return {question.key(self.settings.model): question for question in asked}

    def _judge(self, missing: dict[str, JudgePrompt]) -> None:
        """Find out the shares that are missing."""
        try:
            asyncio.run(self._ask_all(missing))
        finally:
            self.cache.sync()

    async def _ask_all(self, missing: dict[str, JudgePrompt]) -> None:
        endpoint = Endpoint(self.settings, self.tally, self.on_change, self.dropped)
        waiting = iter(missing.items())

        async def work() -> None:
            for key, question in waiting:
                await self._ask(endpoint, key, question)

        await endpoint.work(work)

    async def _ask(self, endpoint: Endpoint, key: str, question: JudgePrompt) -> None:
        chat, usage = question.messages(), TokenUsage()
        share, reply, attempts = None, "", 0
        while share is None and attempts < self.settings.max_attempts:
            if attempts:
                chat = [*question.messages(), {"role": "assistant", "content": reply or "-"}]
                chat.append({"role": "user", "content": REMINDER})
            attempts += 1
            try:
                answered = await endpoint.ask(chat, logprobs=True, top_logprobs=ALTERNATIVES)
            except RefusedError as refusal:
                return self._refused(refusal)
            usage.add(answered.get("usage"))
            choice = answered["choices"][0]
            reply = choice["message"].get("content") or ""
            share = read_share(reply, choice.get("logprobs"))
        self.shares[key] = share
        self.cache.append(
            {"id": key, "share": share, "reply": reply, "attempts": attempts, "model": self.settings.model}
            | {"version": VERSION, "usage": vars(usage)}
        )
        self.tally.asked += 1
        self.tally.usage.add(vars(usage))
        self.on_change()

    def _refused(self, refusal: RefusedError) -> None:
        self.tally.refused += 1
        self.on_change()
        answered = self.tally.asked + self.tally.known
        if not answered and self.tally.refused >= min(MOST_REFUSED, self.tally.total):
            raise EndpointError(f"The endpoint refuses every request ({refusal}).")


class VerdictsNeededError(ValueError):
    """Comparisons that wait for verdicts by file, and how to have them judged."""


class FileJudge(Judge):
    """A judge whose verdicts come by file (:mod:`pastalm.annotation.exchange`): a person, or any model that can read.

    What its cache does not know it writes to the file of pairs beside the cache, and raises
    :class:`VerdictsNeededError`.
    """

    def __init__(self, model: str, cache: Path) -> None:
        super().__init__(Settings(model, key=""), cache)

    def _judge(self, missing: dict[str, JudgePrompt]) -> None:
        with Journal(pairs_path(self.cache.path)) as wanted:
            for prompt in missing.values():
                pair = {"instruction": prompt.instruction} | dict(
                    zip(("first", "second"), sorted((prompt.a, prompt.b)))
                )
                name = sha256(json.dumps(list(pair.values())).encode()).hexdigest()
                if name not in wanted:
                    wanted.append({"id": name} | pair)
        place = self.cache.path.parent if self.cache.path.name == VERDICTS else self.cache.path
        raise VerdictsNeededError(
            f"{len(missing)} comparisons wait for verdicts of {self.settings.model}: `pasta judge export {place} "
            f"items.jsonl --judge-model {self.settings.model}`, have them judged, `pasta judge import {place} "
            f"items.jsonl --judge-model {self.settings.model}`, then this command again."
        )


def pairs_path(cache: Path) -> Path:
    """Where the pairs that a judge by file was asked are kept."""
    return cache.with_suffix(".pairs.jsonl")


def read_pairs(cache: Path) -> list[AnswerPair]:
    """The pairs that wait for verdicts, each once: those that a judge by file was asked, and those of a stage 2 run's
    rounds, whose answers may be the same.

    Raises ``DataError`` if there are none.
    """
    path = pairs_path(cache)
    asked = read_journal(path) if path.exists() else []
    pairs = [AnswerPair(line["instruction"], line["first"], line["second"]) for line in asked]
    for listed in sorted(cache.parent.glob(f"round*/{TO_JUDGE}")):
        pairs += [pair for _, fields in objects(listed) for pair in _compared(fields)]
    if not pairs:
        raise DataError(
            f"{cache.parent} holds no comparisons: run `pasta eval` with --judge-model NAME --judge-url file, or "
            "`pasta train prefer` with --judge-model NAME --quality verdicts, first."
        )
    return list({(as_text(pair.prompt), frozenset((pair.first, pair.second))): pair for pair in pairs}.values())


def _compared(fields: dict[str, Any]) -> Iterator[AnswerPair]:
    """The pairs of a line of a stage 2 run: every answer with each that it is judged against."""
    for against in fields["against"]:
        yield from (AnswerPair(fields["prompt"], one, against) for one in fields["answers"] if one != against)
