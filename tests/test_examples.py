"""The examples and the README's Python run as they stand, and the answers they show are right."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
SHOWN = {
    "quick_start": ["which gives enots", '<promise topic="', "by 6 threads", "theoretical speedup: 2.56"],
    "stream_events": ["promised length", "is done", "turns into revir", "which gives repap"],
    "batch": ["which gives duolc", "(3 chunks,", "It is Eli.", "(0 chunks,"],
    "serve_and_ask": ["turns into revir", "tokens in 72 steps", '<promise topic="'],
    "train_your_own": ["async: ", "sequential: "],
}


def test_each_example_has_its_test() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(SHOWN)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHOWN)
def test_it_runs_as_it_stands(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    out = capfd.readouterr().out
    assert [text for text in SHOWN[name] if text not in out] == []
    assert list(tmp_path.iterdir()) == []


def test_the_python_of_the_readme_runs_in_its_order(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    exec(compile("\n".join(blocks), "README.md", "exec"), {})
    out = capsys.readouterr().out
    assert "turns into revir" in out and '<promise topic="' in out and "225 tokens in 72 steps" in out
