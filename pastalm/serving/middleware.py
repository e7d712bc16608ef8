"""What every request passes before the application: its line in the log, the limit of its body, the API key."""

from __future__ import annotations

import logging
from secrets import compare_digest
from time import perf_counter
from typing import Any

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pastalm.serving.errors import AuthenticationError, RequestTooLargeError, ServingError

MAX_BODY_BYTES = 16 << 20  # a whole book; windows are shorter


class AccessLogMiddleware:
    """ASGI middleware that logs one line a request once it is answered: client, method, path, status, seconds, and the
    ``note`` that the application has put into the request's state."""

    def __init__(self, app: ASGIApp) -> None:
        self.app, self.logger = app, logging.getLogger(__name__)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and log it."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started, status = perf_counter(), 499  # what is logged when the client leaves before anything was sent

        async def watched(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self.app(scope, receive, watched)
        finally:
            self.logger.info(_line(scope, status, perf_counter() - started))


def _line(scope: Scope, status: int, seconds: float) -> str:
    client, note = scope.get("client") or ("?", 0), scope.get("state", {}).get("note", "")
    path = scope["path"].encode("ascii", "backslashreplace").decode()  # a path may hold line breaks
    shown = "".join(char if char.isprintable() else "?" for char in path)
    return f"{client[0]} {scope['method']} {shown} {status} {seconds:.3f} s{', ' if note else ''}{note}"


class BodyLimitMiddleware:
    """ASGI middleware that asks every body for its ``Content-Length``, of at most :data:`MAX_BODY_BYTES`, before any of
    it is read."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        error = _size_error(dict(scope["headers"])) if scope["type"] == "http" else None
        await _pass_or_refuse(self.app, error, scope, receive, send, {"Connection": "close"})


class ApiKeyMiddleware:
    """ASGI middleware that asks for ``Authorization: Bearer KEY`` below ``/v1`` before a request is read."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self.app, self.expected = app, f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        guarded = scope["type"] == "http" and scope["path"].startswith("/v1")
        error = None if not guarded or self._carries_key(scope) else AuthenticationError()
        await _pass_or_refuse(self.app, error, scope, receive, send, {"WWW-Authenticate": "Bearer"})

    def _carries_key(self, scope: Scope) -> bool:
        sent = dict(scope["headers"]).get(b"authorization", b"")
        return compare_digest(sent, self.expected)


async def _pass_or_refuse(
    app: ASGIApp, error: ServingError | None, scope: Scope, receive: Receive, send: Send, headers: dict[str, str]
) -> None:
    answer: Any = app if error is None else JSONResponse(error.body(), error.status, headers)
    await answer(scope, receive, send)


def _size_error(headers: dict[bytes, bytes]) -> RequestTooLargeError | None:
    if b"transfer-encoding" in headers:
        return RequestTooLargeError("The body comes without its length: send a Content-Length.", 411)
    if int(headers.get(b"content-length", b"0")) > MAX_BODY_BYTES:
        return RequestTooLargeError(f"The body is larger than {MAX_BODY_BYTES >> 20} MiB.", 413)
    return None
