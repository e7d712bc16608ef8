"""The HTTP server under the application: says when it listens, and does not end before its clients know."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import ExitStack
from ipaddress import ip_address
from types import FrameType

import uvicorn
from fastapi import FastAPI

from pastalm.serving.worker import Worker

GRACE_SECONDS = 10.0  # for answers under way when the server is told to end
TELLING_SECONDS = 1.0  # for what clients are told when it is told so twice


class BusyError(ValueError):
    """An address that cannot be listened at, and what to do."""


class Server(uvicorn.Server):
    """Serves an application until SIGINT or SIGTERM. Then nothing new is taken in, answers under way have
    ``GRACE_SECONDS``, and those that are not over are told so. A second SIGINT ends them at once."""

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
        if self.force_exit:
            await self._end_at_once()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal. With the second SIGINT no answer is waited for."""
        super().handle_exit(sig, frame)
        if self.force_exit:
            self.worker.close()

    async def _end_at_once(self) -> None:
        """What uvicorn leaves out when it is told to hurry: the worker's thread, which Python may not end within a pass
        of the model, and what it tells the clients."""
        self.worker.close()
        await asyncio.to_thread(self.worker.join)  # meanwhile its messages go out
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks, timeout=TELLING_SECONDS)
        await self.lifespan.shutdown()


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
