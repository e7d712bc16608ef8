"""The page at ``/``: files that ship with the package, and no network asset."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from fastapi import FastAPI, Response
from fastapi.responses import FileResponse
from starlette.staticfiles import StaticFiles

PAGE = Path(str(files("pastalm") / "serving" / "page"))
# Nothing is loaded from elsewhere, whatever a model writes; styles are set on elements.
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src data:; style-src 'self' 'unsafe-inline'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def add_page(app: FastAPI) -> None:
    """Serve the page and its files; both need no key, the API that the page asks does."""

    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(PAGE / "index.html", headers=HEADERS)

    app.mount("/page", StaticFiles(directory=PAGE))
