"""The pages at ``/`` and ``/docs``: files that ship with the package, and no network asset."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.resources import files
from pathlib import Path

from fastapi import FastAPI, Response
from fastapi.responses import FileResponse
from starlette.staticfiles import StaticFiles

PAGE = Path(str(files("pastalm") / "serving" / "page"))
PAGES = {"/": "index.html", "/docs": "docs.html"}
# Nothing is loaded from elsewhere, whatever a model writes; styles are set on elements.
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src data:; style-src 'self' 'unsafe-inline'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def add_pages(app: FastAPI) -> None:
    """Serve the pages and their files; they need no key, the API that they ask does."""
    for path, name in PAGES.items():
        app.add_api_route(path, _page(name), methods=["GET", "HEAD"], include_in_schema=False)
    app.mount("/page", StaticFiles(directory=PAGE))


def _page(name: str) -> Callable[[], Awaitable[Response]]:
    async def page() -> Response:
        return FileResponse(PAGE / name, headers=HEADERS)

    return page
