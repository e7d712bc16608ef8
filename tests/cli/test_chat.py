"""`pasta chat`: turns, commands, Ctrl-C and arrow keys, piped and in a real terminal."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from select import select
from time import monotonic

import pytest
from transformers import AutoTokenizer
from typer.testing import CliRunner

from pastalm import Engine
from pastalm.cli import app
from pastalm.cli.conversation import CommandError, Conversation

TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"
OPTIONS = {"mode": "sequential", "max_tokens": 5}
PATIENCE = 300  # seconds, for what a loaded machine takes to load a model


@pytest.fixture(scope="module")
def chat_dir(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a template that shows all turns."""
    place = tmp_path_factory.mktemp("chat")
    for file in model_dir.iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    tokenizer = AutoTokenizer.from_pretrained(place)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(place)
    return place


def test_a_piped_conversation(chat_dir: Path) -> None:
    engine = Engine.from_pretrained(str(chat_dir), "cpu", "float32")
    first = engine.generate([{"role": "user", "content": "hello"}], **OPTIONS).text
    turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": first}]
    second = engine.generate([*turns, {"role": "user", "content": "world"}], **OPTIONS).text
    lines = ["hello", "", "world", "/clear", "hello", "/promise-bias 9", "/nonsense", "/quit", "never asked"]
    flags = ["--model", str(chat_dir), "--mode", "sequential", "--max-tokens", "5", "--dtype", "float32"]
    done = CliRunner().invoke(app, ["chat", *flags], input="\n".join(lines))
    assert done.exit_code == 0 and done.stdout == f"{first}\n{second}\n{first}\n"
    assert "There is no command /nonsense" in done.stderr and "/promise-bias takes a number from -3 to 3" in done.stderr
    assert done.stderr.count("5 tokens, 1 threads, 5 steps on the critical path, cut by --max-tokens") == 3


def test_what_no_turn_could_do_is_refused_at_once(model_dir: Path) -> None:
    done = CliRunner().invoke(app, ["chat", "--model", str(model_dir)], input="hello\n")
    assert done.exit_code == 2 and "no chat template" in done.stderr and done.stderr.count("\n") == 1


def test_commands_change_the_settings() -> None:
    talk = Conversation({"promise_bias": 0.0, "mode": "async"}, [{"role": "user", "content": "x"}])
    assert talk.command("/promise-bias 1.5") == "The promise bias is 1.5." and talk.options["promise_bias"] == 1.5
    assert talk.command("/mode sequential") and talk.options["mode"] == "sequential"
    assert "/clear" in talk.command("/help")
    assert talk.command("/clear") and talk.messages == []
    assert talk.command("/quit") == "" and talk.ended
    for wrong in ("/promise-bias", "/promise-bias many", "/promise-bias nan", "/mode both", "/", "/x"):
        with pytest.raises(CommandError):
            talk.command(wrong)


def test_a_turn_that_fails_is_forgotten() -> None:
    talk = Conversation({})

    def refuse(*_: object) -> None:
        raise ValueError("too long")

    with pytest.raises(ValueError, match="too long"):
        talk.ask("hello", refuse)
    assert talk.messages == []


class Terminal:
    """The command in a terminal of its own."""

    def __init__(self, *flags: str) -> None:
        self.screen, inner = pty.openpty()
        command = [sys.executable, "-m", "pastalm", "chat", *flags]
        self.process = subprocess.Popen(
            command,
            stdin=inner,
            stdout=inner,
            stderr=inner,
            env={**os.environ, "TERM": "xterm"},
            start_new_session=True,
            # A run in the background ignores Ctrl-C, and so would what it starts.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        os.close(inner)
        self.shown = ""

    def wait_for(self, text: str) -> None:
        """Read until ``text`` is shown; what was shown before it is done with."""
        until = monotonic() + PATIENCE
        while text not in self.shown and monotonic() < until:
            if select([self.screen], [], [], 0.1)[0]:
                self.shown += os.read(self.screen, 4096).decode(errors="replace")
        before, found, self.shown = self.shown.partition(text)
        assert found, before

    def type(self, keys: str) -> None:
        os.write(self.screen, keys.encode())


@pytest.mark.slow
def test_in_a_terminal(chat_dir: Path) -> None:
    terminal = Terminal("--model", str(chat_dir), "--mode", "sequential", "--max-tokens", "900", "--dtype", "float32")
    try:
        terminal.wait_for("> ")
        terminal.type("hello\n")
        terminal.wait_for("writing")
        terminal.process.send_signal(2)
        terminal.wait_for("Stopped; the question is forgotten.")
        terminal.wait_for("> ")
        terminal.type("\x1b[A\n")  # the line before, once more
        terminal.wait_for("writing")
        terminal.process.send_signal(2)
        terminal.wait_for("Stopped; the question is forgotten.")
        terminal.wait_for("> ")
        terminal.type("\x04")
        assert terminal.process.wait(PATIENCE) == 0
    finally:
        terminal.process.kill()
