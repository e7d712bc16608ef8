"""The OpenAPI schema says what the server does: schemathesis finds nothing, and no mutated body breaks it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from http.client import HTTPConnection
from random import Random
from typing import Any

import pytest
import schemathesis
from hypothesis import given, settings
from schemathesis import GenerationMode

from pastalm import Engine
from tests.serving.conftest import RunningServer, serving

BODIES = int(os.environ.get("PASTA_FUZZ_BODIES", "600"))  # 100000 takes half an hour
PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/responses")
EXAMPLES = 25
ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 1 << 70, 0.5, -0.0, 1e308, "", "a", "\ud800", "\x00", "</async>", "<sync/>"),
    *([], {}, [[]], [None], [{}], {"": None}, ["a"] * 20, [1, 2, 3], {"role": "user"}, {"type": "text"}, "x" * 3000),
]


@pytest.fixture(scope="module")
def small(tiny: Engine) -> Iterator[RunningServer]:
    with serving(tiny, mode="sequential", max_tokens=4, max_waiting=512) as running:
        yield running


@pytest.mark.slow
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_the_server_does_what_its_schema_says(small: RunningServer, mode: GenerationMode) -> None:
    """Whatever fits the schema is taken, whatever does not is refused, and every answer is of a shape that it names."""
    api = schemathesis.openapi.from_url(f"http://127.0.0.1:{small.port}/openapi.json")
    operations = [found.ok() for found in api.get_all_operations()]
    assert len(operations) == 7
    for operation in operations:
        if mode is GenerationMode.POSITIVE or operation.method.upper() == "POST":

            @settings(max_examples=EXAMPLES, database=None)
            @given(case=operation.as_strategy(generation_mode=mode))
            def check(case: Any) -> None:
                case.call_and_validate()

            check()


def test_bodies_stand_in_the_schema(small: RunningServer) -> None:
    connection = HTTPConnection("127.0.0.1", small.port)
    connection.request("GET", "/openapi.json")
    found = json.load(connection.getresponse())
    connection.close()
    for path in PATHS:
        operation = found["paths"][path]["post"]
        asked = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        assert {"model", "speed", "tools", "user"} <= set(found["components"]["schemas"][asked]["properties"])
        got = operation["responses"]["200"]["content"]
        assert "$ref" in got["application/json"]["schema"] and "text/event-stream" in got
        assert "ErrorBody" in str(operation["responses"]["400"]) and "422" not in operation["responses"]


def test_no_mutated_body_breaks_the_server(small: RunningServer) -> None:
    rng, connection, statuses = Random(5), HTTPConnection("127.0.0.1", small.port), set()
    for _ in range(BODIES):
        connection.request("POST", rng.choice(PATHS), mutated(rng), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        sent = answer.read()
        statuses.add(answer.status)
        assert answer.status in (200, 400, 404), (answer.status, sent)
        assert answer.status == 200 or set(json.loads(sent)) == {"error"}
    connection.close()
    assert statuses >= {200, 400}
    small.wait(small.is_clean)


def mutated(rng: Random) -> bytes:
    """A sound body with some fields put wrong, or its bytes."""
    body: dict[str, Any] = {"model": "tiny", "max_tokens": 2}
    body |= rng.choice([{"prompt": "hello"}, {"messages": [{"role": "user", "content": "hi"}]}, {"input": "hello"}])
    fields = ["stop", "n", "stream", "temperature", "logit_bias", "pasta", "tools", "seed", "speed", "mode", "logprobs"]
    for _ in range(rng.choice([0, 1, 1, 2, 4])):
        body[rng.choice([*body, *fields])] = rng.choice(ODD)
    if rng.random() < 0.2 and isinstance(body.get("messages"), list):
        body["messages"].append(rng.choice(ODD))
    sent = bytearray(json.dumps(body).encode())
    if rng.random() < 0.15:
        for _ in range(rng.randrange(1, 4)):
            sent[rng.randrange(len(sent))] = rng.randrange(256)
    return bytes(sent)
