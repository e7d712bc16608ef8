"""A stand-in for a large model behind an endpoint: annotates generated tasks, whose annotations it knows.

    pasta tasks --number 200 --out tasks.jsonl
    python -m bench.stand_in tasks.jsonl --port 8123
    pasta annotate tasks.jsonl annotated.jsonl --model stand-in --base-url http://127.0.0.1:8123/v1

A real HTTP server on loopback that speaks `/v1/chat/completions` and `/v1/models` of the OpenAI protocol. It looks the
answer in the request up among the tasks and returns it with its marks; an answer that it does not know comes back
unmarked. So the whole path can be walked without a key, a bill or a network; what a real model gets wrong, it does not.
"""

from __future__ import annotations

import argparse
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ANSWER = re.compile(r"<answer>\n(.*)\n</answer>", re.DOTALL)  # how pastalm/annotation/prompts.py asks
MODEL = "stand-in"


def known(path: Path) -> dict[str, str]:
    """Answers of a task file, each with its annotation."""
    with path.open(encoding="utf-8") as lines:
        tasks = [json.loads(line) for line in lines if line.strip()]
    return {task["answer"].strip(): task["annotated"].strip() for task in tasks}


def reply(body: dict[str, Any], annotations: dict[str, str]) -> dict[str, Any]:
    """The completion of a request to annotate. Raises ``ValueError`` if it holds no answer."""
    asked = [message["content"] for message in body.get("messages", []) if message.get("role") == "user"]
    found = [match[1].strip() for text in asked if (match := ANSWER.search(text))]
    if not found:
        raise ValueError("No message of the user holds an answer between <answer> and </answer>.")
    text = annotations.get(found[-1], found[-1])
    usage = {"prompt_tokens": sum(len(one.split()) for one in asked), "completion_tokens": len(text.split())}
    return {
        "id": "stand-in",
        "object": "chat.completion",
        "created": 0,
        "model": MODEL,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {**usage, "total_tokens": sum(usage.values())},
    }


def server(annotations: dict[str, str], port: int) -> ThreadingHTTPServer:
    """A server on loopback; port 0 takes a free one."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            if self.path == "/v1/models":
                self._send(200, {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "pasta"}]})
            else:
                self._send(404, {"error": {"message": f"There is no {self.path} here."}})

        def do_POST(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.path != "/v1/chat/completions":
                return self._send(404, {"error": {"message": f"There is no {self.path} here."}})
            try:
                return self._send(200, reply(json.loads(sent), annotations))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                return self._send(400, {"error": {"message": str(error)}})

        def _send(self, status: int, fields: dict[str, Any]) -> None:
            body = json.dumps(fields).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", type=Path, help="what `pasta tasks` wrote")
    parser.add_argument("--port", type=int, default=8123)
    options = parser.parse_args()
    with server(known(options.tasks), options.port) as running:
        print(f"http://127.0.0.1:{running.server_address[1]}/v1", flush=True)
        try:
            running.serve_forever()
        except KeyboardInterrupt:
            print("Stopped.")


if __name__ == "__main__":
    main()
