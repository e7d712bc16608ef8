"""`pasta bench` on a random model of a tiny shape."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from typer.testing import CliRunner, Result

from pastalm.cli import app

runner = CliRunner()
LINE = {
    "instruction": "say it",
    "annotated": "Well: <async topic='one'>this is one chunk of text</async> <async topic='two'>this is another"
    " chunk of text</async><sync/> That was all.",
}
SMALL = ("--threads", "1,2", "--sequences", "1,2", "--contexts", "16", "--repeats", "2", "--limit", "2")


def bench(*flags: object) -> Result:
    return runner.invoke(app, ["bench", *map(str, flags)])


def test_one_command_writes_one_report(tmp_path: Path) -> None:
    traces = tmp_path / "traces.jsonl"
    traces.write_text("\n".join(json.dumps(LINE) for _ in range(3)) + "\n")
    done = bench("--shape", "tiny", "--data", traces, "--out", tmp_path / "out", *SMALL)
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert [(one["sequences"], one["threads"]) for one in found["steps"]] == [(1, 1), (1, 2), (2, 1)]
    assert len(found["breakdown"]) == 3 and [one["sequences"] for one in found["load"]] == [1, 2]
    means, pairs = found["replay_means"], found["replay"]
    assert means["number"] == len(pairs) == 2 and pairs[0]["theoretical"] == pairs[1]["theoretical"]
    assert means["theoretical"] == pytest.approx(pairs[0]["theoretical"]) and means["realised"] > 0
    assert [one["name"] for one in found["peers"]] == ["transformers generate"]
    assert found["peers"][0]["tokens"] == [pair["tokens"] for pair in pairs]
    assert done.stdout.strip() == (tmp_path / "out" / "bench.md").read_text().strip()


def test_only_the_sections_that_are_wanted(tmp_path: Path) -> None:
    done = bench("--model", "bundled", "--only", "steps", "--json", "--out", tmp_path, *SMALL)
    found = json.loads(done.stdout)
    assert found["model"] == "bundled" and found["steps"]
    assert not (found["breakdown"] or found["replay"] or found["load"] or found["peers"])


class Broken(BaseHTTPRequestHandler):
    """A server that has a model and completes nothing."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"data": [{"id": "theirs"}]}')


def test_a_peer_that_fails_leaves_what_was_measured(tmp_path: Path) -> None:
    (tmp_path / "traces.jsonl").write_text(json.dumps(LINE) + "\n")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Broken)
    Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        flags = ("--shape", "tiny", "--only", "peers", "--peer-url", url, "--data", tmp_path / "traces.jsonl")
        done = bench(*flags, "--out", tmp_path)
    finally:
        server.shutdown()
        server.server_close()
    assert done.exit_code == 2 and "does not answer /completions" in done.stderr
    found = json.loads((tmp_path / "bench.json").read_text())
    assert found["replay"] and [one["name"] for one in found["peers"]] == ["transformers generate"]


@pytest.mark.parametrize(
    "flags, said",
    [
        (("--shape", "tiny", "--model", "bundled"), "not both"),
        (("--shape", "huge"), "Unknown shape 'huge'"),
        (("--only", "speed"), "Unknown section 'speed'"),
        (("--threads", "0,1"), "--threads are whole numbers"),
        (("--sequences", "many"), "--sequences are whole numbers"),
        (("--data", "no-such-file.jsonl"), "no-such-file.jsonl"),
        (("--only", "steps", "--gguf", "x.gguf"), "the section peers is not measured here"),
        (("--peer-url", "http://127.0.0.1:9/v1"), "does not answer /models"),
        (("--peer-url", "localhost"), "does not answer /models"),
    ],
)
def test_refusals_are_one_sentence(tmp_path: Path, flags: tuple[str, ...], said: str) -> None:
    done = bench(*flags, "--out", tmp_path)
    assert done.exit_code == 2 and said in done.stderr and done.stderr.count("\n") == 1
