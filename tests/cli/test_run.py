"""`pasta run` with a tiny random model."""

from __future__ import annotations

import json
import subprocess
import sys
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from pastalm.cli import app
from pastalm.cli.answers import timing_notes
from pastalm.cli.prompts import DEFAULT_PROMPT, PromptError, read_prompt
from pastalm.evaluation.comparison import Pair
from tests.evaluation.made import answer

runner = CliRunner()


def run(model: Path, *flags: str, **options: object) -> Result:
    return runner.invoke(app, ["run", "--model", str(model), "--max-tokens", "40", *flags], **options)


def test_the_answer_is_on_stdout_and_the_figures_on_stderr(model_dir: Path):
    done = run(model_dir, "hello world")
    assert done.exit_code == 0, done.output
    expected = json.loads(run(model_dir, "hello world", "--json", "--no-compare").stdout)["text"]
    assert done.stdout == expected + "\n" and expected
    assert "\nDecoding it once more, and sequentially, to compare times" in done.stderr
    for row in ("tokens", "decode steps", "critical path", "parallelism", "wall time", "tokens/s", "efficiency"):
        assert f"\n{row} " in done.stderr
    assert "realised speedup" in done.stderr and "A limit ended this answer" in done.stderr


def test_lost_speedup_is_explained():
    assert not list(timing_notes(Pair(answer(path=50, seconds=0.6), answer())))
    (note,) = timing_notes(Pair(answer(path=50, seconds=1.0), answer()))
    assert "times count on an idle machine" in note


def test_json_is_one_object(model_dir: Path):
    sampling = ("--temperature", "1.5", "--seed", "3")
    done = run(model_dir, "hello world", "--json", *sampling)
    assert done.stderr == ""
    fields = json.loads(done.stdout)
    metrics, baseline, speedup = fields["metrics"], fields["baseline"], fields["speedup"]
    assert speedup["theoretical"] == pytest.approx(baseline["metrics"]["tokens"] / metrics["critical_path"])
    assert speedup["realised"] == pytest.approx(baseline["metrics"]["wall_seconds"] / metrics["wall_seconds"])
    assert speedup["efficiency"] == pytest.approx(speedup["realised"] / speedup["theoretical"])
    alone = json.loads(run(model_dir, "hello world", "--json", "--mode", "sequential", *sampling).stdout)
    assert alone["text"] == baseline["text"] and alone["baseline"] is None and alone["speedup"] is None


def test_prompts_from_stdin_and_file(model_dir: Path, tmp_path: Path):
    file = tmp_path / "prompt.txt"
    file.write_text("foo bar\n")
    flags = ("--json", "--no-compare")
    texts = [
        json.loads(done.stdout)["prompt_tokens"]
        for done in (
            run(model_dir, "foo bar", *flags),
            run(model_dir, "-", *flags, input="foo bar\n"),
            run(model_dir, *flags, input="foo bar\n"),
            run(model_dir, "--file", str(file), *flags),
        )
    ]
    assert len(set(texts)) == 1 and texts[0] > 0


def test_no_prompt_on_a_terminal_is_the_example(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.stdin", type("Terminal", (), {"isatty": lambda self: True})())
    assert read_prompt(None, None) == DEFAULT_PROMPT
    assert read_prompt("hi", None) == "hi"
    with pytest.raises(PromptError, match="empty"):
        read_prompt(" ", None)


def test_nothing_on_stdin_is_the_example_unless_it_was_asked_for(monkeypatch: pytest.MonkeyPatch):
    for prompt, typed in ((None, b""), ("-", b""), (None, b" \n"), (None, b"hi\n")):
        monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO(typed)))
        if typed.strip() or (prompt is None and not typed):
            assert read_prompt(prompt, None) == (typed.decode().strip() or DEFAULT_PROMPT)
        else:
            with pytest.raises(PromptError, match="empty"):
                read_prompt(prompt, None)


def test_a_chat_template_is_used_unless_raw(model_dir: Path, tmp_path: Path):
    from shutil import copytree

    chat = tmp_path / "chat"
    copytree(model_dir, chat)
    (chat / "chat_template.jinja").write_text("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}")
    flags = ("hello", "--json", "--no-compare")
    lengths = [
        json.loads(done.stdout)["prompt_tokens"]
        for done in (run(model_dir, *flags), run(chat, *flags, "--raw"), run(chat, *flags))
    ]
    assert lengths[0] == lengths[1] < lengths[2]


@pytest.mark.parametrize(
    "flags, said",
    [
        (("--positions", "nope"), "Unknown position policy 'nope'"),
        (("--max-threads", "0"), "--max-threads must be"),
        (("--temperature", "-1"), "--temperature must be"),
        (("--promise-bias", "-4"), "--promise-bias is a number from -3"),
        (("--file", "no-such-file"), "No such file"),
        (("a caf\udce9",), "The prompt is not UTF-8 text"),
        (("--device", "cuda:99"), "cuda:99"),
    ],
)
def test_refusals_are_one_sentence(model_dir: Path, flags: tuple[str, ...], said: str):
    done = run(model_dir, *(() if flags[0] == "--file" or len(flags) == 1 else ("hello",)), *flags)
    assert done.exit_code == 2 and said in done.stderr and done.stderr.count("\n") == 1 and done.stdout == ""


def test_too_little_memory_is_one_sentence(model_dir: Path):
    done = run(model_dir, "hello", "--mode", "sequential", "--max-tokens", str(1 << 42))
    assert done.exit_code == 2 and done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("There is no memory for this request: ask for fewer tokens")


def test_models_that_cannot_be_loaded(tmp_path: Path):
    for place in (tmp_path, tmp_path / "missing"):
        done = run(place, "hello")
        assert done.exit_code == 2 and str(place) in done.stderr and done.stderr.count("\n") == 1
    done = run(Path("org/a[") / "b]", "hello")  # no markup of ours
    assert done.exit_code == 2 and "org/a[/b]" in done.stderr and done.stderr.count("\n") == 1


def test_the_baseline_is_called_as_it_is(model_dir: Path, tmp_path: Path):
    from shutil import copytree

    baseline = copytree(model_dir, tmp_path / "base[v1]")
    done = run(model_dir, "hello", "--baseline", str(baseline))
    assert done.exit_code == 0 and "sequential answer of base[v1]" in done.stderr


def test_a_model_without_tags_is_told_what_to_do(model_dir: Path, tmp_path: Path):
    from shutil import copytree

    plain = tmp_path / "plain"
    copytree(model_dir, plain)
    saved = json.loads((plain / "tokenizer.json").read_text())
    saved["added_tokens"] = [token for token in saved["added_tokens"] if token["content"] == "<eos>"]
    (plain / "tokenizer.json").write_text(json.dumps(saved))
    settings = json.loads((plain / "tokenizer_config.json").read_text())
    settings = {key: value for key, value in settings.items() if "added" not in key and "special" not in key}
    (plain / "tokenizer_config.json").write_text(json.dumps(settings))
    done = run(plain, "hello")
    assert done.exit_code == 2 and "pasta train sft" in done.stderr and "--mode sequential" in done.stderr
    assert run(plain, "hello", "--mode", "sequential").exit_code == 0


def test_watching_draws_the_threads_and_returns_the_same_answer(model_dir: Path):
    from pastalm.cli.live import watch
    from pastalm.runtime.engine import Engine

    engine = Engine.from_pretrained(str(model_dir))
    options = {"max_tokens": 150, "temperature": 1.5, "seed": 5}
    console = Console(file=StringIO(), force_terminal=True, width=80, height=24)
    response = watch(engine, "hello world", options, console)
    assert response.annotated == engine.generate("hello world", **options).annotated
    page = console.file.getvalue()  # type: ignore[attr-defined]
    assert "main" in page and f"{response.metrics.tokens}" and "tokens" in page
    assert len(response.threads) == 1 or "1 " + response.threads[1].topic.split()[0] in page


@pytest.mark.slow
def test_a_real_process_is_clean(model_dir: Path):
    code = "from pastalm.cli import app; app()"
    flags = ["run", "hello", "--model", str(model_dir), "--max-tokens", "20", "--json"]
    done = subprocess.run([sys.executable, "-c", code, *flags], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "" and json.loads(done.stdout)["metrics"]["tokens"] > 0
