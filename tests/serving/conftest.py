"""Real servers on loopback, the bundled model in one and a tiny random one in the others, and the real client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from http.client import HTTPConnection
from json import dumps
from threading import Event, Thread
from time import sleep
from typing import Any

import pytest
from openai import OpenAI
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from pastalm import Engine
from pastalm.serving.app import build_app
from pastalm.serving.config import ServerConfig
from pastalm.serving.metrics import ServerMetrics
from pastalm.serving.server import Server, bind
from pastalm.serving.worker import Worker

PATIENCE = 600  # tries of a tenth of a second, for what has to come


@dataclass
class RunningServer:
    """A running server: its worker, and where it listens."""

    worker: Worker
    port: int
    server: Server

    def client(self, key: str = "none") -> OpenAI:
        return OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key=key, max_retries=0)

    def post(self, body: dict[str, Any] | str, path: str = "/v1/completions") -> HTTPConnection:
        """A request that is on its way; whoever closes the connection has left."""
        connection = HTTPConnection("127.0.0.1", self.port)
        sent = body if isinstance(body, str) else dumps(body)
        connection.request("POST", path, sent, {"Content-Type": "application/json"})
        return connection

    def wait(self, until: Callable[[], bool]) -> None:
        for _ in range(PATIENCE):
            if until():
                return
            sleep(0.1)
        raise TimeoutError("What was waited for has not come.")

    def is_clean(self) -> bool:
        """Whether no request is left, and every lane is as new."""
        return self.worker.open == 0 and self.worker.scheduler.idle


@contextmanager
def serving(engine: Engine, *, max_batch: int = 2, max_waiting: int = 64, **config: Any) -> Iterator[RunningServer]:
    """Serve an engine while the block runs."""
    name = config.setdefault("name", "tiny")
    worker = Worker(engine, max_batch=max_batch, max_waiting=max_waiting, metrics=ServerMetrics(name))
    ready = Event()
    with bind("127.0.0.1", 0) as bound:
        server = Server(build_app(worker, ServerConfig(**config)), worker, ready.set)
        thread = Thread(target=server.run, args=([bound],))
        port = bound.getsockname()[1]
        thread.start()
        try:
            assert ready.wait(60)
            yield RunningServer(worker, port, server)
        finally:
            server.should_exit = True
            thread.join()
    assert not worker.alive


@pytest.fixture(scope="package")
def bundled() -> Engine:
    """The bundled model."""
    return Engine.from_pretrained("bundled", "cpu", max_model_len=700)


@pytest.fixture(scope="package")
def served(bundled: Engine) -> Iterator[RunningServer]:
    """A server of the bundled model."""
    with serving(bundled, max_batch=3, name="bundled", max_tokens=70) as running:
        yield running


@pytest.fixture(scope="package")
def tiny(tiny_llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> Engine:
    """A tiny random model without a chat template; it writes until a limit ends it."""
    return Engine(tiny_llama, tokenizer, max_model_len=1200)


@pytest.fixture(scope="package")
def chatty(tiny_llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> Engine:
    """The same with a template that shows messages of every role."""
    own = deepcopy(tokenizer)
    own.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"
    return Engine(tiny_llama, own, max_model_len=1200)
