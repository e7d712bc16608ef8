"""The HTTP application over one worker: an OpenAI-compatible API."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from fastapi.responses import Response as HTTPResponse
from starlette.exceptions import HTTPException

from pastalm import __version__
from pastalm.runtime.response import Response
from pastalm.serving.bodies import ChatCompletion, ErrorBody, Health, ModelCard, ModelList, TextCompletion
from pastalm.serving.config import ServerConfig
from pastalm.serving.errors import (
    InternalError,
    InvalidRequestError,
    ModelNotFoundError,
    NotFoundError,
    ServingError,
    body_error,
)
from pastalm.serving.middleware import AccessLogMiddleware, ApiKeyMiddleware, BodyLimitMiddleware
from pastalm.serving.reply import ChatReply, CompletionReply, Reply
from pastalm.serving.requests import ChatRequest, CommonRequest, CompletionRequest
from pastalm.serving.responses import ResponseBody, ResponsesReply, ResponsesRequest
from pastalm.serving.web import add_pages
from pastalm.serving.worker import Job, JobProgress, Outbox, Worker

SEEDS = 1 << 31
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody} for status in (400, 401, 404, 411, 413, 429, 500, 503)
}

ANSWERS: dict[int | str, dict[str, Any]] = {
    **ERRORS,
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": "The answer, or a stream."},
}


def build_app(worker: Worker, config: ServerConfig) -> FastAPI:
    """The application. It starts the worker when it starts, and ends it when it ends."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        worker.close()
        worker.join()

    app = FastAPI(title="PASTA", version=__version__, lifespan=life, docs_url=None, redoc_url=None)
    app.add_middleware(BodyLimitMiddleware)
    if config.api_key:
        app.add_middleware(ApiKeyMiddleware, key=config.api_key)
    if config.cors:  # outside of the key: a browser asks without it whether it may ask
        app.add_middleware(CORSMiddleware, allow_origins=config.cors, allow_methods=["*"], allow_headers=["*"])
    if config.access_log:
        app.add_middleware(AccessLogMiddleware)
    _add_errors(app)
    _add_routes(app, Handler(worker, config))
    add_pages(app)
    _describe(app)
    return app


class Handler:
    """Turns requests into jobs of the worker, and what comes of them into answers."""

    def __init__(self, worker: Worker, config: ServerConfig) -> None:
        self.worker, self.config = worker, config
        self.watches: set[asyncio.Task[None]] = set()  # a task that nobody holds may be collected

    async def answer(self, asked: CommonRequest, kind: type[Reply], http: Request) -> HTTPResponse:
        """Answer one request, whole or as a stream. A stream begins with its first text, so that what goes wrong before
        has its status."""
        if asked.model != self.config.name:
            raise ModelNotFoundError(asked.model, self.config.name)
        asked.check()
        outbox: Outbox = asyncio.Queue()
        jobs = list(self._jobs(asked, outbox))
        reply = kind(asked, [job.options for job in jobs])
        self.worker.submit(*jobs)
        self._watch(http, jobs)
        answers = RunningJobs(jobs, outbox, self.worker)
        first = await answers.next()
        if asked.stream:
            events = _events(reply, first, answers, http)
            return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        while answers.pending:
            await answers.next()
        http.state.note = note(answers.responses)
        return JSONResponse(reply.whole(answers.responses).model_dump())

    def _jobs(self, asked: CommonRequest, outbox: Outbox) -> Iterator[Job]:
        given: dict[str, Any] = {
            "max_tokens": self.config.max_tokens,
            "mode": self.config.mode,
            "seed": secrets.randbelow(SEEDS),
        }
        n, options, prompts = asked.n or 1, given | asked.options, asked.prompts
        for index in range(n * len(prompts)):
            own = options | {"seed": options["seed"] + index % n}  # several answers to a prompt are drawn apart
            prompt, stream, events = prompts[index // n], bool(asked.stream), asked.wants_events
            yield Job(prompt, own, stream=stream, events=events, index=index, outbox=outbox)

    def _watch(self, http: Request, jobs: list[Job]) -> None:
        """Take the jobs back once the client has left; the server says so too when the answer has been sent."""

        async def wait() -> None:
            while (await http.receive())["type"] != "http.disconnect":
                pass
            self.worker.cancel(*jobs)

        task = asyncio.create_task(wait())
        self.watches.add(task)
        task.add_done_callback(self.watches.discard)


class RunningJobs:
    """What comes of the jobs of one request. ``pending`` counts those that are not finished."""

    def __init__(self, jobs: list[Job], outbox: Outbox, worker: Worker) -> None:
        self.jobs, self.outbox, self.worker = jobs, outbox, worker
        self.pending = len(jobs)
        self._responses: list[Response | None] = [None] * len(jobs)

    async def next(self) -> tuple[int, JobProgress | Response]:
        """The next message and the index of its job. Raises the error of a job, after which nothing more comes."""
        index, message = await self.outbox.get()
        if isinstance(message, ServingError):
            self.worker.cancel(*self.jobs)
            raise message
        if isinstance(message, Response):
            self.pending -= 1
            self._responses[index] = message
        return index, message

    @property
    def responses(self) -> list[Response]:
        """Those that have come, in the order of their jobs."""
        return [response for response in self._responses if response is not None]


def note(responses: list[Response]) -> str:
    """What the access log says of answers."""
    tokens = sum(one.metrics.tokens for one in responses)
    threads, steps = sum(len(one.threads) for one in responses), max(one.metrics.critical_path for one in responses)
    return f"{tokens} tokens, {threads} threads, critical path {steps}"


async def _events(
    reply: Reply, first: tuple[int, JobProgress | Response], answers: RunningJobs, http: Request
) -> AsyncIterator[str]:
    for index in range(len(answers.jobs)):
        if opening := reply.opening(index):
            yield opening
    index, message = first
    try:
        while True:
            yield reply.piece(index, message) if isinstance(message, JobProgress) else reply.closing(index, message)
            if not answers.pending:
                break
            index, message = await answers.next()
    except ServingError as error:
        yield reply.failure(error)
    else:
        http.state.note = note(answers.responses)
        yield reply.ending(answers.responses)


def _add_routes(app: FastAPI, handler: Handler) -> None:
    worker, config = handler.worker, handler.config
    card = ModelCard(id=config.name, created=config.created, max_model_len=worker.engine.max_model_len)

    @app.get("/health", response_model=Health, responses={503: {"model": Health}})
    @app.api_route("/health", methods=["GET", "HEAD"], include_in_schema=False)  # takes both; the other is described
    async def health() -> HTTPResponse:
        """Whether requests are taken, and how many are open."""
        status = Health(status="ok" if worker.alive else "stopped", open=worker.open)
        return JSONResponse(status.model_dump(), 200 if worker.alive else 503)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> HTTPResponse:
        """What the server measures, for Prometheus."""
        return PlainTextResponse(worker.metrics.text())

    @app.get("/v1/models", responses={401: ERRORS[401]})
    async def models() -> ModelList:
        """The one model."""
        return ModelList(data=[card])

    @app.get("/v1/models/{name:path}", responses={401: ERRORS[401], 404: ERRORS[404]})
    async def model(name: str) -> ModelCard:
        """The one model, by its name."""
        if name != config.name:
            raise ModelNotFoundError(name, config.name)
        return card

    _add_answers(app, handler)


def _add_answers(app: FastAPI, handler: Handler) -> None:
    @app.post("/v1/chat/completions", response_model=ChatCompletion, responses=ANSWERS)
    async def chat(asked: ChatRequest, http: Request) -> HTTPResponse:
        """Answer messages."""
        return await handler.answer(asked, ChatReply, http)

    @app.post("/v1/completions", response_model=TextCompletion, responses=ANSWERS)
    async def completions(asked: CompletionRequest, http: Request) -> HTTPResponse:
        """Go on with a prompt, or with each of several."""
        return await handler.answer(asked, CompletionReply, http)

    @app.post("/v1/responses", response_model=ResponseBody, responses=ANSWERS)
    async def responses(asked: ResponsesRequest, http: Request) -> HTTPResponse:
        """Answer messages, in the shapes of the newer API."""
        return await handler.answer(asked, ResponsesReply, http)


def _describe(app: FastAPI) -> None:
    """OpenAPI as it is: a body that cannot be is a 400, never FastAPI's 422."""
    plain = app.openapi

    def described() -> dict[str, Any]:
        schema = plain()
        for path in schema["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        return schema

    app.openapi = described  # type: ignore[method-assign]


def _add_errors(app: FastAPI) -> None:
    """Every error leaves in one shape."""

    @app.exception_handler(ServingError)
    async def refused(_: Request, error: ServingError) -> HTTPResponse:
        return JSONResponse(error.body(), error.status, error.headers)

    @app.exception_handler(RequestValidationError)
    async def malformed(http: Request, error: RequestValidationError) -> HTTPResponse:
        return await refused(http, body_error(error.errors()))

    @app.exception_handler(HTTPException)
    async def not_found(http: Request, error: HTTPException) -> HTTPResponse:
        if error.status_code == 400:  # the path was right; what came cannot be read at all
            return await refused(http, InvalidRequestError("The body cannot be read as JSON in UTF-8."))
        absent = NotFoundError(f"{http.method} {http.url.path} is not served here.", error.status_code)
        return JSONResponse(absent.body(), absent.status, error.headers)

    @app.exception_handler(Exception)
    async def failed(http: Request, _: Exception) -> HTTPResponse:  # the log has it already
        return await refused(http, InternalError())
