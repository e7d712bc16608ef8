"""The worker by itself: errors stay with their request, whoever waits is told, lanes come back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pastalm import Engine, Response
from pastalm.serving.errors import (
    ClientLeftError,
    InsufficientMemoryError,
    InternalError,
    InvalidRequestError,
    OverloadedError,
    StoppedError,
)
from pastalm.serving.worker import Job, JobMessage, JobProgress, Worker

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


def submitted(worker: Worker, prompt: str, options: dict[str, Any], *, stream: bool = False) -> Job:
    job = Job(prompt, options, stream=stream)
    worker.submit(job)
    return job


async def message(job: Job) -> JobMessage:
    index, last = await job.outbox.get()
    assert index == job.index
    return last


def fail(*_: object) -> None:
    raise RuntimeError("a bug")


def test_an_error_in_a_request_is_its_own(tiny: Engine, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        async with working(tiny, max_batch=3) as worker:
            good = submitted(worker, "hello", SHORT)
            bad = submitted(worker, "hello", {**SHORT, "observe": fail})
            odd = submitted(worker, "hello", {**SHORT, "nonsense": 1})
            refused = submitted(worker, "hello", {**SHORT, "max_tokens": -1})
            after = submitted(worker, "world", SHORT)
            assert isinstance(await message(bad), InternalError)
            assert isinstance(await message(odd), InternalError)
            error = await message(refused)
            assert isinstance(error, InvalidRequestError) and "max_tokens must be" in str(error)
            for job, prompt in ((good, "hello"), (after, "world")):
                response = await message(job)
                assert isinstance(response, Response) and response.text == expected[prompt]
            assert worker.alive and worker.scheduler.idle

    expected = {prompt: tiny.generate(prompt, **SHORT).text for prompt in ("hello", "world")}
    with caplog.at_level(logging.ERROR):
        asyncio.run(run())
    assert "a bug" in caplog.text and "nonsense" in caplog.text


def test_a_request_without_memory_is_told_and_the_others_go_on(tiny: Engine) -> None:
    async def run() -> None:
        async with working(roomy, max_batch=2) as worker:
            good = submitted(worker, "hello", SHORT)
            huge = submitted(worker, "hello", {**SHORT, "max_tokens": 1 << 42})
            after = submitted(worker, "hello", SHORT)
            error = await message(huge)
            assert isinstance(error, InsufficientMemoryError) and error.status == 503
            assert error.headers == {"Retry-After": "5"} and "no memory for this request now" in str(error)
            for job in (good, after):
                response = await message(job)
                assert isinstance(response, Response) and response.text == expected

    roomy = Engine(tiny.runner.model, tiny.tokenizer, max_model_len=1 << 44)
    expected = tiny.generate("hello", **SHORT).text
    asyncio.run(run())


def test_an_idle_server_gives_its_cache_back(tiny: Engine) -> None:
    async def run() -> None:
        async with working(tiny, idle_seconds=0.05) as worker:
            start = worker.scheduler.cache.bytes
            response = await message(submitted(worker, "hello", {**SHORT, "max_tokens": 600}))
            grown = worker.scheduler.cache.bytes
            await asyncio.sleep(0.5)
            assert worker.scheduler.cache.bytes < start < grown
            again = await message(submitted(worker, "hello", {**SHORT, "max_tokens": 600}))
            assert isinstance(response, Response) and isinstance(again, Response) and again.text == response.text

    asyncio.run(run())


def test_a_job_is_taken_back_from_the_batch_and_from_the_line(tiny: Engine) -> None:
    async def run() -> None:
        async with working(tiny, max_batch=1) as worker:
            first = submitted(worker, "hello", LONG, stream=True)
            assert isinstance(await message(first), JobProgress)
            second, third = (submitted(worker, "hello", SHORT) for _ in range(2))
            worker.cancel(second)
            worker.cancel(first)
            worker.cancel(first)
            assert isinstance(await message(third), Response)
            assert isinstance(await message(second), ClientLeftError)
            while isinstance(last := await message(first), JobProgress):
                pass
            assert isinstance(last, ClientLeftError)

    asyncio.run(run())


def test_a_line_that_is_full(tiny: Engine) -> None:
    async def run() -> None:
        async with working(tiny, max_batch=1, max_waiting=1) as worker:
            jobs = [submitted(worker, "hello", LONG) for _ in range(2)]
            with pytest.raises(OverloadedError, match="1 may wait in line"):
                submitted(worker, "hello", SHORT)
            for job in jobs:
                worker.cancel(job)
                assert isinstance(await message(job), ClientLeftError)
            assert isinstance(await message(submitted(worker, "hello", SHORT)), Response)

    asyncio.run(run())


def test_all_who_wait_are_told_of_the_end(tiny: Engine) -> None:
    async def run() -> None:
        async with working(tiny, max_batch=1) as worker:
            jobs = [submitted(worker, "hello", LONG) for _ in range(3)]
            worker.close()
            for job in jobs:
                assert isinstance(await message(job), StoppedError)
            await asyncio.to_thread(worker.join)
            with pytest.raises(StoppedError):
                submitted(worker, "hello", SHORT)

    asyncio.run(run())


def test_a_worker_needs_room_of_a_size(tiny: Engine) -> None:
    with pytest.raises(ValueError, match="max_model_len"):
        Worker(Engine(tiny.runner.model, tiny.tokenizer))
    with pytest.raises(ValueError, match="max_batch of at least 1, not 0"):
        Worker(tiny, max_batch=0)
