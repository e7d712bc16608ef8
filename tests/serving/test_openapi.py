"""The OpenAPI schema says what the server does: schemathesis finds nothing, and no mutated body breaks it."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from http.client import HTTPConnection
from random import Random
from typing import Any

import pytest
import schemathesis
from hypothesis import given, settings
from schemathesis import GenerationMode

from pastalm import Engine
from pastalm.serving.requests import ChatRequest, CompletionRequest
from pastalm.serving.responses import ResponsesRequest
from tests.serving.conftest import RunningServer, serving

BODIES = int(os.environ.get("PASTA_FUZZ_BODIES", "600"))  # 100000 takes half an hour
SEED = int(os.environ.get("PASTA_FUZZ_SEED", "5"))
SOUND: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}]},
    "/v1/completions": {"prompt": "hello"},
    "/v1/responses": {"input": "hello"},
}
PATHS = list(SOUND)
FIELDS = sorted({name for asked in (ChatRequest, CompletionRequest, ResponsesRequest) for name in asked.model_fields})
FIELDS += ["role", "content", "tools", "reasoning", "include_usage", "events"]
CLIENTS = 8
EXAMPLES = 25
ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 1 << 70, 0.5, -0.0, 1e308, "", "a", "\ud800", "\x00", "</async>", "<sync/>"),
    *([], {}, [[]], [None], [{}], {"": None}, ["a"] * 20, [1, 2, 3], {"role": "user"}, {"type": "text"}, "x" * 3000),
]


@pytest.fixture(scope="module")
def small(chatty: Engine) -> Iterator[RunningServer]:
    with serving(chatty, max_tokens=4, max_waiting=512) as running:
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
        assert {"model", "promise_bias", "tools", "user"} <= set(found["components"]["schemas"][asked]["properties"])
        got = operation["responses"]["200"]["content"]
        assert "$ref" in got["application/json"]["schema"] and "text/event-stream" in got
        assert "ErrorBody" in str(operation["responses"]["400"]) and "422" not in operation["responses"]


def test_no_random_or_mutated_body_breaks_the_server(small: RunningServer) -> None:
    share = -(-BODIES // CLIENTS)
    with ThreadPoolExecutor(CLIENTS) as clients:
        found = list(clients.map(lambda number: send_bodies(small, Random(f"{SEED} {number}"), share), range(CLIENTS)))
    statuses = sum(found, Counter[int]())
    print(dict(statuses))
    assert set(statuses) == {200, 400, 404} and statuses.total() >= BODIES
    small.wait(small.is_clean)
    small.wait(lambda: not small.server.server_state.connections)


def send_bodies(server: RunningServer, rng: Random, number: int) -> Counter[int]:
    """Send so many bodies over one connection; returns how often each status came."""
    connection, statuses = HTTPConnection("127.0.0.1", server.port), Counter[int]()
    for _ in range(number):
        path = rng.choice(PATHS)
        body = mutated(rng, path) if rng.random() < 0.75 else scrawled(rng)
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        sent = answer.read()
        statuses[answer.status] += 1
        assert answer.status in (200, 400, 404), (answer.status, sent, body)
        assert answer.status == 200 or set(json.loads(sent)) == {"error"}
        assert b'"code":"internal_error"' not in sent.replace(b" ", b""), (sent, body)  # within a stream
    connection.close()
    return statuses


def odd(rng: Random) -> Any:
    return deepcopy(rng.choice(ODD))


def scrawled(rng: Random) -> bytes:
    """Random bytes, or random JSON."""
    if rng.random() < 0.3:
        return rng.randbytes(rng.randrange(200))
    return json.dumps(anything(rng, 0)).encode()


def anything(rng: Random, depth: int) -> Any:
    """Lists and objects of odd values, some under the protocol's names."""
    draw = rng.random() + depth / 4
    if draw < 0.5:
        names = [rng.choice([*FIELDS, *map(str, ODD[:12])]) for _ in range(rng.randrange(8))]
        return {name: anything(rng, depth + 1) for name in names}
    return [anything(rng, depth + 1) for _ in range(rng.randrange(4))] if draw < 0.7 else odd(rng)


def mutated(rng: Random, path: str) -> bytes:
    """A sound body with some fields put wrong, or its bytes."""
    asked = SOUND[path if rng.random() < 0.9 else rng.choice(PATHS)]
    body: dict[str, Any] = {"model": "tiny", "max_tokens": 2, **deepcopy(asked)}
    for _ in range(rng.choice([0, 1, 1, 2, 4])):
        body[rng.choice([*body, *FIELDS])] = odd(rng)
    if rng.random() < 0.2 and isinstance(body.get("messages"), list):
        body["messages"].append(odd(rng))
    if rng.random() < 0.05:
        body["model"] = "another"
    sent = bytearray(json.dumps(body).encode())
    if rng.random() < 0.15:
        for _ in range(rng.randrange(1, 4)):
            sent[rng.randrange(len(sent))] = rng.randrange(256)
    return bytes(sent)
