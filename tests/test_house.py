"""The house in order: names, sizes and imports of the package, and documents whose links and commands are true."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer

from bench.house import circle, modules, twice
from pastalm.cli.main import app

ROOT = Path(__file__).parents[1]
PACKAGE = modules()
PYTHON = sorted(path for part in ("pastalm", "tests", "bench", "examples") for path in (ROOT / part).rglob("*.py"))
DOCUMENTS = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "pastalm").rglob("README.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^]]*\]\(([^)\s]+)\)")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


# The package.


def test_each_public_class_name_stands_once() -> None:
    assert twice(PACKAGE) == {}


def test_no_modules_import_one_another() -> None:
    assert circle(PACKAGE) == []


def test_training_fits_in_sixteen_files() -> None:
    assert (
        len([module for module in PACKAGE if module.package == "training" and module.name != "pastalm.training"]) <= 16
    )


def test_no_file_is_longer_than_400_lines() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in PYTHON}
    assert {path: lines for path, lines in lengths.items() if lines > 400} == {}


def test_no_function_is_longer_than_40_lines() -> None:
    long = [one for module in PACKAGE for one in module.functions() if one.lines > 40]
    assert long == []


def test_no_file_is_called_utils() -> None:
    assert [path for path in PYTHON if path.stem in ("utils", "util", "helpers", "misc", "common")] == []


def test_the_oldest_transformers_is_the_one_that_is_promised() -> None:
    promised = next(line for line in PYPROJECT["project"]["dependencies"] if line.startswith("transformers"))
    oldest = re.search(r"^OLDEST := (\d+\.\d+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert oldest and f">={oldest[1]}," in promised


# The documents.


def headings(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    text = FENCE.sub("", document.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def blocks(document: Path, *languages: str) -> list[str]:
    """The fenced blocks of a document that are written in one of these languages."""
    found = FENCE.findall(document.read_text(encoding="utf-8"))
    return [text for language, text in found if language in languages]


def commands(document: Path) -> list[str]:
    """The lines of a document's shell blocks, with lines that go on in the next joined."""
    text = "".join(blocks(document, "", "sh", "bash"))
    return [line.strip() for line in text.replace("\\\n", " ").splitlines()]


def pasta(line: str) -> list[str] | None:
    """The arguments of `pasta` in a line of a shell, if it calls it."""
    start = re.match(r"pasta |(accelerate launch|python) .*-m pastalm(\.cli)? ", line)
    return shlex.split(line[start.end() :], comments=True) if start else None


def verb(arguments: list[str]) -> tuple[Any, list[str]]:
    """The command that arguments name, and the arguments behind its name."""
    command = typer.main.get_command(app)
    while hasattr(command, "commands") and arguments:
        assert arguments[0] in command.commands, f"there is no `pasta {arguments[0]}`"
        command, arguments = command.commands[arguments[0]], arguments[1:]
    return command, arguments


def parse(arguments: list[str]) -> None:
    """Read arguments as the command line does, without running anything: raises for what `pasta` would not take."""
    command, arguments = verb(arguments)
    ends = [place for place, one in enumerate(arguments) if re.match(r"[|<>&]|2>", one)]
    context = command.make_context("pasta", [], resilient_parsing=True)
    given, left, _ = command.make_parser(context).parse_args(arguments[: min(ends, default=len(arguments))])
    assert not left, f"{left} is too much"
    for parameter in command.get_params(context):
        value = given.get(parameter.name)
        if value is None or value == ():
            assert not parameter.required, f"{parameter.name} is missing"
        elif parameter.bare_type is not Path:  # its files need not be here
            parameter.process_value(context, value)


def test_the_map_names_every_module_and_no_other() -> None:
    text = (ROOT / "docs/map.md").read_text(encoding="utf-8")
    for package in {module.package for module in PACKAGE} - {"(top)", "bundled", "assistant"}:
        here = {module.name.split(".")[2] for module in PACKAGE if module.name.startswith(f"pastalm.{package}.")}
        section = re.search(rf"^## `{package}`.*?\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
        assert section, f"docs/map.md has no section `{package}`"
        rows = [line.split("|")[1] for line in section[1].splitlines() if line.startswith("| `")]
        assert set(re.findall(r"`(\w+)`", " ".join(rows))) == here - {"__main__"}, package


@every_document
def test_links_lead_somewhere(document: Path) -> None:
    for target in LINK.findall(FENCE.sub("", document.read_text(encoding="utf-8"))):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        place = (document.parent / file).resolve() if file else document
        assert place.exists(), f"{target} does not exist"
        assert not anchor or anchor in headings(place), f"{target}: no such heading"


@every_document
def test_commands_in_blocks_are_ones_that_pasta_takes(document: Path) -> None:
    for line in commands(document):
        arguments = pasta(line)
        if arguments is not None:
            parse(arguments)


@every_document
def test_commands_in_the_text_name_verbs_and_flags_that_exist(document: Path) -> None:
    text = FENCE.sub("", document.read_text(encoding="utf-8"))
    for code in re.findall(r"`(pasta [a-z][^`]*)`", text):
        command, arguments = verb(shlex.split(code)[1:])
        context = command.make_context("pasta", [], resilient_parsing=True)
        known = {flag for one in command.get_params(context) for flag in (*one.opts, *one.secondary_opts)}
        assert {one.partition("=")[0] for one in arguments if one.startswith("--")} <= known, code


def test_the_readme_lists_every_command() -> None:
    named = set(re.findall(r"^\| `pasta ([a-z]+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert named == set(typer.main.get_command(app).commands)


@every_document
def test_what_make_and_pip_are_asked_for_exists(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    extras = set(PYPROJECT["project"]["optional-dependencies"])
    text = document.read_text(encoding="utf-8")
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE)) <= targets
    named = re.findall(r"pip install [^\n`]*\[([a-z,]+)\]", text)
    assert {extra for names in named for extra in names.split(",")} <= extras


@every_document
def test_modules_that_are_named_exist(document: Path) -> None:
    for name in re.findall(r"python -m ((?:bench|pastalm)[\w.]*)", document.read_text(encoding="utf-8")):
        place = ROOT / name.replace(".", "/")
        assert place.with_suffix(".py").exists() or (place / "__main__.py").exists(), name


@every_document
def test_python_in_blocks_compiles(document: Path) -> None:
    for block in blocks(document, "python", "py"):
        ast.parse(block)


def test_a_folder_without_a_package_is_one_sentence(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "bench.house", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith(f"There are no Python files in {tmp_path}")
    assert done.stderr.count("\n") == 1
