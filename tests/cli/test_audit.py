"""`pasta audit` as users run it: its tables, its JSON, its refusals, a kill in the middle."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pastalm.cli import app
from pastalm.data.check import check_file
from tests.conftest import byte_level_tokenizer
from tests.processes import output, pasta, start

runner = CliRunner()
A, B, C = (f"<async topic='{topic}'>{topic} hello world foo bar</async>" for topic in "abc")


def write(path: Path, number: int) -> Path:
    rows = ({"prompt": f"hello {k}", "annotated": f"Hi {A} and {B}, {C}<sync/> end"} for k in range(number))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_audit_and_filter(tmp_path: Path, model_dir: Path):
    data, out = write(tmp_path / "data.jsonl", 3), tmp_path / "out.jsonl"
    line = ["audit", str(data), "--model", str(model_dir), "--top", "2", "--sync-above", "0", "--out", str(out)]
    done = runner.invoke(app, line, env={"COLUMNS": "120"})  # narrower, the table's lines are folded
    assert done.exit_code == 0, done.output
    assert "Most dependent chunks" in done.stdout and "9 in 3 records" in done.stdout
    assert "6 of them have siblings hidden from them" in done.stdout and "by place in the group" in done.stdout
    assert f"Written to {out}: " in done.stdout and not any(record.findings for record in check_file(out))
    assert len((tmp_path / "data.audit.jsonl").read_text().splitlines()) == 3
    again = runner.invoke(app, [*line, "--json"])
    found = json.loads(again.stdout)
    assert found["summary"]["hidden"] == 6 and set(found["summary"]["places"]) == {"2", "3"}
    assert len(found["top"]) == 2 and found["positions"] == "pred10"
    assert found["top"][0]["dependence"] == pytest.approx(found["top"][0]["seen"] - found["top"][0]["hidden"])
    assert found["repaired"]["kept"] + found["repaired"]["changed"] == 3


def test_data_that_is_no_path_has_its_journal_in_the_working_folder(
    tmp_path: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    packaged = "pasta-instruct/assistant:test"
    done = runner.invoke(app, ["audit", packaged, "--model", str(model_dir), "--top", "0", "--batch-size", "32"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "assistant:test.audit.jsonl").stat().st_size


def test_refusals_are_one_sentence(tmp_path: Path, model_dir: Path):
    data, out = write(tmp_path / "data.jsonl", 1), tmp_path / "out.jsonl"
    bad = tmp_path / "bad.jsonl"
    bad.write_text(data.read_text() + "{oops\n")
    untagged = tmp_path / "untagged"
    byte_level_tokenizer().save_pretrained(untagged)
    for name in ("config.json", "model.safetensors", "generation_config.json"):
        (untagged / name).write_bytes((model_dir / name).read_bytes())
    audit = ["audit", str(data), "--model", str(model_dir)]
    for line, said in (
        ([*audit, "--sync-above", "1"], "go together"),
        ([*audit, "--out", str(out)], "go together"),
        ([*audit, "--sync-above", "1", "--out", str(data)], "different files"),
        (["audit", str(bad), "--model", str(model_dir)], "line 2: not JSON"),
        (["audit", str(tmp_path / "none"), "--model", str(model_dir)], "No such file"),
        (["audit", str(data), "--model", str(tmp_path / "none")], "There is no directory"),
        (["audit", str(data), "--model", str(untagged)], "`pasta train sft --model MODEL"),
        ([*audit, "--journal", str(data), "--sync-above", "1", "--out", str(out)], "different files"),
        ([*audit, "--journal", str(bad)], "not written by this command"),
    ):
        done = runner.invoke(app, line)
        assert done.exit_code == 2 and said in done.stderr, (line, done.output)
        assert done.stderr.strip().count("\n") == 0
    assert not out.exists() and bad.read_text().endswith("{oops\n")


@pytest.mark.slow
def test_a_killed_audit_goes_on_where_it_was(tmp_path: Path, model_dir: Path):
    data, journal = write(tmp_path / "data.jsonl", 150), tmp_path / "data.audit.jsonl"
    line = ["audit", str(data), "--model", str(model_dir), "--dtype", "float32", "--batch-size", "1"]
    process = start(tmp_path / "log", pasta, *line)
    while not journal.exists() or journal.read_bytes().count(b"\n") < 20:
        assert process.is_alive(), output(tmp_path / "log")
        time.sleep(0.002)
    process.kill()
    process.join()
    done = journal.read_bytes().count(b"\n")
    assert 20 <= done < 150
    kept = journal.read_bytes()[: journal.read_bytes().rindex(b"\n") + 1]
    finished = runner.invoke(app, [*line[:-1], "32"])
    assert finished.exit_code == 0 and "300 of them have siblings" in finished.stdout
    assert journal.read_bytes().startswith(kept)
    ids = [json.loads(one)["id"] for one in journal.read_text().splitlines()]
    assert len(ids) == len(set(ids)) == 150
