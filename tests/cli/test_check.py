"""`pasta check` and its report: words and tokens, JSON, plots."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copytree

import pytest
from typer.testing import CliRunner

from pastalm.cli import app

runner = CliRunner()
GOOD = '<promise topic="a" tokens=9 /><async>some five words for you</async> and <async topic="b">x y z u v</async> end'


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three records, the second of them bad."""
    file = tmp_path / "data.jsonl"
    rows = [{"prompt": "x", "annotated": text} for text in (GOOD, "a <async topic='b'>c</async>", "no block")]
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def test_the_report_is_on_the_sound_records(data: Path):
    done = runner.invoke(app, ["check", str(data)])
    assert done.exit_code == 1
    found, *report, summary = done.stdout.splitlines()
    assert found.startswith(f"{data}, line 2, ") and summary == "1 error, in 1 of 3 records in 1 file."
    rows = {line.split("  ")[0].strip(): line for line in report}
    assert rows["answers"].split()[1] == "2" and "words" in rows["answers"] and "50.0%" in rows["that fork"]
    assert "give --tokenizer" in rows["length error"] and "pred10" in rows["positions"]
    assert "0: 50%  2: 50%" in rows["chunks per answer"]


def test_a_tokenizer_is_called_as_it_is(data: Path, tokenizer_dir: Path, tmp_path: Path):
    named = copytree(tokenizer_dir, tmp_path / "words[v1]")
    done = runner.invoke(app, ["check", str(data), "--tokenizer", str(named)], env={"COLUMNS": "300"})
    assert f"tokens of {named}" in done.stdout


def test_a_line_that_is_not_text_ends_nothing(data: Path):
    data.write_bytes(b'{"prompt": "\xe9"}\n{"a": ' + b"7" * 5000 + b"}\n" + data.read_bytes())
    done = runner.invoke(app, ["check", str(data)])
    assert done.exit_code == 1 and not isinstance(done.exception, ValueError)
    assert f"{data}, line 1: not UTF-8 text" in done.stdout and f"{data}, line 2: a number in it" in done.stdout
    assert "3 errors, in 3 of 5 records in 1 file." in done.stdout


def test_a_file_that_cannot_be_read_ends_nothing(data: Path, tmp_path: Path):
    (tmp_path / "empty.jsonl").touch()
    files = [str(tmp_path / "none.jsonl"), str(tmp_path / "empty.jsonl"), str(data)]
    done = runner.invoke(app, ["check", *files, "--json"])
    found = json.loads(done.stdout)
    assert done.exit_code == 1 and (found["records"], found["invalid"], found["unread"]) == (3, 1, 2)
    first, second, third = found["errors"]
    assert first == {"place": files[0], "message": "No such file or directory."}
    assert second == {"place": files[1], "message": "is empty: it needs one JSON object a line."}
    assert third["place"].startswith(f"{data}, line 2, ") and found["report"]["answers"] == 2
    summary = runner.invoke(app, ["check", *files]).stdout.splitlines()[-1]
    assert summary == "3 errors, in 1 of 3 records in 3 files, 2 of which could not be read."


def test_a_place_in_a_folder_names_its_file(tmp_path: Path):
    configs = "configs:\n- config_name: all\n  data_files:\n  - split: train\n    path: [one.jsonl, two.jsonl]"
    (tmp_path / "README.md").write_text(f"---\n{configs}\n---\n")
    (tmp_path / "one.jsonl").write_text('{"prompt": "x", "annotated": "plain"}\n')
    (tmp_path / "two.jsonl").write_text('{"prompt": "x"}\n')
    done = runner.invoke(app, ["check", str(tmp_path)])
    assert done.exit_code == 1 and f"{tmp_path / 'two.jsonl'}, line 1: has no 'annotated'" in done.stdout


def test_half_a_character_is_a_problem(tmp_path: Path):
    file = tmp_path / "data.jsonl"
    rows = [{"prompt": "a \ud800", "annotated": "b"}, {"prompt": "a", "annotated": "b \ud800"}]
    rows += [{"messages": [{"role": "user", "content": "\ud800"}], "annotated": "b"}]
    file.write_text("\n".join(map(json.dumps, rows)))
    done = runner.invoke(app, ["check", str(file)])
    assert done.exit_code == 1
    assert done.stdout.count("a text in it holds half of a surrogate pair, which is no character; write it anew.") == 3
    shown = runner.invoke(app, ["show", str(file), "--line", "2"])
    assert shown.exit_code == 2 and f"{file}, line 2: 'annotated' holds half of a surrogate pair" in shown.stderr


def test_json_tokens_and_plots(data: Path, tokenizer_dir: Path, tmp_path: Path):
    folder = tmp_path / "plots"
    flags = ["--json", "--tokenizer", str(tokenizer_dir), "--plots", str(folder), "--positions", "pred1"]
    done = runner.invoke(app, ["check", str(data), *flags])
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert (found["records"], found["invalid"], len(found["errors"])) == (3, 1, 1) and "line 2" in found["errors"][0][
        "place"
    ]
    report = found["report"]
    assert report["unit"] == f"tokens of {tokenizer_dir}" and report["positions"] == "pred1" and report["blocks"] == 2
    assert report["length_errors"]["blocks"] == 1 and report["length_errors"]["unit"] == 1
    assert report["length_errors"]["signed"] == 9 - (report["tokens_per_block"]["most"] + 2)
    assert sorted(path.name for path in folder.iterdir()) == [
        "blocks_per_answer.png",
        "length_error.png",
        "speedup.png",
        "tokens_per_block.png",
    ]
    assert "Plots written: " in done.stderr


def test_unknown_positions_and_tokenizers_are_one_sentence(data: Path, tmp_path: Path):
    for flags, said in (
        (["--positions", "no"], "Unknown position policy"),
        (["--tokenizer", str(tmp_path)], "Cannot load"),
    ):
        done = runner.invoke(app, ["check", str(data), *flags])
        assert done.exit_code == 2 and said in done.stderr and done.stderr.strip().count("\n") == 0
