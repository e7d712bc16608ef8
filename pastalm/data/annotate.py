"""The annotator: asks an OpenAI-compatible endpoint to mark answers, validates each reply, and loses nothing."""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from pastalm.data.examples import DataError
from pastalm.data.prompts import Message, Verdict, conversation, correction, judge
from pastalm.data.sources import Item, require

MAX_PAUSE_SECONDS = 60.0
MAX_RETRY_AFTER_SECONDS = 600.0
MAX_HELD = 8
_TRANSIENT = (408, 409, 425, 429)


class EndpointError(ValueError):
    """An endpoint that there is no use in asking again now; the run stops."""


class _RefusedError(Exception):
    """One request that the endpoint will not answer; the others may be good."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class _TransientError(Exception):
    """A failure that may be over soon. ``after`` is how many seconds the server wants to be left alone."""

    def __init__(self, message: str, after: float = 0.0, *, limited: bool = False) -> None:
        super().__init__(message)
        self.after, self.limited = after, limited


@dataclass(frozen=True)
class Settings:
    """How to ask. ``timeout`` and ``first_pause`` are seconds; ``base_url`` ``None`` is the client's own default."""

    model: str
    key: str = field(repr=False)
    base_url: str | None = None
    temperature: float = 0.0
    concurrency: int = 8
    max_attempts: int = 3  # replies of one answer that the validator sees
    timeout: float = 120.0
    tries: int = 7  # failures in a row of one request before it is given up
    first_pause: float = 1.0

    def __post_init__(self) -> None:
        for name in ("concurrency", "max_attempts", "tries"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.timeout <= 0:
            raise ValueError(f"timeout is {self.timeout}; it must be more than 0 seconds.")
        if self.base_url is not None and not self.base_url.startswith(("http://", "https://")):
            raise ValueError(f"The base URL {self.base_url!r} must begin with http:// or https://.")


@dataclass
class Usage:
    """Tokens that were paid for."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def add(self, fields: Any) -> None:
        """Count the ``usage`` of a reply or of a written line; one that is missing counts nothing."""
        for name in vars(self):
            value = fields.get(name) if isinstance(fields, dict) else None
            setattr(self, name, getattr(self, name) + (value if isinstance(value, int) else 0))


@dataclass
class Tally:
    """What a run has come to. ``skipped`` items were finished before; the other counts are of the files as a whole."""

    total: int | None = None
    skipped: int = 0
    done: int = 0  # by this run
    accepted: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    retried: Counter[str] = field(default_factory=Counter)  # invalid replies of this run, by reason
    usage: Usage = field(default_factory=Usage)
    trouble: str = ""  # the last failure of the endpoint, until it answers again


class _Lines:
    """A file of JSON lines that only grows, by whole lines; one that was torn by a kill is cut off on opening."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = open(path, "a+b")  # noqa: SIM115 -- open for as long as the journal
        try:
            _lock(self.file, path)
            self.records = self._read()
        except BaseException:
            self.file.close()
            raise

    def _read(self) -> list[dict[str, Any]]:
        self.file.seek(0)
        *lines, torn = self.file.read().split(b"\n")
        records = [self._record(line, number) for number, line in enumerate(lines, 1)]
        if torn:  # a run was killed while it wrote; the beginning shows that the line is one of ours
            start = b'{"id": '
            if not torn.startswith(start[: len(torn)]):
                raise self._foreign(len(lines) + 1)
            self.file.truncate(self.file.tell() - len(torn))
        return records

    def _record(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            record = json.loads(line)
        except ValueError:
            raise self._foreign(number) from None
        if not isinstance(record, dict) or not isinstance(record.get("id"), str):
            raise self._foreign(number)
        return record

    def _foreign(self, number: int) -> DataError:
        return DataError(f"{self.path}, line {number}: not written by this command; choose another file to write.")

    def append(self, record: dict[str, Any]) -> None:
        try:
            line = json.dumps(record, ensure_ascii=False).encode()
        except UnicodeEncodeError:  # half a surrogate pair, which UTF-8 cannot hold and JSON can
            line = json.dumps(record).encode()
        self.file.write(line + b"\n")
        self.file.flush()


def _lock(file: Any, path: Path) -> None:
    """Keep a second run away; the system lets go when this process ends, however it ends."""
    try:
        import fcntl
    except ImportError:  # Windows has none; there the guard is left out
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise DataError(f"{path} is being written by another run; wait for it, or choose another file.") from error


class Journal:
    """The annotated answers and, beside them, the rejects; both are read on start. Use it as a context manager."""

    def __init__(self, out: Path) -> None:
        self.accepted = _Lines(out)
        try:
            self.rejected = _Lines(rejects_path(out))
        except BaseException:
            self.accepted.file.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: Any) -> None:
        self.accepted.file.close()
        self.rejected.file.close()

    def sync(self) -> None:
        """Wait until all lines are on the disk; a kill needs no such care, a power cut does."""
        os.fsync(self.accepted.file.fileno())
        os.fsync(self.rejected.file.fileno())

    def recall(self, tally: Tally) -> set[str]:
        """The ids that are finished; what they came to is counted in."""
        accepted, rejected = self.accepted.records, self.rejected.records
        tally.accepted += len(accepted)
        tally.rejected.update(record.get("reason", "unknown") for record in rejected)
        for record in accepted + rejected:
            tally.usage.add(record.get("usage"))
        self.accepted.records, self.rejected.records = [], []
        return {record["id"] for record in accepted + rejected}


def rejects_path(out: Path) -> Path:
    """Where the rejects of ``out`` are written."""
    return out.with_suffix(".rejects.jsonl")


class _Endpoint:
    """One client and one policy of patience for all requests."""

    def __init__(self, settings: Settings, tally: Tally, on_change: Callable[[], None]) -> None:
        self.openai = require("openai")
        self.settings, self.tally, self.on_change = settings, tally, on_change
        self.client = self.openai.AsyncOpenAI(
            api_key=settings.key, base_url=settings.base_url, timeout=settings.timeout, max_retries=0
        )
        self.answered = 0
        self.resume_at = 0.0  # a rate limit is the key's, so that one Retry-After stops all requests

    async def ask(self, messages: list[Message]) -> dict[str, Any]:
        """The reply's JSON. Backs off while the endpoint is in trouble; gives up a request only if others succeed."""
        failures, answered = 0, self.answered
        while True:
            while (wait := self.resume_at - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            try:
                reply = await self._once(messages)
            except _TransientError as trouble:
                failures += 1
                if failures >= self.settings.tries:
                    if self.answered == answered:
                        raise EndpointError(f"The endpoint does not recover ({trouble}); start again later.") from None
                    if not trouble.limited:
                        raise _RefusedError("server", f"failed {failures} times, the last time: {trouble}.") from None
                    failures, answered = 0, self.answered  # a limit that lets others through ends some time
                await self._back_off(trouble, failures)
            else:
                self.answered += 1
                self.tally.trouble = ""
                return reply

    async def _back_off(self, trouble: _TransientError, failures: int) -> None:
        self.tally.trouble = str(trouble)
        self.on_change()
        if trouble.after > MAX_RETRY_AFTER_SECONDS:
            raise EndpointError(f"The endpoint wants {trouble.after:.0f} s of rest; start again then.")
        self.resume_at = max(self.resume_at, time.monotonic() + trouble.after)
        pause = min(self.settings.first_pause * 2 ** max(failures - 1, 0), MAX_PAUSE_SECONDS)
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # apart, so that they do not all come back at once

    async def _once(self, messages: list[Message]) -> dict[str, Any]:
        settings = self.settings
        try:
            async with asyncio.timeout(settings.timeout):  # the client's own counts each read, this the whole
                raw = await self.client.chat.completions.with_raw_response.create(
                    model=settings.model, messages=messages, temperature=settings.temperature
                )
        except (self.openai.APITimeoutError, TimeoutError):
            raise _TransientError(f"no reply within {settings.timeout:g} s") from None
        except self.openai.APIStatusError as error:
            raise _sorted(error, settings.model) from None
        except self.openai.APIConnectionError as error:
            raise _TransientError(f"connection: {error.__cause__ or error}") from None
        try:
            reply = json.loads(raw.http_response.content)
            if isinstance(reply["choices"][0]["message"].get("content"), str | None):
                return reply
        except (ValueError, LookupError, TypeError, AttributeError):
            pass
        raise _TransientError("a reply that is not of the OpenAI protocol")


def _sorted(error: Any, model: str) -> Exception:
    """An HTTP error as what it means: for the run, for this request, or for now."""
    body = error.body if isinstance(error.body, dict) else {}
    said = " ".join(str(body.get("message") or error.message).split())[:200]
    place = f"HTTP {error.status_code}: {said}"
    if error.status_code in (401, 403):
        return EndpointError(f"The endpoint refuses the key ({place}).")
    if error.status_code == 404:
        return EndpointError(f"The endpoint has no model {model!r}, or the base URL is wrong ({place}).")
    if error.status_code == 402 or body.get("code") == "insufficient_quota":
        return EndpointError(f"The endpoint wants to be paid first ({place}).")
    if error.status_code in _TRANSIENT or error.status_code >= 500:
        after = _retry_after(error.response.headers.get("retry-after"))
        return _TransientError(place, after, limited=error.status_code == 429)
    return _RefusedError("refused", place)


def _retry_after(value: str | None) -> float:
    """Seconds from a Retry-After header, which gives seconds or a date."""
    with suppress(ValueError):
        return max(0.0, float(value or ""))
    with suppress(ValueError, TypeError):
        return max(0.0, (parsedate_to_datetime(value or "") - datetime.now(UTC)).total_seconds())
    return 0.0


class Annotator:
    """Takes items, some at a time, through questions, validation and the journal."""

    def __init__(
        self, settings: Settings, journal: Journal, tally: Tally, on_change: Callable[[], None] = lambda: None
    ) -> None:
        self.settings, self.journal, self.tally, self.on_change = settings, journal, tally, on_change
        self.taken = journal.recall(tally)
        self.endpoint = _Endpoint(settings, tally, on_change)
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

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self.settings.concurrency):
                    group.create_task(work())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            await self.endpoint.client.close()
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
            except _RefusedError as refusal:
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
