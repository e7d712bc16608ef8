"""`pasta distil` as users run it: the samples are kept and taken up again, and what is written passes `pasta check`."""

from __future__ import annotations

import json
import shutil
from importlib.resources import files
from itertools import islice
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pastalm.cli import app
from pastalm.data.check import check_file
from pastalm.tasks import tasks
from pastalm.tasks.task import Noise

runner = CliRunner()


def distil(out: Path, *more: str) -> list[str]:
    prompts = out.with_name("prompts.jsonl")
    shorts = islice(
        tasks("train", 3, Noise(0, 0, 0), ("short",)), 4
    )  # tasks that the bundled model answers in a few words
    prompts.write_text("".join(json.dumps({"prompt": task.prompt}) + "\n" for task in shorts))
    options = ["--model", "bundled", "--samples", "1", "--temperature", "0", "--max-tokens", "60", *more]
    return ["distil", str(prompts), str(out), *options]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("distil") / "own.jsonl"
    done = runner.invoke(app, distil(out))
    assert done.exit_code == 0, done.output
    lines = out.read_text().splitlines()
    assert f"{len(lines)} of 4 answers written to {out}" in done.stderr and lines
    return out


def test_what_is_written_is_sound(out: Path) -> None:
    assert not any(record.findings for record in check_file(out))
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert all(set(line) == {"id", "prompt", "annotated", "answer", "rule"} for line in lines)
    assert len({line["id"] for line in lines}) == len(lines)


def test_it_goes_on_where_it_was(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, written = out.with_suffix(".samples.jsonl"), out.read_bytes()
    before = journal.read_bytes()
    journal.write_bytes(before[:-30])  # as a kill leaves it
    assert runner.invoke(app, distil(out)).exit_code == 0
    assert journal.read_bytes() == before and out.read_bytes() == written

    def refuse(*_: object) -> None:
        raise AssertionError("all answers are there")

    monkeypatch.setattr("pastalm.cli.models.load_engine", refuse)
    assert runner.invoke(app, distil(out)).exit_code == 0 and out.read_bytes() == written


def test_a_sample_stays_with_its_prompt_and_its_model(tmp_path: Path) -> None:
    model, out = tmp_path / "model", tmp_path / "own.jsonl"
    shutil.copytree(str(files("pastalm") / "bundled"), model)
    line = [*distil(out), "--model", str(model), "--dtype", "float32"]
    assert runner.invoke(app, [*line, "--limit", "2"]).exit_code == 0
    begun = out.with_suffix(".samples.jsonl").read_bytes()
    assert runner.invoke(app, line).exit_code == 0, "a larger --limit goes on"
    assert out.with_suffix(".samples.jsonl").read_bytes().startswith(begun)
    assert runner.invoke(app, [*line, "--limit", "1"]).exit_code == 0, "a smaller one takes the first"
    prompts = tmp_path / "prompts.jsonl"
    first, *others = prompts.read_text().splitlines(keepends=True)
    written, drawn = out.read_bytes(), out.with_suffix(".samples.jsonl").read_bytes()

    def refused(line: list[str], said: str) -> None:
        done = runner.invoke(app, line)
        assert done.exit_code == 2 and f"says that the samples were drawn {said}; choose another OUT." in done.stderr

    refused([*line, "--dtype", "bfloat16"], "with another dtype")
    prompts.write_text("".join([*others, first]))
    refused(line, "for other prompts")
    prompts.write_text("".join([first, *others]))
    (model / "generation_config.json").write_text('{"temperature": 0.5}')
    refused(line, "by other weights under the model's name")
    assert (out.read_bytes(), out.with_suffix(".samples.jsonl").read_bytes()) == (written, drawn)


def test_refusals_are_one_sentence(out: Path, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "x"}\n')
    for line, said in (
        (distil(out, "--temperature", "1.5"), "drawn with another temperature"),
        (["distil", str(tmp_path / "p.jsonl"), str(tmp_path / "p.jsonl"), "--model", "bundled"], "read and written"),
        (["distil", str(tmp_path / "none.jsonl"), str(out), "--model", "bundled"], "No such file"),
        (distil(tmp_path / "few.jsonl", "--max-tokens", "1"), "No answer could be kept: cut 4"),
    ):
        done = runner.invoke(app, line)
        assert done.exit_code == 2 and said in done.stderr.strip().splitlines()[-1], done.output
