"""An OpenAI-compatible endpoint, and the patience with which it is asked."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import inf
from typing import Any, Protocol

from pastalm.files.packages import require
from pastalm.lang.prompt import Message
from pastalm.lang.tags import as_whole

MAX_PAUSE_SECONDS = 60.0
MAX_RETRY_AFTER_SECONDS = 600.0
_TRANSIENT = (408, 409, 425, 429)


class EndpointError(ValueError):
    """An endpoint that there is no use in asking again now; the run stops."""


class RefusedError(Exception):
    """One request that the endpoint will not answer; the others may be good. ``said`` is all that it said of it."""

    def __init__(self, reason: str, message: str, said: str = "") -> None:
        super().__init__(message)
        self.reason, self.said = reason, said or message


class TransientError(Exception):
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
        if not 0 < self.timeout < inf:
            raise ValueError(f"timeout is {self.timeout}; it must be a finite number of seconds above 0.")
        if not 0 <= self.temperature < inf:
            raise ValueError(f"temperature is {self.temperature}; it must be a finite number of at least 0.")
        if self.base_url is not None and not self.base_url.startswith(("http://", "https://")):
            raise ValueError(f"The base URL {self.base_url!r} must begin with http:// or https://.")

    @property
    def place(self) -> str:
        """Where requests go, in words."""
        return f"The endpoint {self.base_url}" if self.base_url else "The endpoint"


class Troubled(Protocol):
    """Where an endpoint says what its trouble is; empty while it answers."""

    trouble: str


class Endpoint:
    """One client and one policy of patience for all requests.

    ``dropped`` are the names of fields that the endpoint has refused, which are left out from then on; given by whoever
    makes several endpoints, so that each is learned once.
    """

    def __init__(
        self, settings: Settings, tally: Troubled, on_change: Callable[[], None], dropped: set[str] | None = None
    ) -> None:
        self.openai = require("openai")
        self.settings, self.tally, self.on_change = settings, tally, on_change
        self.client = self.openai.AsyncOpenAI(
            api_key=settings.key, base_url=settings.base_url, timeout=settings.timeout, max_retries=0
        )
        self.dropped = set() if dropped is None else dropped
        self.answered = 0
        self.resume_at = 0.0  # a rate limit is the key's, so that one Retry-After stops all requests

    async def work(self, worker: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run ``worker`` as often at once as the settings allow, then close the client. The first error ends all."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self.settings.concurrency):
                    group.create_task(worker())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            await self.client.close()

    async def ask(self, messages: list[Message], **fields: Any) -> dict[str, Any]:
        """The reply's JSON. Backs off while the endpoint is in trouble; gives up a request only if others succeed.

        ``fields`` are further ones of the request. Those that the endpoint refuses by name are left out, and so is the
        temperature; of all requests once one without them has been answered, as a refusal may only quote the prompt.
        Raises :class:`RefusedError` or :class:`EndpointError`.
        """
        optional = {"temperature": self.settings.temperature} | fields
        refused: set[str] = set()
        while True:
            sent = {name: value for name, value in optional.items() if name not in self.dropped | refused}
            try:
                reply = await self._patiently(messages, sent)
            except RefusedError as refusal:
                named = [name for name in sent if name.removeprefix("top_") in refusal.said]
                if refusal.reason != "refused" or not named:
                    raise
                refused.update(named)
            else:
                self.dropped.update(refused)
                return reply

    async def _patiently(self, messages: list[Message], fields: dict[str, Any]) -> dict[str, Any]:
        failures, answered = 0, self.answered
        while True:
            while (wait := self.resume_at - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            try:
                reply = await self._once(messages, fields)
            except TransientError as trouble:
                failures += 1
                if failures >= self.settings.tries:
                    if self.answered == answered:
                        advice = "check the address, or start again later."
                        raise EndpointError(f"{self.settings.place} does not recover ({trouble}); {advice}") from None
                    if not trouble.limited:
                        raise RefusedError("server", f"failed {failures} times, the last time: {trouble}.") from None
                    failures, answered = 0, self.answered  # a limit that lets others through ends some time
                await self._back_off(trouble, failures)
            else:
                self.answered += 1
                self.tally.trouble = ""
                return reply

    async def _back_off(self, trouble: TransientError, failures: int) -> None:
        self.tally.trouble = str(trouble)
        self.on_change()
        if trouble.after > MAX_RETRY_AFTER_SECONDS:
            raise EndpointError(f"The endpoint wants {trouble.after:.0f} s of rest; start again then.")
        self.resume_at = max(self.resume_at, time.monotonic() + trouble.after)
        pause = min(self.settings.first_pause * 2 ** max(failures - 1, 0), MAX_PAUSE_SECONDS)
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # apart, so that they do not all come back at once

    async def _once(self, messages: list[Message], fields: dict[str, Any]) -> dict[str, Any]:
        settings, asked = self.settings, self.client.chat.completions.with_raw_response
        messages = [{name: as_whole(text) for name, text in message.items()} for message in messages]
        try:
            async with asyncio.timeout(settings.timeout):  # the client's own counts each read, this the whole
                raw = await asked.create(model=settings.model, messages=messages, **fields)
        except (self.openai.APITimeoutError, TimeoutError):
            raise TransientError(f"no reply within {settings.timeout:g} s") from None
        except self.openai.APIStatusError as error:
            raise _sorted(error, settings.model) from None
        except self.openai.APIConnectionError as error:
            raise TransientError(f"connection: {error.__cause__ or error}") from None
        try:
            reply = json.loads(raw.http_response.content)
            if isinstance(reply["choices"][0]["message"].get("content"), str | None):
                return reply
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            pass
        raise TransientError("a reply that is not of the OpenAI protocol")


def _sorted(error: Any, model: str) -> Exception:
    """An HTTP error as what it means: for the run, for this request, or for now."""
    body = error.body if isinstance(error.body, dict) else {}
    said = " ".join(str(body.get("message") or error.body or error.message).split())[:200]
    place = f"HTTP {error.status_code}: {said}"
    if error.status_code in (401, 403):
        return EndpointError(f"The endpoint refuses the key ({place}).")
    if error.status_code == 404:
        return EndpointError(f"The endpoint has no model {model!r}, or the base URL is wrong ({place}).")
    if error.status_code == 402 or body.get("code") == "insufficient_quota":
        return EndpointError(f"The endpoint wants to be paid first ({place}).")
    if error.status_code in _TRANSIENT or error.status_code >= 500:
        after = _retry_after(error.response.headers.get("retry-after"))
        return TransientError(place, after, limited=error.status_code == 429)
    return RefusedError("refused", place, f"{body.get('param')} {error.body} {error.message}")


def _retry_after(value: str | None) -> float:
    """Seconds from a Retry-After header, which gives seconds or a date."""
    with suppress(ValueError):
        return max(0.0, float(value or ""))
    with suppress(ValueError, TypeError):
        return max(0.0, (parsedate_to_datetime(value or "") - datetime.now(UTC)).total_seconds())
    return 0.0
