"""A plain completion server for tests, over real HTTP with the fields of vLLM, and with faults on order. What it writes
comes from a small model, or from known answers as a model trained for their views would write them."""

from __future__ import annotations

import asyncio
import json
import socket
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from threading import Thread
from time import sleep
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from transformers import PreTrainedModel

from pastalm.lang.script import Script
from pastalm.views import ROOT, view_layout

MODEL = "tiny"
Writer = Callable[[Sequence[int], Mapping[str, Any]], int]  # prompt, and body of the request, to the next token


def writing(model: PreTrainedModel) -> Writer:
    """The tokens of a small model, with the attention that transformers gives it."""
    model = deepcopy(model)
    model.set_attn_implementation("sdpa")

    @torch.inference_mode()
    def write(ids: Sequence[int], body: Mapping[str, Any]) -> int:
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1].clone()
        for token, nats in (body.get("logit_bias") or {}).items():
            logits[int(token)] += nats
        if not body.get("temperature"):
            return int(logits.argmax())
        draws = torch.Generator().manual_seed(body["seed"] + len(ids))
        return int((logits / body["temperature"]).softmax(-1).multinomial(1, generator=draws))

    return write


def knowing(*answers: tuple[Sequence[int], Script]) -> Writer:
    """The next token of known answers to known prompts; ``KeyError`` behind a prompt that is no view of one."""
    known: dict[tuple[int, ...], int] = {}
    for prompt, script in answers:
        laid = view_layout(prompt, script)
        paths: list[tuple[int, ...]] = []
        for token, parent, target in zip(laid.tokens.tolist(), laid.parents.tolist(), laid.targets.tolist()):
            paths.append((*(paths[parent] if parent != ROOT else ()), token))
            known[paths[-1]] = target
    return lambda ids, _: known[tuple(ids)]


@dataclass
class Fault:
    """What goes wrong with one request: ``status`` is answered at once, or the stream is dropped ``after`` so many
    tokens, behind the bytes of ``cut``, or it is silent from there on (``stall``)."""

    status: int = 0
    after: int = -1
    stall: bool = False
    cut: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


class PlainServer:
    """Knows causal sequences alone. ``asked`` are the bodies it was sent; ``faults`` are used up one a request."""

    owner = "tests"

    def __init__(self, write: Writer, longest: int = 1024) -> None:
        self.write, self.longest = write, longest
        self.asked: list[dict[str, Any]] = []
        self.faults: deque[Fault | None] = deque()
        self.open = 0  # streams that are being read
        self.most_open = 0
        self.app = FastAPI()
        self.app.get("/v1/models")(self._models)
        self.app.post("/v1/completions")(self._complete)

    def _models(self) -> dict[str, Any]:
        card = {"id": MODEL, "object": "model", "created": 0, "owned_by": self.owner, **self.limit()}
        return {"object": "list", "data": [card]}

    async def _complete(self, request: Request) -> Any:
        body = await request.json()
        self.asked.append(body)
        fault = (self.faults.popleft() if self.faults else None) or Fault()
        if fault.status:
            return JSONResponse({"error": {"message": "not now"}}, fault.status, fault.headers)
        if len(body["prompt"]) + body["max_tokens"] > self.longest:
            return JSONResponse({"error": {"message": "too long"}}, 400)
        if body.get("stream"):
            return StreamingResponse(self._stream(body, fault), media_type="text/event-stream")
        return [piece async for piece in self._pieces(body, fault)][-1]

    async def _stream(self, body: dict[str, Any], fault: Fault) -> AsyncIterator[str | bytes]:
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            async with aclosing(self._pieces(body, fault)) as pieces:
                async for piece in pieces:
                    yield f"data: {json.dumps(piece)}\n\n"
                    if piece["choices"][0]["finish_reason"]:
                        yield "data: [DONE]\n\n"
            yield fault.cut
        finally:
            self.open -= 1

    async def _pieces(self, body: dict[str, Any], fault: Fault) -> AsyncGenerator[dict[str, Any]]:
        ids = list(body["prompt"])
        for number in range(body["max_tokens"]):
            if number == fault.after:
                if fault.stall:
                    await asyncio.sleep(30)
                return
            ids.append(await asyncio.to_thread(self.write, ids, body))
            stopped = ids[-1] in self.stops(body)
            reason = "stop" if stopped else "length" if number + 1 == body["max_tokens"] else None
            piece = self.piece(ids[len(body["prompt"]) :], reason, bool(body.get("stream")))
            if piece:
                yield piece
            if stopped:
                return

    def limit(self) -> dict[str, Any]:
        """What the model's card says of the longest answer."""
        return {"max_model_len": self.longest}

    def stops(self, body: dict[str, Any]) -> list[int]:
        """The ids to stop at."""
        return body["stop_token_ids"]

    def piece(self, written: list[int], reason: str | None, stream: bool) -> dict[str, Any] | None:
        """What is answered when these tokens are written: of a stream the last one, or nothing."""
        choice = {"index": 0, "text": "?", "logprobs": None, "finish_reason": reason, "token_ids": written[-1:]}
        return {"id": "c", "object": "text_completion", "created": 0, "model": MODEL, "choices": [choice]}


class PlainLlamaServer(PlainServer):
    """As llama.cpp's server has it: ids beside the choice, no ids to stop at, and in a stream no word of the tokens of
    ``within``, which end within a character."""

    owner = "llamacpp"
    within: frozenset[int] = frozenset()

    def limit(self) -> dict[str, Any]:
        return {"meta": {"n_ctx": self.longest}}

    def stops(self, body: dict[str, Any]) -> list[int]:
        assert "stop_token_ids" not in body and body["return_tokens"] and body["verbose"]
        return []

    def piece(self, written: list[int], reason: str | None, stream: bool) -> dict[str, Any] | None:
        if stream and written[-1] in self.within and reason is None:
            return None
        silent = stream and written[-1] in self.within
        choice = {"index": 0, "text": "?", "logprobs": None, "finish_reason": reason}
        tokens = [] if silent else written[-1:] if stream else written
        beside = {"tokens": tokens, "tokens_predicted": len(written)}
        same = {"id": "c", "object": "text_completion", "created": 0, "model": MODEL}
        return {**same, "choices": [choice], "__verbose": beside}


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """Run an app on a free port; gives its base URL."""
    with socket.create_server(("127.0.0.1", 0)) as bound:
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
        thread = Thread(target=server.run, args=([bound],), daemon=True)
        thread.start()
        while not server.started:
            sleep(0.01)
        try:
            yield f"http://127.0.0.1:{bound.getsockname()[1]}/v1"
        finally:
            server.should_exit = server.force_exit = True
            thread.join()
