"""A completion server, spoken to in token ids over HTTP: vLLM, ours, or another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from json import JSONDecodeError
from typing import Any, NoReturn

import httpx2
from openai import APIConnectionError, APIError, APIStatusError, AsyncOpenAI, InternalServerError, RateLimitError

from pastalm.runtime.remote.token_fields import TokenFields, token_fields_of

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 15.0  # seconds between attempts, doubled each time
ATTEMPTS = 16  # at a server that has answered before: two and a half minutes, in which it may start again
FIRST_ATTEMPTS = 6  # at one that has not
LONGEST_WISH = 60.0  # seconds of a Retry-After that are waited for
TRANSIENT = (APIConnectionError, InternalServerError, RateLimitError, httpx2.TransportError)
BROKEN = (UnicodeDecodeError, JSONDecodeError)  # a stream that breaks off within a character or an event
IDS = range(1 << 32)  # what a tokenizer can be asked about


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

    def body(self, fields: TokenFields) -> dict[str, Any]:
        """The body of the request."""
        return {
            "prompt": list(self.prompt),
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.seed,
            "logit_bias": {str(token): bias for token, bias in self.bias.items()},
            "extra_body": fields.asked(self.stop),
        }

    def ended(self, written: Sequence[int]) -> bool:
        """Whether nothing is asked behind these tokens: a server may write on behind a stop, and a stream may break
        off there."""
        return len(written) >= self.max_tokens or (bool(written) and written[-1] in self.stop)

    def after(self, written: Sequence[int]) -> Completion:
        """What is still asked when these tokens have come."""
        return replace(self, prompt=(*self.prompt, *written), max_tokens=self.max_tokens - len(written))


class CompletionServer:
    """One model at one or several base URLs (".../v1"); ``model`` None is the only one there is. Use it within one
    event loop.

    ``timeout`` are the seconds without any byte after which a server counts as gone; ``attempts`` how often in a row
    one may fail, without a token in between, until :class:`RemoteError`; a server that has never answered may fail
    less often.
    """

    def __init__(
        self,
        base_urls: Sequence[str],
        model: str | None,
        api_key: str | None = None,
        *,
        timeout: float = 60.0,
        attempts: int = ATTEMPTS,
    ) -> None:
        if not base_urls or attempts < 1:
            raise ValueError("A completion server needs the URL of at least one server and at least one attempt.")
        self.model, self.attempts, self.urls = model, attempts, tuple(base_urls)
        self.clients = [
            AsyncOpenAI(base_url=url, api_key=api_key or "none", timeout=timeout, max_retries=0) for url in base_urls
        ]
        self.fields = TokenFields()

    async def close(self) -> None:
        """Close all connections."""
        for client in self.clients:
            await client.close()

    async def longest(self) -> int | None:
        """How many tokens a prompt and its answer may have, where the server says so. Raises :class:`RemoteError` if
        it cannot be reached, or does not know the model."""
        failures = 0
        while True:
            place = failures % len(self.clients)
            try:
                known = await self._models(place)
                break
            except (APIError, httpx2.TransportError) as error:
                failures += 1
                await self._pause(error, failures, place, min(self.attempts, FIRST_ATTEMPTS))
        if self.model is None and len(known) == 1:
            self.model = next(iter(known))
        if self.model is None or self.model not in known:
            asked = "which of its models is meant" if self.model is None else f"the model {self.model!r}"
            raise RemoteError(f"{self.urls[place]} does not know {asked}; it has {', '.join(known) or 'none'}.")
        self.fields = token_fields_of(known[self.model])
        longest = self.fields.longest(known[self.model])
        if longest is not None and type(longest) is not int:
            raise RemoteError(
                f"{self.urls[place]} says that its longest answer has {longest!r} tokens, which is no number: mend its "
                "list of models."
            )
        return longest

    async def tokens(self, asked: Completion, first: int = 0) -> AsyncIterator[int]:
        """The ids that the model writes, the one that stopped it among them.

        A server that fails is asked again, or the next one, for what comes after the tokens it gave: none is lost and
        none comes twice. ``first`` is the place, among the URLs, of the one that is asked first.
        """
        written: list[int] = []
        failures = 0
        while not asked.ended(written):
            place = (first + failures) % len(self.clients)
            try:
                async with aclosing(self._attempt(asked.after(written), place)) as attempt:
                    async for token in attempt:
                        failures = 0
                        written.append(token)
                        yield token
                        if asked.ended(written):
                            return
                return
            except _LeftOutError:
                continue
            except (*TRANSIENT, *BROKEN, APIError, _CutOffError) as error:
                failures += 1
                await self._pause(error, failures, place, self.attempts)

    async def _models(self, place: int) -> dict[str, Any]:
        """The models of a server by their names."""
        try:
            return {card.id: card async for card in await self.clients[place].models.list()}
        except (AttributeError, TypeError, *BROKEN) as error:  # the client takes whatever it reads for a list
            raise RemoteError(
                f"{self.urls[place]} does not list its models as a completion server does: see whether this is its "
                "address, which ends in /v1."
            ) from error

    async def _attempt(self, asked: Completion, place: int) -> AsyncGenerator[int]:
        written: list[int] = []
        stream = await self._ask(asked, place, stream=True)
        async with stream:
            async for piece in stream:
                ids = self._ids(piece, place)
                missing = self.fields.left_out(piece, len(written) + len(ids))
                if missing:
                    break
                written += ids
                for token in ids:
                    yield token
                reasons = [choice.finish_reason for choice in piece.choices]
                if "stop" in reasons:  # at a token of asked.stop it has been left by now
                    self._refuse_stop(written, place)
                if "length" in reasons:  # all other reasons, "abort" among them, are of an answer that was cut off
                    return
            else:
                raise _CutOffError("the stream ended in the middle")
        rest = replace(asked.after(written), max_tokens=missing + len(ids))
        left_out = self._ids(await self._ask(rest, place), place)  # a whole answer leaves out none
        for token in left_out:
            yield token
        raise _LeftOutError if left_out else _CutOffError("the stream left tokens out")

    def _refuse_stop(self, written: Sequence[int], place: int) -> NoReturn:
        behind = f"the token {written[-1]}" if written else "the prompt"
        raise RemoteError(
            f"{self.urls[place]} ended a completion behind {behind}, where by the tokenizer here nothing ends: take "
            "the tokenizer and the generation_config.json of the model that runs there."
        )

    async def _ask(self, asked: Completion, place: int, **how: bool) -> Any:
        create: Any = self.clients[place].completions.create
        return await create(model=self.model or "", **asked.body(self.fields), **how)

    def _ids(self, piece: Any, place: int) -> list[int]:
        if not piece.choices:
            return []
        ids = self.fields.ids(piece)
        if ids is None and piece.choices[0].text:
            raise RemoteError(
                f"{self.urls[place]} answers with text alone; PASTA needs token ids ('return_token_ids', as vLLM has "
                "it)."
            )
        if not isinstance(ids, list | None) or any(type(one) is not int or one not in IDS for one in ids or ()):
            raise RemoteError(f"{self.urls[place]} gives {str(ids)[:80]} for token ids; those are numbers from 0 on.")
        return ids or []

    async def _pause(self, error: Exception, failures: int, place: int, attempts: int) -> None:
        """Wait before the next attempt. Raises :class:`RemoteError` where none would help."""
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, APIStatusError) and not isinstance(error, TRANSIENT):
            raise RemoteError(f"{self.urls[place]} refuses the request ({error.status_code}): {reason}") from error
        if failures >= attempts:
            raise RemoteError(
                f"{self.urls[place]} has failed {failures} times in a row, the last time with: {reason}. See whether "
                "it runs, and ask again."
            ) from error
        wished = error.response.headers.get("retry-after", "") if isinstance(error, APIStatusError) else ""
        pause = min(float(wished), LONGEST_WISH) if wished.replace(".", "", 1).isdecimal() else 0.0
        await asyncio.sleep(max(pause, min(FIRST_PAUSE * 2 ** (failures - 1), LONGEST_PAUSE)))


class _CutOffError(Exception):
    """A stream that ended without saying why."""


class _LeftOutError(Exception):
    """A stream that was left, since the tokens that it left out came by a request of their own: nothing has failed."""
