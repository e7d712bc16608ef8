"""A pairwise judge: which of two answers is better, asked in both orders through any OpenAI-compatible endpoint.

Every reply is kept in a cache on disk the moment it is there: no pair is paid for twice, in this run or another.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pastalm.annotation.endpoint import Endpoint, EndpointError, RefusedError, Settings
from pastalm.annotation.journal import Lines
from pastalm.annotation.prompts import Message
from pastalm.annotation.tally import Usage
from pastalm.annotation.verdict import REMINDER, VERSION, Comparison, Question, Verdict, as_text, read_share

ALTERNATIVES = 5  # likeliest tokens asked for at each place
MOST_REFUSED = 8  # requests refused before the first answer: then all will be


@dataclass
class JudgeTally:
    """What a judge has come to. ``known``: orders that the cache had; ``asked``: those that got their last reply now;
    ``unjudged``: of both, without a usable reply; ``refused``: what the endpoint would not answer, not cached."""

    total: int = 0
    known: int = 0
    asked: int = 0
    unjudged: int = 0
    refused: int = 0
    usage: Usage = field(default_factory=Usage)
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
        self.lines = Lines(cache)
        self.shares: dict[str, float | None] = {one["id"]: one.get("share") for one in self.lines.records}
        self.lines.records = []
        self.fields: dict[str, Any] = {"logprobs": True, "top_logprobs": ALTERNATIVES}
        self.fields["temperature"] = settings.temperature

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Close the cache."""
        self.lines.file.close()

    def compare(self, items: Iterable[Comparison]) -> list[Verdict]:
        """The verdicts, in the order of ``items``. What the cache knows costs no request.

        Raises ``EndpointError`` when the endpoint is no use; what was judged until then is kept.
        """
        pairs = [_orders(item) for item in items]
        wanted: dict[str, Question] = {}
        for question in (one for pair in pairs for one in pair if one.a != one.b):
            wanted.setdefault(question.key(self.settings.model), question)
        missing = {key: question for key, question in wanted.items() if key not in self.shares}
        known = [self.shares[key] for key in wanted if key not in missing]
        self.tally.total += len(wanted)
        self.tally.known += len(known)
        self.tally.unjudged += known.count(None)
        if missing:
            try:
                asyncio.run(self._ask_all(missing))
            finally:
                os.fsync(self.lines.file.fileno())  # a kill needs no such care, a power cut does
        return [self._verdict(*pair) for pair in pairs]

    def _verdict(self, shown_first: Question, shown_second: Question) -> Verdict:
        if shown_first.a == shown_first.b:
            return Verdict((0.5, 0.5))  # no judge is needed for that
        model = self.settings.model
        one, other = (self.shares.get(question.key(model)) for question in (shown_first, shown_second))
        return Verdict((one, None if other is None else 1 - other))

    async def _ask_all(self, missing: dict[str, Question]) -> None:
        endpoint = Endpoint(self.settings, self.tally, self.on_change)
        waiting = iter(missing.items())

        async def work() -> None:
            for key, question in waiting:
                await self._ask(endpoint, key, question)

        await endpoint.work(work)

    async def _ask(self, endpoint: Endpoint, key: str, question: Question) -> None:
        chat, usage = question.messages(), Usage()
        share, reply, attempts = None, "", 0
        while share is None and attempts < self.settings.max_attempts:
            if attempts:
                chat = [*question.messages(), {"role": "assistant", "content": reply or "-"}]
                chat.append({"role": "user", "content": REMINDER})
            attempts += 1
            try:
                answered = await self._answered(endpoint, chat)
            except RefusedError as refusal:
                return self._refused(refusal)
            usage.add(answered.get("usage"))
            choice = answered["choices"][0]
            reply = choice["message"].get("content") or ""
            share = read_share(reply, choice.get("logprobs"))
        self.shares[key] = share
        self.lines.append(
            {"id": key, "share": share, "reply": reply, "attempts": attempts, "model": self.settings.model}
            | {"version": VERSION, "usage": vars(usage)}
        )
        self.tally.asked += 1
        self.tally.unjudged += share is None
        self.tally.usage.add(vars(usage))
        self.on_change()

    async def _answered(self, endpoint: Endpoint, chat: list[Message]) -> dict[str, Any]:
        """The reply; fields that an endpoint does not know and says so are left out from then on."""
        while True:
            sent = self.fields
            try:
                return await endpoint.ask(chat, **sent)
            except RefusedError as refusal:
                asked = (name for name, value in sent.items() if value is not None)
                named = [name for name in asked if name.removeprefix("top_") in str(refusal)]
                if not named:
                    raise
                self.fields = self.fields | dict.fromkeys(named)

    def _refused(self, refusal: RefusedError) -> None:
        self.tally.refused += 1
        self.on_change()
        answered = self.tally.asked + self.tally.known
        if not answered and self.tally.refused >= min(MOST_REFUSED, self.tally.total):
            raise EndpointError(f"The endpoint refuses every request ({refusal}).")


def _orders(item: Comparison) -> tuple[Question, Question]:
    text = as_text(item.prompt)
    return Question(text, item.first, item.second), Question(text, item.second, item.first)
