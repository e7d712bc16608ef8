"""The driver against `pasta serve`, which goes on with token ids like any completion server when asked for them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from openai import BadRequestError, OpenAI

from pastalm.runtime.engine import Engine
from pastalm.runtime.load import load
from pastalm.runtime.mode import Mode
from pastalm.serving.app import build_app
from pastalm.serving.config import ServerConfig
from pastalm.serving.worker import Worker
from tests.runtime.remote.plain_server import PlainServer, serving, writing

PROMPT = "Write each of these words backwards: apple, candle."
LIMIT = 90


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    engine = Engine.from_pretrained("bundled", "cpu", "float32", max_model_len=1024)
    worker = Worker(engine, max_batch=4)
    with serving(build_app(worker, ServerConfig("ours", "", 1024, "async", (), False))) as url:
        yield url


def answer(url: str, mode: Mode) -> tuple[list[int], str, str, int]:
    engine = Engine.remote(url, None, "bundled")
    found = engine.generate(PROMPT, mode=mode, max_tokens=LIMIT)
    engine.release()
    return found.script.tokens, found.text, found.finish_reason, len(found.threads)


@pytest.mark.parametrize("mode", list(Mode))
def test_it_is_a_completion_server_like_others(mode: Mode, url: str) -> None:
    with serving(PlainServer(writing(load("bundled", "cpu", "float32")[0])).app) as plain:
        expected = answer(plain, mode)
    assert answer(url, mode) == expected
    assert (expected[3] > 2) == (mode == Mode.ASYNC)


def test_ids_of_a_whole_answer_and_of_its_stream(url: str) -> None:
    engine = Engine.remote(url, None, "bundled")
    prompt, stop = engine.encode(PROMPT), engine.tags().promise_end
    engine.release()
    client = OpenAI(base_url=url, api_key="none")
    asked = {"model": "ours", "prompt": prompt, "max_tokens": 40, "temperature": 0}
    more = {"return_token_ids": True, "stop_token_ids": [stop]}
    choice = client.completions.create(**asked, extra_body=more).choices[0]  # type: ignore[call-overload]
    ids = choice.model_extra["token_ids"]
    assert ids[-1] == stop and stop not in ids[:-1] and choice.finish_reason == "stop"
    stream = client.completions.create(**asked, stream=True, extra_body=more)  # type: ignore[call-overload]
    pieces = [one.choices[0].model_extra["token_ids"] for one in stream]
    assert [token for piece in pieces for token in piece] == ids
    plain = client.completions.create(**asked).choices[0]  # type: ignore[call-overload]
    assert "token_ids" not in plain.model_dump()


def test_stop_ids_go_with_ids(url: str) -> None:
    client = OpenAI(base_url=url, api_key="none", max_retries=0)
    with pytest.raises(BadRequestError, match="stop_token_ids go with return_token_ids"):
        client.completions.create(model="ours", prompt="a", extra_body={"stop_token_ids": [3]})
