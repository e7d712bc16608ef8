"""The server's face: an OpenAI-compatible HTTP application over one worker."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from pastalm.lang.prompt import RawPrompt
from pastalm.runtime.response import Response as Answer
from pastalm.serving.errors import AbsentError, BrokenError, ElsewhereError, InvalidError, ServingError, misfit
from pastalm.serving.key import Door
from pastalm.serving.reply import Reply, failure
from pastalm.serving.scale import Scale
from pastalm.serving.schema import Card, Cards, ChatRequest, CompletionRequest
from pastalm.serving.worker import News, Ticket, Worker

SEEDS = 1 << 31


@dataclass(frozen=True)
class Offer:
    """What is served: the model's ``name``, the ``key`` that clients need (none if empty), and what holds where a
    request does not say."""

    name: str
    key: str = ""
    max_tokens: int = 1024
    mode: str = "async"
    since: int = field(default_factory=lambda: int(time.time()))


def build_app(worker: Worker, offer: Offer) -> FastAPI:
    """The application. It starts the worker when it starts, and ends it when it ends."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        worker.close()
        worker.join()

    app = FastAPI(title="PASTA", lifespan=life, docs_url=None, redoc_url=None)
    app.add_middleware(Scale)
    if offer.key:
        app.add_middleware(Door, key=offer.key)
    _add_errors(app)
    _add_routes(app, Counter(worker, offer))
    return app


class Counter:
    """Where requests are taken in and answers are handed out."""

    def __init__(self, worker: Worker, offer: Offer) -> None:
        self.worker, self.offer = worker, offer
        self.watches: set[asyncio.Task[None]] = set()  # a task that nobody holds may be collected

    async def serve(self, asked: ChatRequest | CompletionRequest, http: Request) -> Response:
        """Answer one request, whole or as a stream. A stream begins with its first text, so that what goes wrong before
        has its status."""
        if asked.model != self.offer.name:
            raise AbsentError(asked.model, self.offer.name)
        given = {"max_tokens": self.offer.max_tokens, "mode": self.offer.mode, "seed": secrets.randbelow(SEEDS)}
        reply = Reply(asked, given | asked.options)
        prompt = RawPrompt(asked.prompt) if isinstance(asked, CompletionRequest) else asked.prompt
        ticket = Ticket(prompt, reply.options, stream=bool(asked.stream))
        self.worker.submit(ticket)
        self._watch(http, ticket)
        first = await ticket.news.get()
        if isinstance(first, ServingError):
            raise first
        if isinstance(first, Answer) and not asked.stream:
            return JSONResponse(reply.whole(first))
        return StreamingResponse(
            _events(reply, first, ticket), media_type="text/event-stream", headers={"Cache-Control": "no-cache"}
        )

    def _watch(self, http: Request, ticket: Ticket) -> None:
        """Take the ticket back once the client has left; the server says so too when the answer has been sent."""

        async def wait() -> None:
            while (await http.receive())["type"] != "http.disconnect":
                pass
            self.worker.cancel(ticket)

        task = asyncio.create_task(wait())
        self.watches.add(task)
        task.add_done_callback(self.watches.discard)


async def _events(reply: Reply, news: News, ticket: Ticket) -> AsyncIterator[str]:
    if opening := reply.opening():
        yield opening
    while isinstance(news, str):
        yield reply.piece(news)
        news = await ticket.news.get()
    yield failure(news) if isinstance(news, ServingError) else reply.closing(news)


def _add_routes(app: FastAPI, counter: Counter) -> None:
    worker, offer = counter.worker, counter.offer
    card = Card(id=offer.name, created=offer.since)

    @app.get("/health")
    async def health() -> Response:
        """Whether requests are taken, and how many are open."""
        status = {"status": "ok" if worker.alive else "stopped", "open": worker.open}
        return JSONResponse(status, 200 if worker.alive else 503)

    @app.get("/v1/models")
    async def models() -> Cards:
        """The one model."""
        return Cards(data=[card])

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Card:
        """The one model, by its name."""
        if name != offer.name:
            raise AbsentError(name, offer.name)
        return card

    @app.post("/v1/chat/completions")
    async def chat(asked: ChatRequest, http: Request) -> Response:
        """Answer messages."""
        return await counter.serve(asked, http)

    @app.post("/v1/completions")
    async def completions(asked: CompletionRequest, http: Request) -> Response:
        """Go on with a prompt."""
        return await counter.serve(asked, http)


def _add_errors(app: FastAPI) -> None:
    """Every error leaves in one shape."""

    @app.exception_handler(ServingError)
    async def told(_: Request, error: ServingError) -> Response:
        return JSONResponse(error.body(), error.status)

    @app.exception_handler(RequestValidationError)
    async def malformed(http: Request, error: RequestValidationError) -> Response:
        return await told(http, misfit(error.errors()))

    @app.exception_handler(HTTPException)
    async def elsewhere(http: Request, error: HTTPException) -> Response:
        if error.status_code == 400:  # the path was right; what came cannot be read at all
            return await told(http, InvalidError("The body cannot be read as JSON in UTF-8."))
        return await told(http, ElsewhereError(f"{http.method} {http.url.path} is not served here.", error.status_code))

    @app.exception_handler(Exception)
    async def bug(http: Request, _: Exception) -> Response:  # the log has it already
        return await told(http, BrokenError())
