"""The HTTP server under the application: says when it listens, and does not end before its clients know."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import ExitStack
from ipaddress import ip_address

import uvicorn
from fastapi import FastAPI

from pastalm.serving.worker import Worker

GRACE_SECONDS = 10.0  # for answers under way when the server is told to end


class BusyError(ValueError):
    """An address that cannot be listened at, and what to do."""


class Server(uvicorn.Server):
    """Serves an application until SIGINT or SIGTERM. Then nothing new is taken in, answers under way have
    ``GRACE_SECONDS``, and those that are not over are told so."""

    def __init__(self, app: FastAPI, worker: Worker, ready: Callable[[], None] = lambda: None) -> None:
        patience = int(GRACE_SECONDS) + 5  # then connections on which nothing comes are cut
        config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=patience)
        super().__init__(config)
        self.worker, self.ready = worker, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then call ``ready``."""
        await super().startup(sockets)
        self.ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End once all clients have their answer, or know that they get none."""
        late = asyncio.get_running_loop().call_later(GRACE_SECONDS, self.worker.close)
        await super().shutdown(sockets)
        late.cancel()


def is_loopback(bound: socket.socket) -> bool:
    """Whether only this machine can reach a socket's address."""
    return ip_address(bound.getsockname()[0].partition("%")[0]).is_loopback


def bind(host: str, port: int) -> socket.socket:
    """A socket at this address, not listening yet; port 0 takes a free one. Raises :class:`BusyError`."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with ExitStack() as stack:
            bound = stack.enter_context(socket.socket(family, kind))
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # not held up by the last server's connections
            bound.bind(address)
            stack.pop_all()
            return bound
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise BusyError(
            f"Cannot listen at {host}, port {port}: {reason}; give another --host or --port (0 takes a free one)."
        ) from error
