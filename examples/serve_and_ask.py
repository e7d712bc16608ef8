"""Start a server and ask it with OpenAI's client: `python examples/serve_and_ask.py`.

It needs `pip install '.[serve]' openai`.
"""

import re
import subprocess
import sys

from openai import OpenAI

PROMPT = "Spell these words backwards: river, stone, cloud, bread, paper."


def main() -> None:
    """Stream an answer, then ask for its figures. The server takes a free port and ends with this program."""
    command = [sys.executable, "-m", "pastalm", "serve", "--port", "0", "--no-access-log"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            address = re.search(r"http://\S+", server.stdout.readline())
            if address is None:
                raise SystemExit("The server did not start.")
            ask(OpenAI(base_url=address[0], api_key="none"))
        finally:
            server.terminate()


def ask(client: OpenAI) -> None:
    """Ask the same prompt twice: as a stream, and as a whole answer with PASTA's own fields."""
    messages = [{"role": "user", "content": PROMPT}]
    for piece in client.chat.completions.create(model="bundled", messages=messages, max_tokens=400, stream=True):
        print(piece.choices[0].delta.content or "", end="", flush=True)
    extra = {"mode": "async", "annotated": True}
    answer = client.chat.completions.create(model="bundled", messages=messages, max_tokens=400, extra_body=extra)
    print()
    print(f"{answer.usage.completion_tokens} tokens in {answer.pasta['critical_path']} steps")
    print(answer.pasta["annotated"])


if __name__ == "__main__":
    main()
