"""What a server offers, and what holds where a request does not say."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ServerConfig:
    """``name``: what requests call the model. ``api_key``: what clients must send (empty: nothing). ``max_tokens`` and
    ``mode``: what holds where a request does not say. ``cors``: web origins whose pages may ask ("*" for every one).
    ``access_log``: whether each request is logged, one line. ``created``: when the server started, in seconds since
    1970."""

    name: str
    api_key: str = ""
    max_tokens: int = 1024
    mode: str = "async"
    cors: tuple[str, ...] = ()
    access_log: bool = False
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        for origin in self.cors:
            if origin != "*" and (not origin.startswith(("http://", "https://")) or origin.count("/") != 2):
                raise ValueError(f"A web origin is written https://example.org or '*', not {origin!r}.")
