"""Help and tables in terminals of several widths: nothing is cut, no word is broken."""

from __future__ import annotations

import json
import re
from io import StringIO
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console
from typer.testing import CliRunner

from pastalm.cli import app
from pastalm.cli.help import EXAMPLE, examples
from pastalm.cli.scores import print_curve, print_families, print_scores
from pastalm.cli.tables import print_table
from pastalm.evaluation import report
from pastalm.tasks import sample
from tests.cli.test_flags import ALL, commands
from tests.evaluation.made import answer, outcome

runner = CliRunner()
VERBS = ["", "train", "baseline", "judge", *(name for name, _ in commands())]


def lines(verb: str, width: int) -> list[str]:
    done = runner.invoke(app, [*verb.split(), "--help"], env={"COLUMNS": str(width)})
    assert done.exit_code == 0, done.output
    return done.output.split("\n")


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("width", [60, 80, 120])
def test_help_fits_and_breaks_no_word(verb: str, width: int) -> None:
    shown = lines(verb, width)
    assert max(map(len, shown)) <= width
    words = [set(" ".join(each).split()) for each in (shown, lines(verb, 200))]
    assert words[0] == words[1]  # the same words in a wide terminal, so none was broken in a narrow one


@pytest.mark.parametrize("verb", VERBS)
def test_a_usage_line_is_whole(verb: str) -> None:
    usage = " ".join(lines(verb, 80)).split("  ")[0]
    assert usage.startswith(f"Usage: pasta {verb}".rstrip()) and not set(usage) & set("{}")
    assert usage.count("[") == usage.count("]") and "......" not in usage
    for name, param, typed in ALL:
        if name == verb and param.param_type_name == "argument":
            assert f"{typed.removesuffix('...')}{'...' * (param.nargs == -1)}" in usage


@pytest.mark.parametrize("verb", [name for name, _ in commands()])
def test_flags_stand_whole_and_their_help_is_wide(verb: str) -> None:
    shown = lines(verb, 80)
    text = "\n".join(shown)
    for name, param, typed in ALL:
        if name == verb and param.param_type_name == "option":
            assert re.search(rf"^  {typed}\b", text, re.MULTILINE), typed
    assert max(map(len, shown)) > 60


def test_an_example_is_one_command_for_a_shell() -> None:
    text = examples("pasta run 'a very long prompt that is kept in one piece' --model my-model --max-tokens 12 --json")
    assert text.startswith("Examples:\n  pasta run")
    assert " ".join(text.replace("\\\n", " ").split("\n", 1)[1].split()).endswith("--max-tokens 12 --json")
    assert all(len(line) <= EXAMPLE + 2 for line in text.split("\n")) and "'a very long prompt that" in text


def test_all_that_is_missing_is_said_at_once_with_an_example() -> None:
    done = runner.invoke(app, ["eval"], env={"COLUMNS": "80"})
    assert done.exit_code == 2 and "Missing PROMPTS, --model, --out." in done.stderr
    assert "For example:\n  pasta eval tasks:held-out:330 --model my-model" in done.stderr
    done = runner.invoke(app, ["eval", "bundled"])
    assert done.exit_code == 2 and "Missing --model, --out." in done.stderr
    assert "Missing --data, --out." in runner.invoke(app, ["train", "sft", "--model", "m"]).stderr


def table(width: int) -> str:
    console = Console(file=StringIO(), width=width)
    heads = ("family", "theoretical x", "realised speedup", "dominated by", "efficiency")
    rows = [("a name of some length", "1.50", "1.40 (1.20 to 1.70)", "nobody at all", "0.93")]
    print_table(console, heads, rows, title="Figures of it", left=("dominated by",))
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_a_table_is_never_cut(width: int) -> None:
    shown = table(width)
    cells = ("a name of some length", "theoretical x", "1.50", "1.40 (1.20 to 1.70)", "nobody at all", "Figures of it")
    assert all(cell in shown for cell in cells) and max(map(len, shown.split("\n"))) <= width
    assert ("efficiency: 0.93" in shown) == (width < 100)  # a row after the other where the columns do not fit


def test_a_table_with_wide_characters_is_not_cut() -> None:
    """They take two columns each."""
    for width in range(20, 60):
        console = Console(file=StringIO(), width=width)
        print_table(console, ("model", "speed"), [("日本語のモデルの名前", "1.50")], title="速さ")
        shown = console.file.getvalue()  # type: ignore[attr-defined]
        assert "日本語のモデルの名前" in shown and "…" not in shown
        assert max(map(cell_len, shown.split("\n"))) <= width


def test_a_title_is_no_markup() -> None:
    console = Console(file=StringIO(), width=80)
    print_table(console, ("model",), [("a[/b], and a row as wide",)], title="Win rates by [bold]a[/b]")
    assert console.file.getvalue().startswith("Win rates by [bold]a[/b]\n")  # type: ignore[attr-defined]


def test_completion_is_offered() -> None:
    assert "--install-completion" in "\n".join(lines("", 80))


def test_the_first_lines_say_what_the_words_mean() -> None:
    text = " ".join(lines("", 80))
    assert all(word in text for word in ("promise", "chunk", "sync", "thread"))


ANNOTATED = (
    "Intro. <async topic='first topic here'>some five words for you</async> and "
    "<async topic='two'>x y z u v</async><sync/> end"
)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_what_check_and_show_print_fits(tmp_path: Path, tokenizer_dir: Path, width: int) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": "x", "annotated": ANNOTATED}) + "\n")
    (tmp_path / "a.txt").write_text(ANNOTATED + "\n")
    names = (["check", str(tmp_path / "a.jsonl")], ["show", str(tmp_path / "a.txt")])
    for line in names:
        done = runner.invoke(app, [*line, "--tokenizer", str(tokenizer_dir)], env={"COLUMNS": str(width)})
        assert done.exit_code == 0, done.output
        shown = done.stdout.split("\n")
        # The answer itself is printed as it is; all else keeps to the width, and nothing is cut.
        assert max(len(one) for one in shown if "Intro." not in one) <= width
        assert "…" not in done.stdout and all(word in done.stdout for word in ("theoretical speedup", "redundancy"))


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_tables_of_an_evaluation_fit(width: int) -> None:
    tasks = [task for task in sample("train", 3, 22) if task.family in ("profiles", "chain")]
    own = answer(seconds=0.5, path=40, errors=(1, -2), redundancy=0.25)
    outcomes = [outcome(own, prompt=task.prompt, family=task.family, facts=task.facts) for task in tasks]
    more = {"settings": {"promise_bias": 0.5, "baseline": ""}, "refused": [], "judge": None, "baseline": "plain"}
    found = report.report("a-model-of-some-name", outcomes, report.checker_quality(outcomes), **more)
    console = Console(file=StringIO(), width=width)
    print_scores(console, found)
    print_families(console, found)
    print_curve(console, [found, found])
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, shown.split("\n"))) <= width and "…" not in shown
    assert "Promise bias" in shown and "+0.5" in shown
    for words in ("theoretical speedup", "baseline's in circles", "should fork", "efficiency", "chunks"):
        assert words in shown
