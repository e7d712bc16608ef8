"""`pasta convert`: files of both kinds, what may be lost on request, and how it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pastalm.cli import app

runner = CliRunner()
FULL = (
    '<promise topic="dry sand" tokens=2 /><async>It runs.</async>\n'
    '<promise topic="mud" tokens=1 /><async>It sticks.</async>'
)
ANNOTATOR = "<async topic='dry sand'>It runs.</async>\n<async topic='mud'>It sticks.</async>"
JOINED = ANNOTATOR + "\n<sync/>So wear boots."


def convert(source: Path, target: Path | str, from_: str, to: str, *flags: str):
    return runner.invoke(app, ["convert", str(source), str(target), "--from", from_, "--to", to, *flags])


def lines(path: Path, *texts: str, field: str = "annotated") -> Path:
    records = ({"prompt": "é", field: text, "id": number} for number, text in enumerate(texts))
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_a_text_file_there_and_back(tmp_path: Path):
    start, there, back = tmp_path / "a.txt", tmp_path / "b.txt", tmp_path / "c.txt"
    for name in ("multiverse", "npr", "threadweaver", "aspd"):
        start.write_text(JOINED + "\n")
        done = convert(start, there, "pasta-annotator", name)
        assert (done.exit_code, done.stdout, done.stderr) == (0, "", "1 converted.\n")
        assert "dry sand" in there.read_text() and "<async" not in there.read_text()
        assert convert(there, back, name, "pasta-annotator").exit_code == 0
        assert back.read_text() == start.read_text()


def test_line_ends_are_kept_and_a_dash_prints(tmp_path: Path):
    start = tmp_path / "a.txt"
    start.write_bytes(b"a\r\n<sync/>b\r\n\r\n")
    assert convert(start, tmp_path / "b.txt", "pasta", "pasta-annotator").exit_code == 0
    assert (tmp_path / "b.txt").read_bytes() == start.read_bytes()
    start.write_text(FULL)
    done = convert(start, "-", "pasta", "planned-diffusion")
    assert done.exit_code == 0 and done.stdout.startswith("<promise>-<topic>dry sand 2</topic><promise>-<topic>mud 1<")


def test_lines_keep_their_other_fields(tmp_path: Path):
    source = lines(tmp_path / "a.jsonl", JOINED, "plain")
    assert convert(source, tmp_path / "b.jsonl", "pasta", "aspd").stderr == "2 converted.\n"
    first, second = map(json.loads, (tmp_path / "b.jsonl").read_text().splitlines())
    assert first["annotated"].startswith("<|title|>dry sand<|/title|>")
    assert (first["prompt"], first["id"]) == ("é", 0) and second["annotated"] == "plain"


def test_a_byte_order_mark_is_not_the_answers(tmp_path: Path):
    start = tmp_path / "a.txt"
    start.write_text(ANNOTATOR, encoding="utf-8-sig")
    assert convert(start, tmp_path / "b.txt", "pasta-annotator", "pasta-annotator").exit_code == 0
    assert (tmp_path / "b.txt").read_text() == ANNOTATOR


def test_a_data_set_is_converted_line_by_line(tmp_path: Path):
    done = convert("pasta-instruct/assistant:test", tmp_path / "b.jsonl", "pasta", "pasta-annotator")
    assert done.exit_code == 0 and done.stderr == "80 converted.\n"
    assert len((tmp_path / "b.jsonl").read_text().splitlines()) == 80


def test_half_characters_stay_escapes(tmp_path: Path):
    source = lines(tmp_path / "a.jsonl", "\ud800")
    assert convert(source, tmp_path / "b.jsonl", "pasta", "aspd").exit_code == 0
    assert json.loads((tmp_path / "b.jsonl").read_text())["annotated"] == "\ud800"


def test_another_field(tmp_path: Path):
    source = lines(tmp_path / "a.jsonl", ANNOTATOR, field="text")
    done = convert(source, tmp_path / "b.jsonl", "pasta", "npr")
    assert done.exit_code == 2 and "line 1: needs the text field 'annotated'" in done.stderr
    assert convert(source, tmp_path / "b.jsonl", "pasta", "npr", "--field", "text").exit_code == 0


def test_stops_at_the_first_loss_and_writes_nothing(tmp_path: Path):
    source, target = lines(tmp_path / "a.jsonl", ANNOTATOR, JOINED), tmp_path / "b.jsonl"
    done = convert(source, target, "pasta", "apar", "--drop", "topics")
    assert done.exit_code == 2 and not target.exists()
    assert done.stderr.startswith(f"{source}, line 2: APAR has no join: the sync after the chunk 'part 2'")
    assert done.stderr.count("\n") == 1


def test_skips_what_cannot_be_said(tmp_path: Path):
    source, target = lines(tmp_path / "a.jsonl", ANNOTATOR, JOINED, "plain", "</async>"), tmp_path / "b.jsonl"
    done = convert(source, target, "pasta", "apar", "--drop", "topics", "--skip-lossy")
    assert done.exit_code == 0
    *skipped, summary = done.stderr.splitlines()
    assert summary == "2 converted, 2 lines skipped, 2 topics dropped."
    assert [line.split(": ")[0] for line in skipped] == [f"{source}, line 2", f"{source}, line 4"]
    assert [json.loads(line)["id"] for line in target.read_text().splitlines()] == [0, 2]


def test_what_one_line_cannot_say_leaves_the_others(tmp_path: Path, tokenizer_dir: Path):
    group = "<Parallel><Goal><Outline>1: {}</Outline></Goal><Path>1: {}</Path></Parallel>"
    pairs = [("fine", "a"), ("two  spaces", "a"), ("a\ttab", "a"), ("no\u00a0break", "a"), ("half", "\ud800")]
    source, target = lines(tmp_path / "a.jsonl", *(group.format(*pair) for pair in pairs)), tmp_path / "b.jsonl"
    done = convert(source, target, "multiverse", "pasta-annotator", "--skip-lossy")
    assert done.exit_code == 0 and done.stderr.splitlines()[-1] == "2 converted, 3 lines skipped."
    assert "line 2: PASTA's topics are words with one space between them, 'two  spaces' is not" in done.stderr
    shortened = convert(source, target, "multiverse", "pasta-annotator", "--shorten-topics")
    assert shortened.stderr == "5 converted, 3 topics shortened.\n"
    measured = convert(source, target, "multiverse", "pasta", "--skip-lossy", "--tokenizer", str(tokenizer_dir))
    assert measured.exit_code == 0 and "line 5: The lengths cannot be measured: The text holds half" in measured.stderr
    assert [json.loads(line)["id"] for line in target.read_text().splitlines()] == [0]


def test_errors_name_the_flag_that_helps(tmp_path: Path, tokenizer_dir: Path):
    source, target = tmp_path / "a.txt", tmp_path / "b.txt"
    source.write_text(FULL)
    refused = convert(source, target, "pasta", "multiverse")
    assert refused.exit_code == 2 and "--drop lengths" in refused.stderr
    dropped = convert(source, target, "pasta", "multiverse", "--drop", "lengths")
    assert dropped.stderr == "1 converted, 2 lengths dropped.\n"
    refused = convert(target, source, "multiverse", "pasta")
    assert refused.exit_code == 2 and "--tokenizer measures" in refused.stderr
    assert convert(target, source, "multiverse", "pasta", "--tokenizer", str(tokenizer_dir)).exit_code == 0
    assert source.read_text().startswith('<promise topic="dry sand" tokens=')
    source.write_text(FULL)
    refused = convert(source, target, "pasta", "apar", "--drop", "lengths")
    assert refused.exit_code == 2 and "--drop topics" in refused.stderr


def test_topics_are_shortened_on_request(tmp_path: Path):
    source, target = tmp_path / "a.txt", tmp_path / "b.txt"
    source.write_text("1. Sand the boards by hand\n2. Oil\n\n1. Sand the boards by hand: slowly.\n2. Oil: twice.\n")
    refused = convert(source, target, "skeleton", "pasta-annotator")
    assert refused.exit_code == 2 and "--shorten-topics" in refused.stderr
    assert convert(source, target, "skeleton", "pasta-annotator", "--shorten-topics").stderr == (
        "1 converted, 1 topic shortened.\n"
    )
    assert "<async topic='Sand the boards'>1. Sand the boards by hand: slowly.</async>" in target.read_text()


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--from", "x", "--to", "pasta"], "There is no dialect 'x'"),
        (["--from", "pasta", "--to", "pasta", "--drop", "words"], "words"),
        (["--from", "pasta", "--to", "pasta"], "No such file"),
    ],
)
def test_refuses_in_one_sentence(tmp_path: Path, flags: list[str], said: str):
    done = runner.invoke(app, ["convert", str(tmp_path / "none.txt"), "-", *flags])
    assert done.exit_code == 2 and said in done.stderr


def test_broken_files(tmp_path: Path):
    bad = tmp_path / "a.jsonl"
    bad.write_text("{\n")
    assert "line 1: not JSON" in convert(bad, "-", "pasta", "npr", "--skip-lossy").stderr
    bad.write_bytes(b"\xff")
    assert "not UTF-8" in convert(bad, "-", "pasta", "npr").stderr
