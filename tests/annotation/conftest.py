"""What the tests of annotation share: an endpoint."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.annotation.openai_server import Desk, serving


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """A server that behaves until its plan is changed."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    with serving(Desk()) as desk:
        yield desk
