"""`pasta eval` and `pasta pareto` with a tiny random model."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pastalm.cli import app
from pastalm.cli.scores import notes
from tests.annotation.judge_server import JudgeDesk, judging
from tests.processes import pasta, start

runner = CliRunner(env={"OPENAI_API_KEY": "key"})


def evaluate(model: Path, prompts: Path | str, out: Path, *flags: str) -> Result:
    arguments = ["eval", str(prompts), "--model", str(model), "--out", str(out), "--max-tokens", "8"]
    arguments += ["--dtype", "float32", *flags]
    return runner.invoke(app, arguments)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "set.json"
    path.write_text(json.dumps([{"instruction": f"hello {k} good", "dataset": "made"} for k in range(6)]))
    return path


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgeDesk]:
    with judging(monkeypatch, "stated") as desk:
        yield desk


@pytest.fixture(scope="module")
def evaluated(model_dir: Path, prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of answers, to be copied or read."""
    out = tmp_path_factory.mktemp("scores") / "out"
    done = evaluate(model_dir, prompts, out, "--name", "mine")
    assert done.exit_code == 0, done.output
    assert done.stderr.startswith(f"Answering 6 of 6 prompts, each also sequentially, into {out} ..\n")
    for row in ("theoretical speedup", "realised speedup", "efficiency", "parallelism", "complete answers"):
        assert row in done.stdout
    return out


def test_what_is_written(evaluated: Path, prompts: Path):
    report = json.loads((evaluated / "report.json").read_text())
    assert (report["name"], report["number"], report["quality"], report["judge"]) == ("mine", 6, None, None)
    realised = report["figures"]["realised"]
    assert 0 < realised["low"] <= realised["value"] <= realised["high"]
    assert report["settings"]["max_tokens"] == 8 and report["machine"]["dtype"] == "float32"
    lines = [json.loads(line) for line in (evaluated / "answers.jsonl").read_text().splitlines()]
    asked = [one["instruction"] for one in json.loads(prompts.read_text())]
    assert [line["prompt"] for line in lines] == asked
    rows = json.loads((evaluated / "model_outputs.json").read_text())
    assert [row["instruction"] for row in rows] == asked
    assert {(row["generator"], row["dataset"]) for row in rows} == {("mine", "made")}
    assert [row["output"] for row in rows] == [line["answer"]["text"] for line in lines]
    base = json.loads((evaluated / "baseline_outputs.json").read_text())
    assert [row["output"] for row in base] == [line["baseline"]["text"] for line in lines]
    assert base[0]["generator"] == "mine (sequential)"


def test_weights_in_int8_are_other_answers(model_dir: Path, prompts: Path, tmp_path: Path):
    done = evaluate(model_dir, prompts, tmp_path / "out", "--limit", "1", "--quantize", "int8", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["settings"]["quantize"] == "int8"
    done = evaluate(model_dir, prompts, tmp_path / "out", "--limit", "1")
    assert done.exit_code == 2 and "holds answers with quantize 'int8', not None" in " ".join(done.stderr.split())
    done = evaluate(model_dir, prompts, tmp_path / "new", "--limit", "1", "--quantize", "int3")
    assert done.exit_code == 2 and "Unknown quantisation 'int3'" in done.stderr and "Traceback" not in done.output
    assert not (tmp_path / "new" / "settings.json").exists()


def test_spoiled_wall_times_are_noticed(evaluated: Path):
    report = json.loads((evaluated / "report.json").read_text())
    report["figures"]["efficiency"]["value"] = 1.5
    assert any("1.50 cannot be" in note for note in notes(report))
    report["settings"]["baseline"] = "another"  # it may be slower at the same number of steps
    assert not any("cannot be" in note for note in notes(report))


def test_a_finished_folder_needs_no_model_and_a_longer_limit_adds(evaluated: Path, model_dir: Path, prompts: Path):
    before = (evaluated / "answers.jsonl").read_bytes()
    done = evaluate(model_dir, prompts, evaluated, "--limit", "4", "--json", "--name", "mine")
    assert done.exit_code == 0 and json.loads(done.stdout)["number"] == 4
    assert "Answering" not in done.stderr and (evaluated / "answers.jsonl").read_bytes() == before
    assert evaluate(model_dir, prompts, evaluated, "--name", "mine").exit_code == 0


def test_other_settings_are_one_sentence(evaluated: Path, model_dir: Path, prompts: Path):
    done = evaluate(model_dir, prompts, evaluated, "--promise-bias", "1")
    assert done.exit_code == 2 and "--promise-bias 0.0, not 1.0; choose another --out" in " ".join(done.stderr.split())


def test_tasks_are_checked(model_dir: Path, tmp_path: Path):
    done = evaluate(model_dir, "tasks:held-out:2", tmp_path / "out", "--json")
    report = json.loads(done.stdout)
    assert report["quality"]["kind"] == "accepted" and report["quality"]["value"] == 0
    assert len(report["families"]) == 3 and report["families"]["should fork"]["efficiency"] > 0
    done = evaluate(model_dir, "tasks:held-out:2", tmp_path / "batch", "--max-batch", "2")
    assert "wall times say nothing" in " ".join(done.stdout.split())
    assert json.loads((tmp_path / "batch" / "report.json").read_text())["figures"]["realised"] is None


def test_promise_biases_in_one_run(model_dir: Path, prompts: Path, tmp_path: Path):
    flags = ("--baseline", str(model_dir), "--limit", "2", "--max-batch", "2", "--name", "mine")
    done = evaluate(model_dir, prompts, tmp_path, *flags, "--promise-biases", "-1,0,2")
    assert done.exit_code == 0, done.output
    assert [line.split()[0] for line in done.stdout.splitlines() if line[:1] in "+-"] == ["-1", "+0", "+2"]
    folders = [tmp_path / f"promise-bias{value}" for value in ("-1", "+0", "+2")]
    reports = [json.loads((folder / "report.json").read_text()) for folder in folders]
    assert [(report["name"], report["settings"]["promise_bias"]) for report in reports] == [
        ("mine -1", -1.0),
        ("mine +0", 0.0),
        ("mine +2", 2.0),
    ]
    again = evaluate(model_dir, prompts, tmp_path, *flags, "--promise-biases", "-1,0,2", "--json")
    assert [report["name"] for report in json.loads(again.stdout)] == ["mine -1", "mine +0", "mine +2"]
    refused = evaluate(model_dir, prompts, tmp_path, "--promise-biases", "1", "--promise-bias", "2")
    assert refused.exit_code == 2 and "give one of them" in refused.stderr
    refused = evaluate(model_dir, prompts, tmp_path, "--promise-biases", "many")
    assert refused.exit_code == 2 and "--promise-biases are numbers" in refused.stderr


def test_tokens_are_drawn_as_asked(model_dir: Path, prompts: Path, tmp_path: Path):
    drawn = evaluate(model_dir, prompts, tmp_path / "drawn", "--temperature", "1.5", "--top-p", "0.9")
    assert drawn.exit_code == 0, drawn.output
    settings = json.loads((tmp_path / "drawn" / "report.json").read_text())["settings"]
    assert (settings["temperature"], settings["top_p"]) == (1.5, 0.9)
    refused = evaluate(model_dir, prompts, tmp_path / "drawn")
    assert refused.exit_code == 2 and "holds answers with temperature 1.5, not None" in " ".join(refused.stderr.split())


def test_a_short_baseline_is_said(evaluated: Path):
    report = json.loads((evaluated / "report.json").read_text())
    assert not any("much shorter" in note for note in notes(report))
    report["figures"]["baseline_content"]["value"] = report["figures"]["content"]["value"] / 2
    found = list(notes(report))
    assert found[0].startswith("Baseline: mine (sequential)") and "much shorter" in found[1]


def test_names_are_no_markup(model_dir: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "300")
    out = tmp_path / "out[v1]"
    done = evaluate(model_dir, prompts, out, "--name", "a[/b]", "--limit", "1")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("a[/b]: 1 prompts") and f"Written to {out}: report.json" in done.stdout


def test_length_control_is_named_where_there_is_one(evaluated: Path):
    report = json.loads((evaluated / "report.json").read_text())
    rates = {"win_rate": 0.0, "length_controlled": 12.0, "formula": "length_controlled_minimal"}
    report["judge"] = {"model": "m", "reference": "r", "judged": 6, "unjudged": 0, "note": "", "rates": rates}
    assert "Plain win rate 0.00%; length control by length_controlled_minimal." in notes(report)
    rates["length_controlled"] = None
    assert not any("length control" in note for note in notes(report))


def test_another_baseline(model_dir: Path, prompts: Path, tmp_path: Path):
    flags = ("--baseline", str(model_dir), "--limit", "1", "--mode", "sequential", "--json")
    report = json.loads(evaluate(model_dir, prompts, tmp_path / "out", *flags).stdout)
    assert report["figures"]["theoretical"]["value"] == 1 and report["settings"]["baseline_print"]
    files = (tmp_path / "out" / f"{kind}_outputs.json" for kind in ("model", "baseline"))
    own, other = (json.loads(file.read_text())[0]["generator"] for file in files)
    assert other == f"{own} (baseline)"  # one name for both, and AlpacaEval would call them one model


def test_the_judge(evaluated: Path, model_dir: Path, prompts: Path, tmp_path: Path, desk: JudgeDesk):
    reference = tmp_path / "reference.json"
    rows = [
        {"instruction": one["instruction"], "output": "bad", "generator": "poor"}
        for one in json.loads(prompts.read_text())
    ]
    reference.write_text(json.dumps(rows))
    flags = ("--name", "mine", "--judge-url", desk.url, "--judge-model", "m", "--reference", str(reference))
    flags += ("--judge-cache", str(tmp_path / "verdicts.jsonl"), "--json")
    first = json.loads(evaluate(model_dir, prompts, evaluated, *flags).stdout)
    assert first["judge"]["judged"] == 6 and first["judge"]["reference"] == "poor"
    assert first["quality"]["kind"].endswith("win rate") and first["quality"]["baseline"] is None
    asked = len(desk.asks)
    assert asked == 12
    again = json.loads(evaluate(model_dir, prompts, evaluated, *flags).stdout)
    assert again["quality"] == first["quality"] and len(desk.asks) == asked
    desk.plan = lambda shown, nth: "401"
    assert evaluate(model_dir, prompts, evaluated, *flags[:-3], "--judge-cache", str(tmp_path / "new")).exit_code == 2
    assert json.loads((evaluated / "report.json").read_text())["quality"] == first["quality"]


def test_a_judge_by_file(model_dir: Path, prompts: Path, tmp_path: Path):
    """What is wanted is noted, exported, judged by a reader, imported, and used; agreement is shown."""
    reference, out, items = tmp_path / "reference.json", tmp_path / "out", tmp_path / "items.jsonl"
    rows = [{"instruction": one["instruction"], "output": "bad"} for one in json.loads(prompts.read_text())]
    reference.write_text(json.dumps(rows))
    flags = ("--judge-model", "anna", "--judge-url", "file", "--reference", str(reference), "--json")
    first = evaluate(model_dir, prompts, out, *flags)
    assert first.exit_code == 2 and "12 comparisons wait for verdicts of anna: `pasta judge export" in first.stderr
    assert json.loads((out / "report.json").read_text())["number"] == 6
    for form, number in (("pairs", 12), ("rankings", 6)):
        items.unlink(missing_ok=True)
        done = runner.invoke(app, ["judge", "export", str(out), str(items), "--form", form])
        assert done.exit_code == 0 and f"{number} items written" in done.stderr, done.output
    refused = runner.invoke(app, ["judge", "export", str(out), str(items)])
    assert refused.exit_code == 2 and "is there already" in refused.stderr
    lines = [json.loads(line) for line in items.read_text().splitlines()]
    for line in lines:
        line["verdict"] = next(letter for letter, text in line["answers"].items() if text != "bad") + " 90"
    half, rest = tmp_path / "half.jsonl", tmp_path / "rest.jsonl"
    for path, part in ((half, lines[:3]), (rest, lines[3:])):
        path.write_text("".join(json.dumps(line) + "\n" for line in part))
    take = ["judge", "import", str(out), "--judge-model", "anna"]
    lacking = runner.invoke(app, [*take, str(half)])
    assert lacking.exit_code == 2 and "6 of 12 comparisons have no verdict" in lacking.stderr
    partly = runner.invoke(app, [*take, str(half), "--partial"])
    assert partly.exit_code == 0 and "6 comparisons of anna taken, 6 still open." in partly.stderr
    assert "6 comparisons wait" in evaluate(model_dir, prompts, out, *flags).stderr
    assert runner.invoke(app, [*take, str(rest)]).exit_code == 0
    done = evaluate(model_dir, prompts, out, *flags)
    assert done.exit_code == 0, done.output
    judged = json.loads(done.stdout)["judge"]
    assert judged["judged"] == 6 and judged["model"] == "anna"
    agreed = runner.invoke(app, ["judge", "agree", str(out), "anna"])
    assert agreed.exit_code == 0 and "anna, both orders" in agreed.stdout and "100.0%" in agreed.stdout
    assert runner.invoke(app, ["judge", "agree", str(out), "ben"]).exit_code == 2


def test_a_judge_in_trouble_costs_no_answer(model_dir: Path, prompts: Path, tmp_path: Path, desk: JudgeDesk):
    desk.plan = lambda shown, nth: "401"
    reference = tmp_path / "reference.json"
    rows = [{"instruction": one["instruction"], "output": "bad"} for one in json.loads(prompts.read_text())]
    reference.write_text(json.dumps(rows))
    flags = ("--limit", "1", "--judge-url", desk.url, "--judge-model", "m", "--reference", str(reference))
    done = evaluate(model_dir, prompts, tmp_path / "out", *flags)
    assert done.exit_code == 2 and "refuses the key" in done.stderr
    assert json.loads((tmp_path / "out" / "report.json").read_text())["number"] == 1


@pytest.mark.parametrize(
    "flags, says",
    [
        (("--judge-url", "http://x/v1"), "name it with --judge-model"),
        (("--reference", "x.json"), "serve a judge"),
        (("--judge-url", "http://x/v1", "--judge-model", "m", "--reference", "none.json"), "no file none.json"),
        (("--judge-url", "http://x/v1", "--judge-model", "m", "--calibration", "none"), "must hold both"),
        (("--judge-url", "http://x/v1", "--judge-model", "m", "--judge-key-env", "NO_SUCH"), "has no NO_SUCH"),
    ],
)
def test_options_are_checked_before_anything_is_done(
    model_dir: Path, prompts: Path, tmp_path: Path, flags: tuple[str, ...], says: str
):
    done = evaluate(model_dir, prompts, tmp_path / "out", *flags)
    assert done.exit_code == 2 and says in " ".join(done.stderr.split()) and not (tmp_path / "out").exists()


def test_prompts_that_fit_nowhere(model_dir: Path, tmp_path: Path):
    path = tmp_path / "long.jsonl"
    path.write_text(json.dumps({"prompt": "xyz " * 600}))
    done = evaluate(model_dir, path, tmp_path / "out")
    assert done.exit_code == 2 and "No prompt could be answered" in done.stderr and "window" in done.stderr


@pytest.mark.slow
def test_a_kill_repeats_and_loses_nothing(model_dir: Path, tmp_path: Path):
    path, out = tmp_path / "many.jsonl", tmp_path / "out"
    path.write_text("\n".join(json.dumps({"prompt": f"hello {k}"}) for k in range(60)))
    journal, log = out / "answers.jsonl", tmp_path / "log"
    words = ["eval", path, "--model", model_dir, "--out", out, "--max-tokens", 8, "--dtype", "float32"]
    process = start(log, pasta, *words)
    while process.is_alive() and not (journal.exists() and journal.read_bytes().count(b"\n") >= 3):
        time.sleep(0.002)
    process.kill()
    process.join()
    kept = [line for line in journal.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    assert 3 <= len(kept) < 60
    settings = json.loads((out / "settings.json").read_text())
    import torch

    settings["machine"]["threads"] = torch.get_num_threads()  # the test's own process may have more
    (out / "settings.json").write_text(json.dumps(settings))
    done = evaluate(model_dir, path, out, "--json")
    assert done.exit_code == 0, done.output
    lines = journal.read_bytes().splitlines(keepends=True)
    assert lines[: len(kept)] == kept and len(lines) == 60 and json.loads(done.stdout)["number"] == 60


def test_pareto(evaluated: Path, tmp_path: Path):
    pytest.importorskip("matplotlib")
    report = json.loads((evaluated / "report.json").read_text())
    for name, quality in (("better", 60.0), ("worse", 40.0)):
        fields = {"kind": "win rate", "value": quality, "low": quality - 1, "high": quality + 1, "baseline": 50.0}
        (tmp_path / f"{name}.json").write_text(json.dumps({**report, "name": name, "quality": fields}))
    reports = [str(tmp_path / f"{name}.json") for name in ("better", "worse")]
    done = runner.invoke(app, ["pareto", *reports, "--out", str(tmp_path / "fig")])
    assert done.exit_code == 0, done.output
    (line,) = [line for line in done.stdout.splitlines() if "worse" in line]
    assert "better" in line  # it dominates
    assert (tmp_path / "fig" / "pareto.png").exists() and (tmp_path / "fig" / "pareto.svg").exists()
    refused = runner.invoke(app, ["pareto", str(evaluated.parent / "none"), "--out", str(tmp_path)])
    assert refused.exit_code == 2 and "No such file" in refused.stderr
