"""The scale: what a request weighs is known, and refused if it is too much, before it is read."""

from __future__ import annotations

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from pastalm.serving.errors import UnwieldyError

MOST_BYTES = 16 << 20  # a whole book; windows are shorter


class Scale:
    """ASGI middleware that asks every body for its ``Content-Length``, of at most :data:`MOST_BYTES`."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        error = self._refusal(dict(scope["headers"])) if scope["type"] == "http" else None
        if error is None:
            await self.app(scope, receive, send)
        else:
            await JSONResponse(error.body(), error.status, {"Connection": "close"})(scope, receive, send)

    @staticmethod
    def _refusal(headers: dict[bytes, bytes]) -> UnwieldyError | None:
        if b"transfer-encoding" in headers:
            return UnwieldyError("The body comes without its length: send a Content-Length.", 411)
        if int(headers.get(b"content-length", b"0")) > MOST_BYTES:
            return UnwieldyError(f"The body is larger than {MOST_BYTES >> 20} MiB.", 413)
        return None
