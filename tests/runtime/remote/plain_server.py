"""A plain completion server for tests, over real HTTP with the fields of vLLM, and with faults on order. What it writes
comes from a small model, or from known answers as a model trained for their views would write them."""

from __future__ import annotations

import asyncio
import json
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
    tokens, or it is silent from there on (``stall``)."""

    status: int = 0
    after: int = -1
    stall: bool = False
    headers: dict[str, str] = field(default_factory=dict)


class PlainServer:
    """Knows causal sequences alone. ``asked`` are the bodies it was sent; ``faults`` are used up one a request."""

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
        card = {"id": MODEL, "object": "model", "created": 0, "owned_by": "tests", "max_model_len": self.longest}
        return {"object": "list", "data": [card]}

    async def _complete(self, request: Request) -> Any:
        body = await request.json()
        self.asked.append(body)
        fault = (self.faults.popleft() if self.faults else None) or Fault()
        if fault.status:
            return JSONResponse({"error": {"message": "not now"}}, fault.status, fault.headers)
        if len(body["prompt"]) + body["max_tokens"] > self.longest:
            return JSONResponse({"error": {"message": "too long"}}, 400)
        return StreamingResponse(self._stream(body, fault), media_type="text/event-stream")

    async def _stream(self, body: dict[str, Any], fault: Fault) -> AsyncIterator[str]:
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            ids = list(body["prompt"])
            for number in range(body["max_tokens"]):
                if number == fault.after:
                    if fault.stall:
                        await asyncio.sleep(30)
                    return
                token = await asyncio.to_thread(self.write, ids, body)
                ids.append(token)
                stopped = token in body["stop_token_ids"]
                last = stopped or number + 1 == body["max_tokens"]
                reason = ("stop" if stopped else "length") if last else None
                choice = {"index": 0, "text": "?", "logprobs": None, "finish_reason": reason, "token_ids": [token]}
                chunk = {"id": "c", "object": "text_completion", "created": 0, "model": MODEL, "choices": [choice]}
                yield f"data: {json.dumps(chunk)}\n\n"
                if stopped:
                    break
            yield "data: [DONE]\n\n"
        finally:
            self.open -= 1


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
