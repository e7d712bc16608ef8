"""The driver against a real vLLM server, which has the bundled model in float32.

`PASTA_VLLM_ENV`, the folder that bench/vllm_env.sh made, has a server started for these tests; `PASTA_VLLM_URL` is one
that runs already, with ``--model pastalm/bundled --dtype float32 --block-size 32 --enable-prefix-caching``.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from urllib.request import urlopen

import pytest
from openai import OpenAI

import pastalm
from bench.views_exact import RecordedServer, compare
from pastalm.evaluation.bench.remote import MeasuredServer
from pastalm.runtime.engine import Engine
from pastalm.runtime.events import DoneEvent, ForkEvent, JoinEvent, TokenEvent
from pastalm.runtime.load import load
from pastalm.runtime.mode import Mode
from pastalm.runtime.runner import Runner
from pastalm.serving.app import build_app
from pastalm.serving.config import ServerConfig
from pastalm.serving.worker import Worker
from tests.runtime.remote.plain_server import PlainServer, serving, writing

URL, ENVIRONMENT = os.environ.get("PASTA_VLLM_URL"), os.environ.get("PASTA_VLLM_ENV")
pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(not (URL or ENVIRONMENT), reason="set PASTA_VLLM_ENV to the folder of bench/vllm_env.sh"),
]
BUNDLED = Path(pastalm.__file__).parent / "bundled"
PROMPT = "Write each of these words backwards: apple, candle, garden."
LIMIT = 160
BLOCK = 32  # tokens of a block of the server's cache: the smallest on a CPU
PATIENCE = 600.0  # seconds until the server is up
PORT = 8731


class VllmServer:
    """The server of ``PASTA_VLLM_ENV``; ``log`` is the file that its output goes to."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        """Have it start; see :meth:`wait`."""
        flags = ["--model", BUNDLED, "--host", "127.0.0.1", "--port", PORT, "--dtype", "float32"]
        flags += ["--max-model-len", 2048, "--enforce-eager", "--enable-prefix-caching", "--block-size", BLOCK]
        command = [Path(ENVIRONMENT or "") / "bin" / "python", "-m", "vllm.entrypoints.openai.api_server", *flags]
        own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # no library of ours in there
        own |= {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                list(map(str, command)), env=own, stdout=log, stderr=log, start_new_session=True
            )

    def wait(self) -> None:
        """Until it answers."""
        end = monotonic() + PATIENCE
        while monotonic() < end and self.process and self.process.poll() is None:
            try:
                urlopen(f"http://127.0.0.1:{PORT}/health", timeout=1).close()
                return
            except OSError:
                sleep(0.5)
        last = self.log.read_text(errors="replace")[-2000:]
        pytest.fail(f"The vLLM server did not come up in {PATIENCE:.0f} seconds. Its last words:\n{last}")

    def end(self, how: signal.Signals) -> None:
        """End it with all its processes."""
        if self.process:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, how)
            self.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer | None]:
    """The one that these tests start, None if there is one already."""
    if URL:
        yield None
        return
    server = VllmServer(tmp_path_factory.mktemp("vllm") / "log")
    try:
        server.start()
        server.wait()
        yield server
    finally:
        server.end(signal.SIGTERM)


@pytest.fixture(scope="module")
def url(server: VllmServer | None) -> str:
    """The server's base URL."""
    return URL or f"http://127.0.0.1:{PORT}/v1"


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    engine = Engine.remote(url, None, str(BUNDLED))
    yield engine
    engine.release()


def running(url: str) -> float:
    """How many requests the server decodes."""
    with urlopen(url.removesuffix("/v1") + "/metrics", timeout=10) as reply:
        lines = reply.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("vllm:num_requests_running{"))


def assert_idle(url: str) -> None:
    """Within ten seconds the server decodes nothing any more."""
    end = monotonic() + 10
    while running(url) and monotonic() < end:
        sleep(0.1)
    assert running(url) == 0


@pytest.mark.parametrize("mode", list(Mode))
def test_the_answer_is_that_of_a_plain_server_with_this_model(mode: Mode, engine: Engine) -> None:
    model, tokenizer = load("bundled", "cpu", "float32")
    with serving(PlainServer(writing(model), longest=2048).app) as plain:
        other = Engine.remote(plain, None, tokenizer)
        expected = other.generate(PROMPT, mode=mode, max_tokens=LIMIT)
        other.release()
    found = engine.generate(PROMPT, mode=mode, max_tokens=LIMIT)
    assert found.script.tokens == expected.script.tokens
    assert (found.text, found.finish_reason) == (expected.text, expected.finish_reason)
    assert len(found.threads) == len(expected.threads) and (len(found.threads) > 2) == (mode == Mode.ASYNC)
    assert found.metrics.critical_path == expected.metrics.critical_path


def test_events_tell_the_answer(engine: Engine) -> None:
    *events, last = engine.stream(PROMPT, max_tokens=LIMIT)
    assert isinstance(last, DoneEvent) and last.response is not None
    texts = sorted((event.place, event.text) for event in events if isinstance(event, TokenEvent))
    assert "".join(text for _, text in texts) == last.response.text
    assert sum(isinstance(event, ForkEvent) for event in events) == len(last.response.threads) - 1
    joined = {path for event in events if isinstance(event, JoinEvent) for path in event.children}
    assert joined <= {event.thread for event in events if isinstance(event, ForkEvent)}
    assert last.response.script.tokens == engine.generate(PROMPT, max_tokens=LIMIT).script.tokens


def test_each_chunk_is_a_completion_and_the_cache_has_what_they_share(engine: Engine, url: str) -> None:
    server = RecordedServer(engine)
    measured = MeasuredServer(engine, [url])
    found = measured.answer(PROMPT, Mode.ASYNC)
    prompt, start = engine.encode(PROMPT), engine.tags().async_start
    children = [asked for asked in server.asked if asked.prompt[-1] == start]
    assert len(children) == len(found.threads) - 1 > 1
    assert all(asked.prompt[: len(prompt)] == tuple(prompt) for asked in server.asked)
    costs = measured.costs[Mode.ASYNC]
    assert costs.requests == len(server.asked) and costs.cached is not None
    # All full blocks of a prompt but its last token were written or read before, so at most a block and what stands
    # behind a chunk's place is computed again.
    shared = sum((len(asked.prompt) - 1) // BLOCK * BLOCK - BLOCK for asked in children)
    assert costs.cached >= shared


def test_a_client_that_leaves_ends_its_completions(engine: Engine, url: str) -> None:
    stream = engine.stream(PROMPT, max_tokens=1500)
    assert len(list(islice(stream, 5))) == 5
    stream.close()
    assert_idle(url)


def test_a_client_of_a_gateway_that_leaves_ends_its_completions(engine: Engine, url: str) -> None:
    worker = Worker(engine, max_batch=4)
    with serving(build_app(worker, ServerConfig("gateway", "", 1024, "async", (), False))) as gateway:
        client = OpenAI(base_url=gateway, api_key="none")
        asked: Any = [{"role": "user", "content": PROMPT}]
        stream = client.chat.completions.create(model="gateway", messages=asked, stream=True, max_tokens=900)
        assert len(list(islice(stream, 2))) == 2  # the beginning: text behind an open chunk is held back
        assert any(running(url) or sleep(0.05) for _ in range(40))
        stream.close()
        assert_idle(url)


def test_its_probabilities_are_those_that_training_learns(engine: Engine) -> None:
    """Of every token of every thread, as the server reads it and as it writes it."""
    runner = Runner(load("bundled", "cpu", "float32")[0])
    found = compare(RecordedServer(engine), runner, PROMPT, LIMIT)
    assert len(found.read) >= LIMIT // 2 and len(found.written) >= LIMIT // 2
    assert max(found.read) < 1e-3 and max(found.written) < 1e-3


def test_a_server_that_is_killed_and_starts_again_changes_no_answer(server: VllmServer | None, engine: Engine) -> None:
    """What was shown before it died is neither lost nor shown twice."""
    if server is None:
        pytest.skip("PASTA_VLLM_URL is a server that is not ours to kill")
    expected = engine.generate(PROMPT, max_tokens=LIMIT)
    stream = engine.stream(PROMPT, max_tokens=LIMIT)
    before = list(islice(stream, 40))
    server.end(signal.SIGKILL)
    server.start()
    *events, last = [*before, *stream]
    assert isinstance(last, DoneEvent) and last.response is not None
    assert last.response.script.tokens == expected.script.tokens
    texts = sorted((event.place, event.text) for event in events if isinstance(event, TokenEvent))
    assert "".join(text for _, text in texts) == expected.text
