"""A completion server, spoken to in token ids over HTTP: vLLM, ours, or another with their fields."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import httpx2
from openai import APIConnectionError, APIError, APIStatusError, AsyncOpenAI, InternalServerError, RateLimitError

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 8.0  # seconds between attempts, doubled each time
LONGEST_WISH = 60.0  # seconds of a Retry-After that are waited for
FINISHED = ("stop", "length")  # all else, "abort" among them, is an answer that was cut off
TRANSIENT = (APIConnectionError, InternalServerError, RateLimitError, httpx2.TransportError)


class RemoteError(ConnectionError):
    """A completion server that cannot go on with an answer, and why."""


@dataclass(frozen=True)
class Completion:
    """What a thread asks of a server: at most ``max_tokens`` behind the ids of ``prompt``, until one of ``stop``.

    ``bias`` is added, in nats, to the logits of its tokens.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    stop: tuple[int, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    bias: Mapping[int, float] = field(default_factory=dict)

    def fields(self) -> dict[str, Any]:
        """The body of the request, by the names of vLLM."""
        return {
            "prompt": list(self.prompt),
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.seed,
            "logit_bias": {str(token): bias for token, bias in self.bias.items()},
            "extra_body": {
                "stop_token_ids": list(self.stop),
                "include_stop_str_in_output": True,
                "skip_special_tokens": False,
                "return_token_ids": True,
            },
        }

    def after(self, written: Sequence[int]) -> Completion:
        """What is still asked when these tokens have come."""
        return replace(self, prompt=(*self.prompt, *written), max_tokens=self.max_tokens - len(written))


class CompletionServer:
    """One model at one or several base URLs (".../v1"); ``model`` None is the only one there is. Use it within one
    event loop.

    ``timeout`` are the seconds without any byte after which a server counts as gone; ``attempts`` how often in a row
    one may fail, without a token in between, until :class:`RemoteError`.
    """

    def __init__(
        self,
        base_urls: Sequence[str],
        model: str | None,
        api_key: str | None = None,
        *,
        timeout: float = 60.0,
        attempts: int = 6,
    ) -> None:
        if not base_urls or attempts < 1:
            raise ValueError("A completion server needs the URL of at least one server and at least one attempt.")
        self.model, self.attempts, self.urls = model, attempts, tuple(base_urls)
        self.clients = [
            AsyncOpenAI(base_url=url, api_key=api_key or "none", timeout=timeout, max_retries=0) for url in base_urls
        ]

    async def close(self) -> None:
        """Close all connections."""
        for client in self.clients:
            await client.close()

    async def longest(self) -> int | None:
        """How many tokens a prompt and its answer may have, where the server says so. Raises :class:`RemoteError` if
        it cannot be reached, or does not know the model."""
        failures = 0
        while True:
            try:
                known = {card.id: card async for card in await self.clients[failures % len(self.clients)].models.list()}
                break
            except (APIError, httpx2.TransportError) as error:
                failures += 1
                await self._pause(error, failures, failures % len(self.clients))
        if self.model is None and len(known) == 1:
            self.model = next(iter(known))
        if self.model is None or self.model not in known:
            asked = "which of its models is meant" if self.model is None else f"the model {self.model!r}"
            raise RemoteError(f"{self.urls[0]} does not know {asked}; it has {', '.join(known)}.")
        return (known[self.model].model_extra or {}).get("max_model_len")

    async def tokens(self, asked: Completion, route: int = 0) -> AsyncIterator[int]:
        """The ids that the model writes, the one that stopped it among them.

        A server that fails is asked again, or the next one, for what comes after the tokens it gave: none is lost and
        none comes twice. Completions of equal ``route`` go to the same server, which has their prompt in its cache.
        """
        written: list[int] = []
        failures = 0
        while len(written) < asked.max_tokens:
            place = (route + failures) % len(self.clients)
            try:
                async for token in self._attempt(asked.after(written), place):
                    failures = 0
                    written.append(token)
                    yield token
                return
            except (*TRANSIENT, APIError, _CutOffError) as error:
                failures += 1
                await self._pause(error, failures, place)

    async def _attempt(self, asked: Completion, place: int) -> AsyncIterator[int]:
        stream = await self.clients[place].completions.create(model=self.model or "", stream=True, **asked.fields())
        async with stream:
            async for chunk in stream:
                for choice in chunk.choices[:1]:
                    for token in self._ids(choice, place):
                        yield token
                    if choice.finish_reason in FINISHED:
                        return
        raise _CutOffError("the stream ended in the middle")

    def _ids(self, choice: Any, place: int) -> list[int]:
        ids = (choice.model_extra or {}).get("token_ids")
        if ids is None and choice.text:
            raise RemoteError(
                f"{self.urls[place]} answers with text alone; PASTA needs token ids ('return_token_ids', as vLLM has "
                "it)."
            )
        return ids or []

    async def _pause(self, error: Exception, failures: int, place: int) -> None:
        """Wait before the next attempt. Raises :class:`RemoteError` where none would help."""
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, APIStatusError) and not isinstance(error, TRANSIENT):
            raise RemoteError(f"{self.urls[place]} refuses the request ({error.status_code}): {reason}") from error
        if failures >= self.attempts:
            raise RemoteError(
                f"{self.urls[place]} has failed {failures} times in a row, the last time with: {reason}. See whether "
                "it runs, and ask again."
            ) from error
        wished = error.response.headers.get("retry-after", "") if isinstance(error, APIStatusError) else ""
        pause = min(float(wished), LONGEST_WISH) if wished.replace(".", "", 1).isdigit() else 0.0
        await asyncio.sleep(max(pause, min(FIRST_PAUSE * 2 ** (failures - 1), LONGEST_PAUSE)))


class _CutOffError(Exception):
    """A stream that ended without saying why."""
