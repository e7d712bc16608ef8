"""All flags of all commands: one meaning each, and every path expanded where it enters."""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from pastalm.cli import app
from pastalm.cli.errors import RESUMED, as_typed
from pastalm.cli.flags import with_flags
from pastalm.cli.models import name_of
from pastalm.cli.options import as_path, expanded

runner = CliRunner()
PLACES = {
    "PATH",
    "FOLDER",
    "MODEL",
    "DATA",
    "FILE",
    "FOLDER...",
    "IN",
    "OUT",
    "PROMPTS",
    "REPORT",
}  # metavars of what may be a path
# Texts that are no paths. A new flag of this kind is added here by hand, so that no path is overlooked.
TEXTS = {
    "--api-key", "--contexts", "--only", "--peer-url", "--sequences", "--shape", "--threads", "--base-url",
    "--device", "--dtype", "--families", "--field", "--form", "--from", "--host", "--judge-key-env", "--judge-model",
    "--judge-url", "--key-env", "--lora-targets", "--loss", "--name", "--positions", "--promise-biases", "--quality",
    "--quantize", "--snapshots", "--speed-term", "--split", "--to", "--views", "NAME", "PROMPT",
}  # fmt: skip
# Flags that mean the same in two commands although their sentences differ in more than their ends.
EXCUSED = {
    ("annotate", "--model"),  # the endpoint knows this model, we do not: the word is that of every OpenAI client
    ("train prefer", "--data"),  # stage 1 takes annotated answers, stage 2 prompts
}


def commands() -> Iterator[tuple[str, Any]]:
    group = typer.main.get_command(app)
    stack = [("", group)]
    while stack:
        name, command = stack.pop()
        children = getattr(command, "commands", {})
        stack += [(f"{name} {child}".strip(), under) for child, under in children.items()]
        if not children:
            yield name, command


def params() -> Iterator[tuple[str, Any, str]]:
    """Every parameter: its command, itself, and how it is typed."""
    for name, command in commands():
        for param in command.params:
            option = param.param_type_name == "option"
            yield name, param, param.opts[0] if option else (param.metavar or param.name.upper())


ALL = list(params())


def kind(param: Any) -> str:
    annotation = param.type_descriptor.annotation
    if param.metavar in PLACES:
        return "place"
    if isinstance(annotation, type) and issubclass(annotation, str) and not issubclass(annotation, Enum):
        return f"text {param.metavar or ''}"
    return f"{getattr(annotation, '__name__', annotation)} {param.metavar or ''}"


def beginning(help: str) -> str:
    """The words that say what a flag is: the first two."""
    return " ".join(re.findall(r"\w[\w'-]*", help)[:2])


def test_there_is_every_command() -> None:
    assert {name for name, _ in commands()} >= {"run", "serve", "eval", "train sft", "train prefer", "baseline apar"}


def test_a_flag_has_one_type_one_metavar_and_one_meaning() -> None:
    found: dict[str, dict[tuple[str, str], list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, param, typed in ALL:
        if typed.startswith("--") and (name, typed) not in EXCUSED:
            found[typed][kind(param), beginning(param.help or "")].append(name)
    several = {typed: dict(meanings) for typed, meanings in found.items() if len(meanings) > 1}
    assert not several


def test_every_flag_has_a_sentence() -> None:
    assert not [(name, typed) for name, param, typed in ALL if not (param.help or "").endswith((".", "?"))]


def test_a_shared_sentence_is_true_of_its_command() -> None:
    with_model = {name for name, _, typed in ALL if typed == "--model"}
    for name, param, typed in ALL:
        assert "the model's own" not in (param.help or "") or name in with_model, (name, typed)
        assert "an interrupted run goes on" not in (param.help or "") or name.split()[0] in RESUMED, (name, typed)


def test_a_text_is_a_path_or_known_not_to_be_one() -> None:
    texts = {(name, typed) for name, param, typed in ALL if kind(param).startswith("text")}
    assert not {(name, typed) for name, typed in texts if typed not in TEXTS and (name, typed) not in EXCUSED}
    assert not [(name, typed) for name, param, typed in ALL if "Path" in kind(param)]


@pytest.mark.parametrize("name, typed", [(name, typed) for name, param, typed in ALL if kind(param) == "place"])
def test_a_path_is_expanded_where_it_enters(name: str, typed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/of-mine")
    (param,) = [param for verb, param, called in ALL if (verb, called) == (name, typed)]
    parser = param.type_descriptor.parameter_info.parser
    assert parser in (expanded, as_path)
    assert str(parser("~/x/y")) == "/home/of-mine/x/y" and str(parser("a/~/$HOME")) == "a/~/$HOME"
    assert str(parser("~no-such-user/x")) == "~no-such-user/x" and parser(parser("~/x")) == parser("~/x")


def test_what_a_command_gets_of_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    done = runner.invoke(app, ["tasks", "--number", "1", "--out=~/x.jsonl"])
    assert done.exit_code == 0 and (tmp_path / "x.jsonl").exists() and not (tmp_path / "~").exists()
    assert runner.invoke(app, ["check", "~/x.jsonl"]).exit_code == 0


def test_the_flags_of_a_config_are_paths_too(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclasses.dataclass(frozen=True)
    class Config:
        model: str
        out: str = ""
        row: int = 3

    monkeypatch.setenv("HOME", "/home/of-mine")
    seen: list[Config] = []
    small = typer.Typer()
    small.command()(with_flags(Config, {"row": "Tokens of a row."}, seen.append))
    assert runner.invoke(small, ["--model=~/m", "--out=~/o"]).exit_code == 0
    assert seen == [Config("/home/of-mine/m", "/home/of-mine/o")]


def test_a_model_is_called_by_the_last_part_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "v1").mkdir()
    (tmp_path / "latest").symlink_to(tmp_path / "v1")
    monkeypatch.chdir(tmp_path / "v1")
    assert name_of(str(tmp_path / "latest")) == name_of(f"{tmp_path}/latest/") == "latest"
    assert name_of(".") == "v1" and name_of("org/name") == "org/name"


FLAGS = {"mode": "--mode", "max_tokens": "--max-tokens", "quality_weight": "--lambda", "temperature": "--temperature"}


@pytest.mark.parametrize(
    "message, said",
    [
        ("decode with mode='sequential'.", "decode with --mode sequential."),
        ("max_tokens must be at least 1, not 0.", "--max-tokens must be at least 1, not 0."),
        ("temperature is a number from 0", "--temperature is a number from 0"),
        ("The temperature is good in this mode.", "The temperature is good in this mode."),
        ("quality_weight must be", "--lambda must be"),
        ("/tmp/max_tokens/x: No such file.", "/tmp/max_tokens/x: No such file."),
        ("has max_tokens=6, not 7", "has --max-tokens 6, not 7"),
    ],
)
def test_errors_name_flags_as_they_are_typed(message: str, said: str) -> None:
    assert as_typed(message, FLAGS) == said
