"""The worker by itself: errors stay with their request, whoever waits is told, lanes come back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pastalm import Engine, Response
from pastalm.serving.errors import BrokenError, FullError, InvalidError, StoppedError, WithdrawnError
from pastalm.serving.worker import Ticket, Worker

SHORT = {"max_tokens": 12, "mode": "sequential"}
LONG = {"max_tokens": 900, "mode": "sequential"}


@asynccontextmanager
async def working(engine: Engine, **settings: Any) -> AsyncIterator[Worker]:
    worker = Worker(engine, **settings)
    worker.start()
    yield worker
    worker.close()
    await asyncio.to_thread(worker.join)
    assert worker.open == 0 and not worker.alive


def submitted(worker: Worker, prompt: str, options: dict[str, Any], *, stream: bool = False) -> Ticket:
    ticket = Ticket(prompt, options, stream=stream)
    worker.submit(ticket)
    return ticket


def fail(*_: object) -> None:
    raise RuntimeError("a bug")


def test_an_error_in_a_request_is_its_own(tiny: Engine, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        async with working(tiny, lanes=3) as worker:
            good = submitted(worker, "hello", SHORT)
            bad = submitted(worker, "hello", {**SHORT, "observe": fail})
            odd = submitted(worker, "hello", {**SHORT, "nonsense": 1})
            refused = submitted(worker, "hello", {**SHORT, "max_tokens": -1})
            after = submitted(worker, "world", SHORT)
            assert isinstance(await bad.news.get(), BrokenError)
            assert isinstance(await odd.news.get(), BrokenError)
            error = await refused.news.get()
            assert isinstance(error, InvalidError) and "max_tokens must be" in str(error)
            for ticket, prompt in ((good, "hello"), (after, "world")):
                response = await ticket.news.get()
                assert isinstance(response, Response) and response.text == expected[prompt]
            assert worker.alive and len(worker.batcher.free) == 3

    expected = {prompt: tiny.generate(prompt, **SHORT).text for prompt in ("hello", "world")}
    with caplog.at_level(logging.ERROR):
        asyncio.run(run())
    assert "a bug" in caplog.text and "nonsense" in caplog.text


def test_a_ticket_is_taken_back_from_its_lane_and_from_the_line(tiny: Engine) -> None:
    async def run() -> None:
        async with working(tiny, lanes=1) as worker:
            first = submitted(worker, "hello", LONG, stream=True)
            assert isinstance(await first.news.get(), str)
            second, third = (submitted(worker, "hello", SHORT) for _ in range(2))
            worker.cancel(second)
            worker.cancel(first)
            worker.cancel(first)
            assert isinstance(await third.news.get(), Response)
            assert isinstance(await second.news.get(), WithdrawnError)
            while isinstance(news := await first.news.get(), str):
                pass
            assert isinstance(news, WithdrawnError)

    asyncio.run(run())


def test_a_line_that_is_full(tiny: Engine) -> None:
    async def run() -> None:
        async with working(tiny, lanes=1, max_waiting=1) as worker:
            tickets = [submitted(worker, "hello", LONG) for _ in range(2)]
            with pytest.raises(FullError, match="1 places in line"):
                submitted(worker, "hello", SHORT)
            for ticket in tickets:
                worker.cancel(ticket)
                assert isinstance(await ticket.news.get(), WithdrawnError)
            assert isinstance(await submitted(worker, "hello", SHORT).news.get(), Response)

    asyncio.run(run())


def test_all_who_wait_are_told_of_the_end(tiny: Engine) -> None:
    async def run() -> None:
        async with working(tiny, lanes=1) as worker:
            tickets = [submitted(worker, "hello", LONG) for _ in range(3)]
            worker.close()
            for ticket in tickets:
                assert isinstance(await ticket.news.get(), StoppedError)
            await asyncio.to_thread(worker.join)
            with pytest.raises(StoppedError):
                submitted(worker, "hello", SHORT)

    asyncio.run(run())


def test_a_worker_needs_lanes_of_a_size(tiny: Engine) -> None:
    with pytest.raises(ValueError, match="pool_tokens"):
        Worker(Engine(tiny.runner.model, tiny.tokenizer))
    with pytest.raises(ValueError, match="0 lanes"):
        Worker(tiny, lanes=0)
