"""`pasta serve`: a model behind an OpenAI-compatible HTTP server."""

from __future__ import annotations

import logging
import signal
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import typer

from pastalm.cli.models import hush, load_engine, name_of
from pastalm.cli.options import (
    BUNDLED,
    Compile,
    DecodingMode,
    Device,
    DType,
    MaxBatch,
    MaxModelLen,
    MaxTokens,
    Model,
    Name,
    Quantize,
    Remote,
    TrustRemoteCode,
    name_argument,
)
from pastalm.runtime.mode import Mode

if TYPE_CHECKING:
    from socket import socket

    from pastalm.runtime.engine import Engine
    from pastalm.serving.server import Server

NEEDED = {"fastapi": "fastapi", "uvicorn": "uvicorn", "prometheus_client": "prometheus-client"}


class ServeError(ValueError):
    """What keeps a model from being served, and what to do."""


def serve(
    model_argument: Annotated[str | None, name_argument("The same as --model.", "MODEL")] = None,
    model: Model = "",
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="The address to listen at; 0.0.0.0 is every one of this machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = 8000,
    max_batch: MaxBatch = 8,
    max_waiting: Annotated[int, typer.Option(min=0, help="Requests in line; those beyond are turned away.")] = 256,
    max_batch_threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="The most threads in a step, of all requests; each has one in any case. Default: measured.",
        ),
    ] = None,
    max_tokens: MaxTokens = 1024,
    mode: DecodingMode = Mode.ASYNC,
    max_model_len: MaxModelLen = 4096,
    name: Name = "",
    api_key: Annotated[
        str,
        typer.Option(
            metavar="KEY", envvar="PASTA_API_KEY", help="The key that clients must send. Default: none is asked for."
        ),
    ] = "",
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen at other addresses than this machine's own without a key.")
    ] = False,
    cors: Annotated[
        list[str] | None,
        typer.Option(metavar="ORIGIN", help="A web origin whose pages may ask, or '*'; may be given several times."),
    ] = None,
    access_log: Annotated[bool, typer.Option(help="Log each request, one line on stderr.")] = True,
    device: Device = "auto",
    dtype: DType = "auto",
    trust_remote_code: TrustRemoteCode = False,
    remote: Remote = None,
    compile: Compile = False,
    quantize: Quantize = None,
) -> None:
    """Serve a model over HTTP, to any client of the OpenAI protocol.

    Requests of many clients are decoded together, each with its threads. --max-tokens and --mode hold where a request
    does not say. Whoever reaches the address may ask, so one beyond this machine needs --api-key or --insecure. Ctrl-C
    ends it.
    """
    _require_extra()
    hush()  # before the first import of a library that has bars
    model = _one_model(model_argument, model)
    if remote and max_batch_threads:
        raise ServeError("--max-batch-threads is about a model here, not about one behind --remote: leave it out.")
    from pastalm.serving.config import ServerConfig
    from pastalm.serving.server import bind, is_loopback

    config = ServerConfig(name or name_of(model), api_key, max_tokens, mode.value, tuple(cors or ()), access_log)
    with bind(host, port) as bound:
        if not (api_key or insecure or is_loopback(bound)):
            raise ServeError(
                f"{host} can be reached from other machines, and anyone there could ask: give --api-key, or --insecure "
                "if that is meant."
            )
        engine = load_engine(
            *(model, device, dtype, remote),
            trust_remote_code=trust_remote_code,
            max_model_len=max_model_len,
            compile=compile,
            quantize=quantize,
        )
        _require_mode(engine, model, mode)
        from pastalm.runtime.batch_threads import useful_threads
        from pastalm.serving.app import build_app
        from pastalm.serving.metrics import ServerMetrics
        from pastalm.serving.server import Server
        from pastalm.serving.worker import Worker

        worker = Worker(
            engine,
            max_batch=max_batch,
            max_waiting=max_waiting,
            max_batch_threads=max_batch_threads or (None if remote else useful_threads(engine.runner, max_batch)),
            metrics=ServerMetrics(config.name),
        )
        where = f"http://{f'[{host}]' if ':' in host else host}:{bound.getsockname()[1]}/v1"
        line = f"Serving {config.name} at {where} (Ctrl-C ends it)"
        server = Server(build_app(worker, config), worker, lambda: typer.echo(line))
        _run(server, bound)


def _run(server: Server, bound: socket) -> None:
    """Serve at a socket until the server is told to end."""
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    logging.getLogger("pastalm").setLevel(logging.INFO)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # uvicorn, once it has ended well, raises it again
    server.run([bound])


def _one_model(argument: str | None, option: str) -> str:
    if argument and option and argument != option:
        raise ServeError(f"Give one model, not {argument} and --model {option}.")
    return argument or option or BUNDLED


def _require_extra() -> None:
    missing = next((package for module, package in NEEDED.items() if find_spec(module) is None), None)
    if missing:
        raise ServeError(f'Serving needs the package {missing!r}: install it with  pip install "pastalm[serve]"')


def _require_mode(engine: Engine, model: str, mode: Mode) -> None:
    """Refuse at once what every request would be refused."""
    if mode is Mode.ASYNC and engine.vocabulary is None:
        raise ServeError(
            f"{model} does not know PASTA's tags, so it cannot mark chunks; serve it with --mode sequential, or train "
            "it with `pasta train sft`."
        )
