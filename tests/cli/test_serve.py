"""`pasta serve`: what it says, what it refuses, and how it ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import time
from contextlib import suppress
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import openai
import pytest
from typer.testing import CliRunner

from pastalm.cli import app
from tests.conftest import byte_level_tokenizer
from tests.processes import SECONDS, errors, output, pasta, start

runner = CliRunner()


def interruptible(*words: object) -> None:
    """`pasta` as a terminal starts it: a run in the background would ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    pasta(*words)


def served(out: Path, model_dir: Path, *more: str) -> tuple[ForkServerProcess, re.Match[str]]:
    """A server in a process of its own, and the line that says where it listens."""
    flags = ["--model", model_dir, "--name", "tiny", "--port", 0, "--mode", "sequential", "--api-key", "k", *more]
    server = start(out, interruptible, "serve", *flags)
    while not (out.exists() and "\n" in out.read_text()):
        assert server.is_alive(), output(out)
        time.sleep(0.02)
    line = re.fullmatch(r"Serving tiny at (http://127\.0\.0\.1:(\d+)/v1) \(Ctrl-C ends it\)\n", out.read_text())
    assert line
    return server, line


@pytest.mark.slow
@pytest.mark.parametrize("log", [True, False])
def test_it_serves_until_it_is_told_to_end(model_dir: Path, tmp_path: Path, log: bool) -> None:
    out = tmp_path / "out"
    server, line = served(out, model_dir, *([] if log else ["--no-access-log"]))
    client = openai.OpenAI(base_url=line[1], api_key="k", max_retries=0)
    asked = client.completions.create(model="tiny", prompt="hello", max_tokens=5)
    assert asked.usage.completion_tokens == 5
    server.terminate()
    server.join(SECONDS)
    error = errors(out).read_text()
    assert (server.exitcode, out.read_text()) == (0, line[0])
    assert error.count("\n") == log and ("POST /v1/completions 200" in error) == log


@pytest.mark.slow
def test_a_second_ctrl_c_ends_it_at_once_and_clients_are_told(model_dir: Path, tmp_path: Path) -> None:
    server, line = served(tmp_path / "out", model_dir)
    client = openai.OpenAI(base_url=line[1], api_key="k", max_retries=0)
    stream = client.completions.create(model="tiny", prompt="hello", max_tokens=4000, n=8, stream=True)
    next(stream)
    os.kill(server.pid, signal.SIGINT)
    with pytest.raises(ConnectionRefusedError):  # it waits for the answers now
        while True:
            with suppress(ConnectionResetError):  # of a connection that came in the moment of closing
                socket.create_connection(("127.0.0.1", int(line[2]))).close()
    os.kill(server.pid, signal.SIGINT)
    with pytest.raises(openai.APIError, match="The server is ending"):
        list(stream)
    server.join(SECONDS)
    assert server.exitcode == 130 and "Traceback" not in output(tmp_path / "out")


def test_a_port_in_use_is_one_sentence(model_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = runner.invoke(app, ["serve", "--model", str(model_dir), "--port", str(port)])
    assert done.exit_code == 2 and done.stderr.count("\n") == 1
    assert f"Cannot listen at 127.0.0.1, port {port}: address already in use; give another" in done.stderr


@pytest.mark.parametrize("package", ["fastapi", "uvicorn", "prometheus-client"])
def test_a_missing_extra_is_one_sentence(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package.replace("-", "_"), None)
    done = runner.invoke(app, ["serve"])
    assert done.exit_code == 2 and done.stderr.count("\n") == 1
    assert f"needs the package '{package}'" in done.stderr and 'pip install "pastalm[serve]"' in done.stderr


def test_a_model_that_is_not_there_is_one_sentence() -> None:
    done = runner.invoke(app, ["serve", "--model", "./nowhere", "--port", "0"])
    assert done.exit_code == 2 and done.stderr.startswith("There is no directory ./nowhere; give a directory")
    assert done.stderr.count("\n") == 1


def test_a_model_without_tags_is_served_sequentially_only(tmp_path: Path, model_dir: Path) -> None:
    byte_level_tokenizer().save_pretrained(tmp_path)
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((model_dir / name).read_bytes())
    done = runner.invoke(app, ["serve", "--model", str(tmp_path), "--port", "0"])
    assert done.exit_code == 2 and "--mode sequential" in done.stderr and done.stderr.count("\n") == 1


def test_a_model_is_named_once(model_dir: Path) -> None:
    done = runner.invoke(app, ["serve", "bundled", "--model", str(model_dir), "--port", "0"])
    assert done.exit_code == 2 and done.stderr == f"Give one model, not bundled and --model {model_dir}.\n"
    done = runner.invoke(app, ["serve", "./nowhere", "--port", "0"])
    assert done.exit_code == 2 and done.stderr.startswith("There is no directory ./nowhere")


def test_an_origin_is_one_sentence() -> None:
    done = runner.invoke(app, ["serve", "--cors", "example.org", "--port", "0"])
    assert done.exit_code == 2 and done.stderr.startswith("A web origin is written https://example.org or '*', not")


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_other_machines_need_a_key(host: str) -> None:
    done = runner.invoke(app, ["serve", "--host", host, "--port", "0"])
    assert done.exit_code == 2 and done.stderr.startswith(f"{host} can be reached from other machines")
    assert "--insecure" in done.stderr and done.stderr.count("\n") == 1
    for flag in (["--insecure"], ["--api-key", "k"]):
        done = runner.invoke(app, ["serve", "--model", "./nowhere", "--host", host, "--port", "0", *flag])
        assert "There is no directory" in done.stderr


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.2"])
def test_this_machine_needs_none(host: str) -> None:
    done = runner.invoke(app, ["serve", "--model", "./nowhere", "--host", host, "--port", "0"])
    assert "There is no directory" in done.stderr
