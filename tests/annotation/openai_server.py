"""A real HTTP server on loopback that speaks the OpenAI protocol: it annotates by rules, and misbehaves when told."""

from __future__ import annotations

import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ITEM = re.compile(r"^- (\S+(?: \S+){4,})$", re.MULTILINE)
TASK = re.compile(r"<answer>\n(.*)\n</answer>", re.DOTALL)


def marked(answer: str) -> str:
    """The rule: a list item of five words and more is a chunk; a last paragraph that begins with 'So' needs them."""
    numbers = iter(range(1, 100))
    text = ITEM.sub(lambda item: f"- <async topic='item {next(numbers)}'>{item[1]}</async>", answer)
    return text.replace("\n\nSo ", "<sync/>\n\nSo ") if "<async" in text else text


@dataclass(frozen=True)
class Ask:
    """One request as it came in."""

    answer: str
    nth: int  # how often this answer has been asked, from 1
    body: dict[str, Any]
    authorization: str
    at: float


Plan = Callable[[str, int], str]


@dataclass
class Desk:
    """What the server does and has seen. ``plan`` says from an answer and how often it was asked what to do."""

    plan: Plan = lambda answer, nth: "good"
    retry_after: str | None = None
    error: dict[str, Any] | None = None  # the body of an error, in the place of what it was told to say
    latency: float = 0.0
    asks: list[Ask] = field(default_factory=list)
    url: str = ""
    _counts: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, body: dict[str, Any], authorization: str) -> tuple[str, str]:
        """Log a request; what is asked, and what to do."""
        users = [message["content"] for message in body["messages"] if message["role"] == "user"]
        answer = next(found[1] for text in reversed(users) if (found := TASK.search(text)))
        with self._lock:
            self._counts[answer] += 1
            nth = self._counts[answer]
            self.asks.append(Ask(answer, nth, body, authorization, time.time()))
        return answer, self.plan(answer, nth)


def _completion(text: str, finish: str = "stop") -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    usage = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
    reply = {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    return json.dumps(reply).encode()


REPLIES: dict[str, Callable[[str], bytes]] = {
    "good": lambda answer: _completion(marked(answer)),
    "stripped": lambda answer: _completion(marked(answer).strip() + "\n"),
    "fenced": lambda answer: _completion(f"```xml\n{marked(answer)}\n```"),
    "announced": lambda answer: _completion(f"Here it is:\n\n```\n{marked(answer)}\n```\n"),
    "thought": lambda answer: _completion(f"<think>Is it parallel? <async> fits.</think>\n\n{marked(answer)}"),
    "half thought": lambda answer: _completion(f"Is it parallel?\n</think>\n```\n{marked(answer)}\n```"),
    "tagged": lambda answer: _completion(f"<answer>\n{marked(answer)}\n</answer>"),
    "changed": lambda answer: _completion(marked(answer).replace("words", "wards", 1)),
    "unclosed": lambda answer: _completion("<async topic='x'>" + answer),
    "long topic": lambda answer: _completion(f"<async topic='one two three four'>{answer}</async>"),
    "short chunk": lambda answer: _completion("<async topic='x'>" + answer[:4] + "</async>" + answer[4:]),
    "overlap": lambda answer: _completion(f"<async topic='x'>{answer}<async topic='y'></async></async>"),
    "idle sync": lambda answer: _completion("<sync/>" + answer),
    "length": lambda answer: _completion(marked(answer)[:10], "length"),
    "empty": lambda answer: _completion(""),
    "malformed": lambda answer: b'{"choices": [',
    "not the protocol": lambda answer: b'{"choices": []}',
}


def _handler(desk: Desk) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *_: Any) -> None:
            """Keep the tests' output clean."""

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.path == "/v1/chat/completions"
            answer, what = desk.take(body, self.headers["Authorization"])
            time.sleep(random.uniform(0, desk.latency))
            if what[:3].isdigit():
                error = desk.error or {"error": {"message": f"told to say {what}"}}
                return self._send(int(what[:3]), json.dumps(error).encode())
            if what.startswith("refuses "):  # as OpenAI does: the field is named in the message and in 'param'
                name = what.removeprefix("refuses ")
                if name in body:
                    error = {"message": f"Unsupported value: '{name}' does not support it.", "param": name}
                    return self._send(400, json.dumps({"error": error}).encode())
            if what == "quota":
                error = {"message": "nothing left", "code": "insufficient_quota"}
                return self._send(429, json.dumps({"error": error}).encode())
            if what == "hang":
                time.sleep(3.0)
            if what == "trickle":
                return self._trickle()
            reply = REPLIES.get(what, REPLIES["good"])(answer)
            return self._send(200, reply, promised=len(reply) + (50 if what == "truncated" else 0))

        def _send(self, status: int, body: bytes, promised: int | None = None) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(promised or len(body)))
            if status == 429 and desk.retry_after is not None:
                self.send_header("Retry-After", desk.retry_after)
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = promised is not None and promised > len(body)

        def _trickle(self) -> None:
            """A byte now and then: no single read is slow, but the reply never ends."""
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            for _ in range(60):
                self.wfile.write(b" ")
                self.wfile.flush()
                time.sleep(0.05)
            self.close_connection = True

    return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed or gave up is what the tests are about."""


@contextmanager
def serving(desk: Desk) -> Iterator[Desk]:
    """The server, while the block runs; ``desk.url`` is its base URL."""
    server = _Server(("127.0.0.1", 0), _handler(desk))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    desk.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield desk
    finally:
        server.shutdown()
        server.server_close()
