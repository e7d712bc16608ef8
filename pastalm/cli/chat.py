"""`pasta chat`: a conversation in the terminal, the threads of each answer side by side while they are written."""

from __future__ import annotations

import sys
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.console import Console

from pastalm.cli.answers import print_answer
from pastalm.cli.conversation import HELP, Conversation
from pastalm.cli.errors import complain, expected, sentence
from pastalm.cli.live import watch
from pastalm.cli.models import load_engine, name_of
from pastalm.cli.options import (
    BUNDLED,
    AnswerTemperature,
    DecodingMode,
    Device,
    DType,
    MaxTokens,
    Model,
    PromiseBias,
    Remote,
    Seed,
    TopP,
    TrustRemoteCode,
)
from pastalm.runtime.mode import Mode

if TYPE_CHECKING:
    from pastalm.runtime.engine import Engine
    from pastalm.runtime.response import Response

PROMPT = "> "


def chat(
    model: Model = BUNDLED,
    mode: DecodingMode = Mode.ASYNC,
    max_tokens: MaxTokens = 1024,
    temperature: AnswerTemperature = None,
    top_p: TopP = None,
    seed: Seed = 0,
    promise_bias: PromiseBias = 0.0,
    device: Device = "auto",
    dtype: DType = "auto",
    trust_remote_code: TrustRemoteCode = False,
    remote: Remote = None,
) -> None:
    """Talk with a model. /help shows the commands; Ctrl-C stops an answer, Ctrl-D ends the conversation.

    Answers go to stdout, all else to stderr, so a conversation can be piped in and out.
    """
    engine = load_engine(model, device, dtype, remote, trust_remote_code=trust_remote_code)
    options: dict[str, Any] = {"mode": mode.value, "max_tokens": max_tokens, "temperature": temperature}
    talk = Conversation({**options, "top_p": top_p, "seed": seed, "promise_bias": promise_bias})
    engine.request([{"role": "user", "content": "hello"}], **talk.options)  # what no turn could do is refused at once
    with suppress(ImportError):  # not there on every system; where it is, lines have a history and arrow keys
        import readline  # noqa: F401
    _say(f"Talking with {name_of(model)}.\n{HELP}")
    while not talk.ended:
        try:
            line = input(PROMPT if sys.stdin.isatty() else "")
        except EOFError:
            break
        except KeyboardInterrupt:
            _say("\nCtrl-D ends the conversation.")
            continue
        if line.strip():
            _take(talk, line, engine)


def _take(talk: Conversation, line: str, engine: Engine) -> None:
    """One line: a command or a turn. What is wrong with it is said, and the conversation goes on."""
    try:
        if line.startswith("/"):
            _say(talk.command(line))
        else:
            _say(_figures(talk.ask(line, partial(_answer, engine))))
    except KeyboardInterrupt:
        _say("\nStopped; the question is forgotten.")
    except ValueError as error:
        if not expected(error):
            raise
        complain(sentence(error))


def _answer(engine: Engine, messages: list[dict[str, str]], options: dict[str, Any]) -> Response:
    console = Console()
    drawn = console.is_terminal and not console.is_dumb_terminal
    response = watch(engine, messages, options, console) if drawn else engine.generate(messages, **options)
    print_answer(response.text)
    return response


def _figures(response: Response) -> str:
    metrics = response.metrics
    cut = ", cut by --max-tokens" if response.finish_reason == "length" else ""
    threads = len(response.threads)
    return f"[{metrics.tokens} tokens, {threads} threads, {metrics.critical_path} steps on the critical path{cut}]"


def _say(text: str) -> None:
    if text:
        Console(stderr=True, highlight=False).print(text, style="dim", soft_wrap=True, markup=False)
