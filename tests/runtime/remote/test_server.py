"""The client of a completion server against a real HTTP server, and against its faults."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import Response
from transformers import LlamaForCausalLM

from pastalm.runtime.remote.server import Completion, CompletionServer, RemoteError
from tests.runtime.remote.plain_server import MODEL, Fault, PlainLlamaServer, PlainServer, serving, writing

PROMPT = (5, 6, 7)


@pytest.fixture
def plain(tiny_llama: LlamaForCausalLM) -> PlainServer:
    return PlainServer(writing(tiny_llama))


@pytest.fixture
def url(plain: PlainServer) -> Iterator[str]:
    with serving(plain.app) as url:
        yield url


def complete(url: str, asked: Completion, **options: float) -> list[int]:
    async def collect() -> list[int]:
        server = CompletionServer([url], MODEL, **options)
        try:
            return [token async for token in server.tokens(asked)]
        finally:
            await server.close()

    return asyncio.run(collect())


def likeliest(model: LlamaForCausalLM, number: int) -> list[int]:
    ids, write = list(PROMPT), writing(model)
    for _ in range(number):
        ids.append(write(ids, {}))
    return ids[len(PROMPT) :]


def test_tokens_are_the_models(url: str, tiny_llama: LlamaForCausalLM) -> None:
    assert complete(url, Completion(PROMPT, 12)) == likeliest(tiny_llama, 12)


def test_the_token_that_stops_is_among_them(url: str, tiny_llama: LlamaForCausalLM) -> None:
    known = likeliest(tiny_llama, 12)
    stop = known[5]
    assert complete(url, Completion(PROMPT, 12, stop=(stop,))) == known[: known.index(stop) + 1]


def test_bias_forbids_a_token(url: str, tiny_llama: LlamaForCausalLM) -> None:
    first = likeliest(tiny_llama, 1)[0]
    assert first not in complete(url, Completion(PROMPT, 4, bias={first: -100.0}))


@pytest.mark.parametrize(
    "faults",
    [
        [Fault(after=0)],
        [Fault(after=3)],
        [Fault(after=1), Fault(after=1), Fault(after=4)],
        [Fault(status=500), Fault(after=2), Fault(status=503)],
        [Fault(status=429, headers={"Retry-After": "0"}), None],
        [Fault(after=2, stall=True)],
        [Fault(after=1, cut=b'data: {"choices": [{"text": "\xe6\x97'), Fault(after=2, cut=b'data: {"choices": \n\n')],
    ],
)
def test_what_a_fault_cuts_off_is_asked_for_anew(
    faults: list[Fault | None], url: str, plain: PlainServer, tiny_llama: LlamaForCausalLM
) -> None:
    plain.faults.extend(faults)
    assert complete(url, Completion(PROMPT, 12), timeout=1.0) == likeliest(tiny_llama, 12)
    assert not plain.faults
    for one in plain.asked:  # what has come is never asked for again
        assert one["max_tokens"] == 12 - (len(one["prompt"]) - len(PROMPT))


def test_a_server_that_keeps_failing_is_given_up(url: str, plain: PlainServer) -> None:
    plain.faults.extend([Fault(status=500)] * 3)
    with pytest.raises(RemoteError, match=r"has failed 3 times in a row.*not now"):
        complete(url, Completion(PROMPT, 12), attempts=3)


def test_a_server_that_gives_a_token_now_and_then_is_not(
    url: str, plain: PlainServer, tiny_llama: LlamaForCausalLM
) -> None:
    plain.faults.extend([Fault(after=1)] * 4)
    assert complete(url, Completion(PROMPT, 12), attempts=2) == likeliest(tiny_llama, 12)


def test_a_refusal_is_not_repeated(url: str, plain: PlainServer) -> None:
    with pytest.raises(RemoteError, match=r"refuses the request \(400\).*too long"):
        complete(url, Completion(PROMPT, 5000))
    assert len(plain.asked) == 1


@pytest.mark.parametrize("given", ["5", -1, 1.0, None, True, 10**30])
def test_what_is_no_token_id_is_refused(given: object, url: str, plain: PlainServer) -> None:
    plain.write = lambda ids, _: given  # type: ignore[assignment, return-value]
    with pytest.raises(RemoteError, match=r"/v1 gives \[.*\] for token ids; those are numbers from 0 on"):
        complete(url, Completion(PROMPT, 2))


def test_an_end_that_only_the_server_knows_is_named(tiny_llama: LlamaForCausalLM) -> None:
    class Ending(PlainServer):
        def stops(self, body: dict[str, Any]) -> list[int]:
            return [77]

    with (
        serving(Ending(lambda ids, _: 77 if len(ids) > 4 else 9).app) as url,
        pytest.raises(RemoteError, match="ended a completion behind the token 77, where by the tokenizer here nothing"),
    ):
        complete(url, Completion(PROMPT, 5, stop=(8,)))


class Listing(PlainServer):
    """Lists what it is told to list."""

    listed: bytes

    def _models(self) -> Any:
        return Response(self.listed, media_type="application/json")


LISTS = {
    b"<html>Log in</html>": "does not list its models as a completion server does",
    b'{"data": [': "does not list its models",
    b"[]": "does not list its models",
    b'{"data": ["tiny"]}': "does not list its models",
    b"{}": "does not know the model 'tiny'; it has none",
    json.dumps({"data": [{"id": MODEL, "max_model_len": "100"}]}).encode(): "'100' tokens, which is no number",
}


def test_an_address_that_is_another_ones(tiny_llama: LlamaForCausalLM) -> None:
    async def longest(url: str) -> None:
        server = CompletionServer([url], MODEL)
        try:
            await server.longest()
        finally:
            await server.close()

    plain = Listing(writing(tiny_llama))
    with serving(plain.app) as url:
        for plain.listed, said in LISTS.items():
            with pytest.raises(RemoteError, match=said):
                asyncio.run(longest(url))


def test_nobody_is_there() -> None:
    with pytest.raises(RemoteError, match=r"127\.0\.0\.1:9/v1 has failed 2 times"):
        complete("http://127.0.0.1:9/v1", Completion(PROMPT, 3), attempts=2)


def test_another_server_takes_over(url: str, tiny_llama: LlamaForCausalLM) -> None:
    async def collect() -> list[int]:
        server = CompletionServer(["http://127.0.0.1:9/v1", url], MODEL, attempts=3)
        try:
            return [token async for token in server.tokens(Completion(PROMPT, 6), first=0)]
        finally:
            await server.close()

    assert asyncio.run(collect()) == likeliest(tiny_llama, 6)


@pytest.mark.parametrize("after", [5, 6])
def test_behind_a_stop_nothing_is_asked(after: int, url: str, plain: PlainServer, tiny_llama: LlamaForCausalLM) -> None:
    """A stream may break off before or behind the token that stops it."""
    known = likeliest(tiny_llama, 12)
    plain.faults.append(Fault(after=after))
    assert complete(url, Completion(PROMPT, 12, stop=(known[5],))) == known[: known.index(known[5]) + 1]


@pytest.mark.parametrize("within", [(), (0,), (2, 3), (11,), (0, 11)])
def test_the_fields_of_llama_cpp(within: tuple[int, ...], tiny_llama: LlamaForCausalLM) -> None:
    """Tokens that its stream leaves out come all the same, each at its place."""
    known = likeliest(tiny_llama, 12)
    plain = PlainLlamaServer(writing(tiny_llama))
    plain.within = frozenset(known[place] for place in within)

    async def collect(url: str, asked: Completion) -> tuple[int | None, list[int]]:
        server = CompletionServer([url], MODEL, attempts=1)  # what is left out is no failure
        try:
            return await server.longest(), [token async for token in server.tokens(asked)]
        finally:
            await server.close()

    with serving(plain.app) as url:
        assert asyncio.run(collect(url, Completion(PROMPT, 12))) == (1024, known)
        stop = known[5]
        assert asyncio.run(collect(url, Completion(PROMPT, 12, stop=(stop,))))[1] == known[: known.index(stop) + 1]
