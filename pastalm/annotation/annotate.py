"""The annotator: has an endpoint mark answers, validates each reply, and loses nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pastalm.annotation.endpoint import Endpoint, EndpointError, RefusedError, Settings
from pastalm.annotation.prompts import conversation, correction
from pastalm.annotation.reply import CheckedReply, check_reply
from pastalm.annotation.results import AnnotationResults
from pastalm.annotation.tally import Tally, TokenUsage
from pastalm.data.records import Record

MAX_HELD = 8


class Annotator:
    """Takes records, some at a time, through questions, validation and the results on disk."""

    def __init__(
        self, settings: Settings, results: AnnotationResults, tally: Tally, on_change: Callable[[], None] = lambda: None
    ) -> None:
        self.settings, self.results, self.tally, self.on_change = settings, results, tally, on_change
        self.taken = results.recall(tally)
        self.endpoint = Endpoint(settings, tally, on_change)
        self.held: list[dict[str, Any]] = []  # refusals from before the endpoint's first answer

    async def run(self, records: Iterable[Record]) -> None:
        """Annotate all records that are not finished. Raises :class:`EndpointError` when the endpoint is no use."""
        turn, waiting = asyncio.Lock(), iter(records)

        async def work() -> None:
            while True:
                async with turn:
                    record = await asyncio.to_thread(self._next, waiting)  # a hub's rows may take long to come
                if record is None:
                    return
                await self._annotate(record)

        await self.endpoint.work(work)
        if self.held:
            raise EndpointError(f"The endpoint refuses what it is asked ({self.held[0]['problems'][0]}).")

    def _next(self, waiting: Any) -> Record | None:
        for record in waiting:
            if record.id not in self.taken:
                self.taken.add(record.id)
                return record
            self.tally.skipped += 1
        return None

    async def _annotate(self, record: Record) -> None:
        usage, attempts, reply = TokenUsage(), 0, ""
        checked = CheckedReply(reason=record.fault, problems=["not asked."])
        chat = first = conversation(record.messages, record.answer or "")
        while not record.fault and not checked.annotated and attempts < self.settings.max_attempts:
            if attempts:
                self.tally.retried[checked.reason] += 1
                chat = first + correction(reply, checked.problems) if checked.again else first
            attempts += 1
            try:
                answered = await self.endpoint.ask(chat)
            except RefusedError as refusal:
                checked = CheckedReply(reason=refusal.reason, problems=[str(refusal)])
                break
            usage.add(answered.get("usage"))
            choice = answered["choices"][0]
            reply = choice["message"].get("content") or ""
            checked = check_reply(reply, choice.get("finish_reason"), record.answer or "")
        tail = {"model": self.settings.model, "attempts": attempts, "usage": vars(usage)}
        self._write(record, checked, reply, tail)
        await asyncio.to_thread(self.results.sync)  # may take long on a busy disk; the others go on meanwhile

    def _write(self, record: Record, checked: CheckedReply, reply: str, tail: dict[str, Any]) -> None:
        head = {"id": record.id, **record.asked, "answer": record.answer}
        if self.endpoint.answered:
            self._release()
        if checked.annotated:
            self.results.accepted.append({**head, "annotated": checked.annotated, **tail})
            self.tally.accepted += 1
            self._finished(tail)
            return
        rejected = {**head, "reason": checked.reason, "problems": checked.problems, "reply": reply, **tail}
        if checked.reason == "refused" and not self.endpoint.answered:
            # Perhaps every request would be refused, say for its model: nothing is to be rejected for that.
            self.held.append(rejected)
            if len(self.held) >= MAX_HELD:
                raise EndpointError(f"The endpoint refuses every request ({checked.problems[0]}).")
        else:
            self._reject(rejected)

    def _release(self) -> None:
        held, self.held = self.held, []
        for rejected in held:
            self._reject(rejected)

    def _reject(self, rejected: dict[str, Any]) -> None:
        self.results.rejected.append(rejected)
        self.tally.rejected[rejected["reason"]] += 1
        self._finished(rejected)

    def _finished(self, line: dict[str, Any]) -> None:
        self.tally.done += 1
        self.tally.usage.add(line["usage"])
        self.on_change()


def annotate(
    records: Iterable[Record],
    out: Path,
    settings: Settings,
    tally: Tally | None = None,
    on_change: Callable[[], None] = lambda: None,
) -> Tally:
    """Annotate the answers of ``records`` into the JSON lines ``out``, and what fails into the rejects beside it.

    Known ids are not asked again. Raises :class:`EndpointError`, or :class:`DataError` for files not to be written.
    """
    tally = tally or Tally()
    with AnnotationResults(out) as results:
        asyncio.run(Annotator(settings, results, tally, on_change).run(records))
    return tally
