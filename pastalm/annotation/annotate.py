"""The annotator: has an endpoint mark answers, validates each reply, and loses nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pastalm.annotation.endpoint import Endpoint, EndpointError, RefusedError, Settings
from pastalm.annotation.journal import Journal
from pastalm.annotation.prompts import conversation, correction
from pastalm.annotation.reply import Verdict, judge
from pastalm.annotation.sources import Item
from pastalm.annotation.tally import Tally, Usage

MAX_HELD = 8


class Annotator:
    """Takes items, some at a time, through questions, validation and the journal."""

    def __init__(
        self, settings: Settings, journal: Journal, tally: Tally, on_change: Callable[[], None] = lambda: None
    ) -> None:
        self.settings, self.journal, self.tally, self.on_change = settings, journal, tally, on_change
        self.taken = journal.recall(tally)
        self.endpoint = Endpoint(settings, tally, on_change)
        self.held: list[dict[str, Any]] = []  # refusals from before the endpoint's first answer

    async def run(self, items: Iterable[Item]) -> None:
        """Annotate all items that are not finished. Raises :class:`EndpointError` when the endpoint is no use."""
        turn, waiting = asyncio.Lock(), iter(items)

        async def work() -> None:
            while True:
                async with turn:
                    item = await asyncio.to_thread(self._next, waiting)  # a hub's rows may take long to come
                if item is None:
                    return
                await self._annotate(item)

        await self.endpoint.work(work)
        if self.held:
            raise EndpointError(f"The endpoint refuses what it is asked ({self.held[0]['problems'][0]}).")

    def _next(self, waiting: Any) -> Item | None:
        for item in waiting:
            if item.id not in self.taken:
                self.taken.add(item.id)
                return item
            self.tally.skipped += 1
        return None

    async def _annotate(self, item: Item) -> None:
        usage, reply, attempts = Usage(), "", 0
        verdict = Verdict(reason=item.fault, problems=["not asked."]) if item.fault else None
        chat = first = conversation(item.messages, item.answer)
        while verdict is None or (not verdict.annotated and 0 < attempts < self.settings.max_attempts):
            if verdict is not None:
                self.tally.retried[verdict.reason] += 1
                chat = first + correction(reply, verdict.problems) if verdict.again else first
            attempts += 1
            try:
                answered = await self.endpoint.ask(chat)
            except RefusedError as refusal:
                verdict = Verdict(reason=refusal.reason, problems=[str(refusal)])
                break
            usage.add(answered.get("usage"))
            choice = answered["choices"][0]
            reply = choice["message"].get("content") or ""
            verdict = judge(reply, choice.get("finish_reason"), item.answer)
        tail = {"model": self.settings.model, "attempts": attempts, "usage": vars(usage)}
        self._write(item, verdict, reply, tail)
        await asyncio.to_thread(self.journal.sync)  # may take long on a busy disk; the others go on meanwhile

    def _write(self, item: Item, verdict: Verdict, reply: str, tail: dict[str, Any]) -> None:
        head = {"id": item.id, **item.asked, "answer": item.answer}
        if self.endpoint.answered:
            self._release()
        if verdict.annotated:
            self.journal.accepted.append({**head, "annotated": verdict.annotated, **tail})
            self.tally.accepted += 1
            self._finished(tail)
            return
        record = {**head, "reason": verdict.reason, "problems": verdict.problems, "reply": reply, **tail}
        if verdict.reason == "refused" and not self.endpoint.answered:
            # Perhaps every request would be refused, say for its temperature: nothing is to be rejected for that.
            self.held.append(record)
            if len(self.held) >= MAX_HELD:
                raise EndpointError(f"The endpoint refuses every request ({verdict.problems[0]}).")
        else:
            self._reject(record)

    def _release(self) -> None:
        held, self.held = self.held, []
        for record in held:
            self._reject(record)

    def _reject(self, record: dict[str, Any]) -> None:
        self.journal.rejected.append(record)
        self.tally.rejected[record["reason"]] += 1
        self._finished(record)

    def _finished(self, record: dict[str, Any]) -> None:
        self.tally.done += 1
        self.tally.usage.add(record["usage"])
        self.on_change()


def annotate(
    items: Iterable[Item],
    out: Path,
    settings: Settings,
    tally: Tally | None = None,
    on_change: Callable[[], None] = lambda: None,
) -> Tally:
    """Annotate ``items`` into the JSON lines ``out``, and what fails into the rejects beside it.

    Known ids are not asked again. Raises :class:`EndpointError`, or :class:`DataError` for files not to be written.
    """
    tally = tally or Tally()
    with Journal(out) as journal:
        asyncio.run(Annotator(settings, journal, tally, on_change).run(items))
    return tally
