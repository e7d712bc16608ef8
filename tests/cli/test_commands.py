"""The commands that need no model: check, tasks, show; errors and help of all."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from xml.etree import ElementTree

import pytest
import typer
from typer.testing import CliRunner

from pastalm.__main__ import main
from pastalm.cli import app
from pastalm.cli.errors import Guarded, expected

runner = CliRunner()
ANNOTATED = (
    "Intro. <async topic='one'>some five words for you</async> and <async topic='two'>x y z u v</async><sync/> end"
)


def test_help_and_check_load_neither_torch_nor_transformers(tmp_path: Path):
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"prompt": "x", "annotated": ANNOTATED}))
    code = (
        "import sys; from typer.testing import CliRunner; from pastalm.cli import app\n"
        f"for line in (['--help'], ['run', '--help'], ['serve', '--help'], ['check', {str(file)!r}]):\n"
        "    assert CliRunner().invoke(app, line).exit_code == 0\n"
        "assert not {'torch', 'transformers', 'fastapi', 'uvicorn'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "command", ["", "run", "show", "check", "convert", "annotate", "audit", "tasks", "train", "serve"]
)
def test_help_shows_examples_on_lines_of_their_own(command: str):
    shown = runner.invoke(app, [*command.split(), "--help"])
    assert shown.exit_code == 0
    lines = [line.strip() for line in shown.output.splitlines()]
    assert "Examples:" in lines and any(line.startswith(f"pasta {command}".strip()) for line in lines)


def test_version():
    assert runner.invoke(app, ["--version"]).output.startswith("pasta ")


def test_check(tmp_path: Path):
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    good.write_text(json.dumps({"prompt": "x", "annotated": ANNOTATED}) + "\n")
    bad.write_text(good.read_text() + '{"prompt": "x", "annotated": "a <async topic=\'b\'>c</async><sync/> <sync/>"}\n')
    clean = runner.invoke(app, ["check", str(good)])
    assert clean.exit_code == 0 and clean.output.endswith("\n\n1 record in 1 file: no errors.\n")
    dirty = runner.invoke(app, ["check", str(good), str(bad)])
    assert dirty.exit_code == 1
    *found, summary = dirty.output.splitlines()
    assert summary == "2 errors, in 1 of 3 records in 2 files."
    assert found[0].startswith(f"{bad}, line 2, in 'annotated' line 1, column 3: ")
    assert found[1].startswith(f"{bad}, line 2, ") and found[2].split()[:2] == ["answers", "2"]


def test_check_of_nested_chunks(tmp_path: Path):
    file, inner = tmp_path / "a.jsonl", "<async topic='in'>one two three four five</async>"
    file.write_text(json.dumps({"prompt": "x", "annotated": f"<async topic='out'>a {inner}</async>"}))
    assert runner.invoke(app, ["check", str(file)]).exit_code == 1
    assert runner.invoke(app, ["check", str(file), "--max-depth", "2"]).exit_code == 0


@pytest.mark.parametrize("what, said", [("missing", "No such file"), (".", "Is a directory"), ("empty", "is empty")])
def test_unreadable_files_are_one_sentence(tmp_path: Path, what: str, said: str):
    (tmp_path / "empty").touch()
    for verb in ("check", "show") if what != "empty" else ("check",):
        done = runner.invoke(app, [verb, str(tmp_path / what)])
        assert done.exit_code == 2 and done.stdout == ""
        assert said in done.stderr and done.stderr.count("\n") == 1 and str(tmp_path / what) in done.stderr


def test_tasks_write_what_check_accepts(tmp_path: Path):
    out = tmp_path / "tasks.jsonl"
    flags = ["--number", "6", "--families", "ranking, short", "--missed", "0", "--wrong", "0", "--unsynced", "0"]
    assert runner.invoke(app, ["tasks", *flags, "--out", str(out)]).output == ""
    printed = runner.invoke(app, ["tasks", *flags])
    assert printed.stdout == out.read_text()
    assert [json.loads(line)["family"] for line in printed.stdout.splitlines()] == ["ranking", "short"] * 3
    assert runner.invoke(app, ["check", str(out)]).exit_code == 0
    assert runner.invoke(app, ["tasks", *flags, "--seed", "1"]).stdout != printed.stdout
    assert runner.invoke(app, ["tasks", *flags, "--split", "held-out"]).stdout != printed.stdout


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--families", "nope"], "Unknown family nope"),
        (["--missed", "2"], "between 0 and 1"),
        (["--out", "no/such/dir/x"], "No such file"),
    ],
)
def test_tasks_refuses_in_one_sentence(flags: list[str], said: str):
    done = runner.invoke(app, ["tasks", *flags])
    assert done.exit_code == 2 and said in done.stderr and done.stderr.count("\n") == 1


def test_show(tmp_path: Path, tokenizer_dir: Path):
    file, svg = tmp_path / "a.txt", tmp_path / "a.svg"
    file.write_text(ANNOTATED + "\n")
    done = runner.invoke(app, ["show", str(file), "--tokenizer", str(tokenizer_dir), "--svg", str(svg)])
    assert done.exit_code == 0, done.stderr
    assert "├── one  promised" in done.stdout and '"x y z u v"' in done.stdout and "├── sync" in done.stdout
    assert "\nIntro. some five words for you and x y z u v end\n" in done.stdout
    assert "theoretical speedup" in done.stdout and "critical path" in done.stdout
    assert ElementTree.parse(svg).getroot().tag.endswith("svg")


def test_show_a_line_of_a_data_file(tmp_path: Path, tokenizer_dir: Path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"prompt": "x"}\n' + json.dumps({"prompt": "x", "annotated": ANNOTATED}) + "\n")
    show = ["show", str(file), "--tokenizer", str(tokenizer_dir)]
    assert "├── one  promised" in runner.invoke(app, [*show, "--line", "2"]).stdout
    for flags, said in (([], "--line"), (["--line", "3"], "has 2 lines"), (["--line", "1"], "'annotated'")):
        done = runner.invoke(app, [*show, *flags])
        assert done.exit_code == 2 and said in done.stderr


def test_show_reads_past_a_byte_order_mark_and_inside_the_package(tmp_path: Path, tokenizer_dir: Path):
    text, line = tmp_path / "a.txt", tmp_path / "a.jsonl"
    text.write_text(ANNOTATED, encoding="utf-8-sig")
    line.write_text(json.dumps({"prompt": "x", "annotated": ANNOTATED}), encoding="utf-8-sig")
    for file in ([str(text)], [str(line), "--line", "1"], ["pasta-instruct/assistant/train.jsonl", "--line", "1"]):
        done = runner.invoke(app, ["show", *file, "--tokenizer", str(tokenizer_dir)])
        assert done.exit_code == 0 and "\ufeff" not in done.stdout, done.stderr


def test_show_names_what_is_wrong(tmp_path: Path):
    file = tmp_path / "a.txt"
    file.write_text("x\n<async topic='a'>never closed")
    done = runner.invoke(app, ["show", str(file)])
    assert done.exit_code == 2 and "line 2, column 1" in done.stderr
    file.write_text(ANNOTATED)
    done = runner.invoke(app, ["show", str(file), "--tokenizer", str(tmp_path)])
    assert done.exit_code == 2 and "Cannot load the tokenizer" in done.stderr and done.stderr.count("\n") == 1


def fragile(error: BaseException) -> typer.Typer:
    broken = typer.Typer(cls=Guarded)

    @broken.callback()
    def group() -> None:
        """A group of one."""

    @broken.command()
    def fail() -> None:
        raise error

    return broken


def test_interrupts_and_bugs():
    done = runner.invoke(fragile(KeyboardInterrupt()), ["fail"])
    assert (done.exit_code, done.stderr) == (130, "Interrupted.\n")
    for bug in (TypeError("a bug"), ValueError("a library's")):  # raised here, not in our package
        done = runner.invoke(fragile(bug), ["fail"])
        assert done.exception is bug
    assert expected(OSError("no network"))


def test_train_flags_are_the_fields_of_the_config():
    from pastalm.training.config import PreferConfig, SftConfig, helps

    assert all(helps(SftConfig).values()) and all(helps(PreferConfig).values())
    shown = runner.invoke(app, ["train", "sft", "--help"], env={"COLUMNS": "160"}).output
    assert all(f"--{field.name.replace('_', '-')}" in shown for field in fields(SftConfig))
    assert "--no-resume" in shown and "pasta train sft --model" in shown
    done = runner.invoke(app, ["train", "sft", "--model", "m", "--data", "d", "--out", "o", "--plain", "2"])
    assert done.exit_code == 2 and "plain is a share" in done.stderr
    assert runner.invoke(app, ["train", "sft", "--model", "m"]).exit_code == 2


def test_train_hands_its_flags_to_training(monkeypatch: pytest.MonkeyPatch):
    from pastalm.training import sft

    seen = []
    monkeypatch.setattr(sft, "train_sft", lambda config: seen.append(config) or Path(config.out))
    flags = ["--model", "m", "--data", "d", "--out", "o", "--learning-rate", "2e-4", "--batch-size", "3", "--no-resume"]
    done = runner.invoke(app, ["train", "sft", *flags])
    assert done.output == "Model written to o.\n"
    assert seen == [sft.SftConfig("m", "d", "o", learning_rate=2e-4, batch_size=3, resume=False)]


def test_ctrl_c_while_the_command_starts_is_quiet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    class Starting:
        @property
        def app(self):
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "pastalm.cli", Starting())
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 130 and capsys.readouterr().err == "Interrupted.\n"
