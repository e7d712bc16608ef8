"""Processes of their own for tests, to be killed or to be several: forks of one that has imported what they need, which
takes each of them ten seconds otherwise."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env

SECONDS = 500
PLAIN = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}  # a core a process, no GPU
_forks = get_context("forkserver")
_forks.set_forkserver_preload(["tests.training.prefer_model"])


def environment() -> dict[str, str]:
    """That of a process: the project on the path, a core, no GPU."""
    return {**os.environ, **PLAIN, "PYTHONPATH": str(Path(__file__).parents[1])}


def start(log: Path, function: Callable[..., Any], *arguments: Any, **more: str) -> ForkServerProcess:
    """Call a function of a module in a process of its own; its stdout goes to ``log``."""
    asked = (str(log), environment() | more, function, arguments)
    process = _forks.Process(target=_call, args=asked, daemon=True)
    process.start()
    return process


def launch(flags: list[str], log: Path, function: Callable[..., Any], *arguments: Any) -> None:
    """Call it in two processes that know of each other, and wait until they have ended well."""
    finish(log, *start_two(flags, log, function, *arguments))


def start_two(flags: list[str], log: Path, function: Callable[..., Any], *arguments: Any) -> list[ForkServerProcess]:
    """Call it in two processes that know of each other, as `accelerate launch` starts two with these flags."""
    parser = launch_command_parser()
    asked = ["--num_processes", "2", "--main_process_port", "0", *flags, "script"]
    found = _validate_launch_command(parser.parse_args(asked))[0]
    shared = prepare_multi_gpu_env(found)
    shared |= {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(found.main_process_port)}
    ranks = ({**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2))
    return [start(log, function, *arguments, **rank) for rank in ranks]


def finish(log: Path, *processes: ForkServerProcess) -> None:
    """Wait until they have ended well."""
    for process in processes:
        process.join(SECONDS)
        assert process.exitcode == 0, output(log)


def output(log: Path) -> str:
    """The end of both streams of processes."""
    return "".join(file.read_text()[-3000:] for file in (log, errors(log)) if file.exists())


def errors(log: Path) -> Path:
    """Where their stderr goes."""
    return log.with_name(f"{log.name}.stderr")


def pasta(*words: object) -> None:
    """`pasta` with these words."""
    from pastalm.cli import app

    app([str(word) for word in words])


def _call(log: str, environment: Mapping[str, str], function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    for stream, file in ((1, Path(log)), (2, errors(Path(log)))):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    os.environ.clear()
    os.environ.update(environment)
    function(*arguments)
