"""The door: below /v1, only requests that carry the key pass."""

from __future__ import annotations

from secrets import compare_digest

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from pastalm.serving.errors import StrangerError


class Door:
    """ASGI middleware that asks for ``Authorization: Bearer KEY`` before anything of a request is read."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self.app, self.expected = app, f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "http" and scope["path"].startswith("/v1") and not self._carries_key(scope):
            error = StrangerError("The API key is missing or wrong: send it as 'Authorization: Bearer KEY'.")
            await JSONResponse(error.body(), error.status)(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _carries_key(self, scope: Scope) -> bool:
        sent = dict(scope["headers"]).get(b"authorization", b"")
        return compare_digest(sent, self.expected)
