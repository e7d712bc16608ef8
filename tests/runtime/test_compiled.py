"""A compiled pass gives what the eager one gives, for any number of queries; one that cannot be made ends nothing."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import pytest
import torch
from torch._inductor.runtime.cache_dir_utils import default_cache_dir
from transformers import PreTrainedTokenizerFast

from pastalm import Engine, Response
from pastalm.runtime.compiled import CACHE, FOLDER, CompiledPass, choose_folder
from pastalm.runtime.runner import Runner
from tests.runtime.families import tiny

ANNOTATED = "ab <async topic='x y'>cd hello world</async> foo <async topic='z'>ef bar</async>g<sync/>hello"
needs_a_compiler = pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="no C++ compiler")


def observed(engine: Engine, **options: object) -> tuple[Response, list[torch.Tensor]]:
    """A known answer by force, and the logits of all its choices, thread by thread."""
    script = engine.replay("hello", ANNOTATED).script
    seen: dict = {}
    response = engine.replay_script(
        engine.encode("hello"),
        script,
        engine.policy(),
        observe=lambda path, row, token: seen.setdefault(path, []).append(row.clone()),
        **options,  # type: ignore[arg-type]
    )
    return response, [row for path in sorted(seen) for row in seen[path]]


@needs_a_compiler
def test_compiled_equals_eager(tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> None:
    eager = Engine(tiny("gemma2", len(tokenizer), layers=2), tokenizer)  # windows, soft caps, shared heads
    engine = Engine(tiny("gemma2", len(tokenizer), layers=2), tokenizer, compile=True)
    compiled = engine.runner.run_model
    assert isinstance(compiled, CompiledPass) and compiled.active
    monkeypatch.setattr(compiled, "eager", None)  # from here on nothing but graphs
    torch._dynamo.utils.counters.clear()
    for options in ({}, {"max_threads": 1}, {"max_threads": 2}):
        expected, rows = observed(eager, **options)
        response, found = observed(engine, **options)
        assert response.annotated == expected.annotated
        torch.testing.assert_close(torch.stack(found), torch.stack(rows), atol=1e-5, rtol=0)
    prompts = ["hello", "foo bar 12", "34 world " * 3]
    wild = {"max_tokens": 24, "temperature": 1.0, "seed": 3, "mode": "sequential"}
    expected_texts = [one.text for one in eager.generate_batch(prompts, **wild)]
    assert [one.text for one in engine.generate_batch(prompts, **wild)] == expected_texts
    assert [engine.generate(prompt, **wild).text for prompt in prompts] == expected_texts
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 0, "every graph was made by the warm-up"


@pytest.mark.parametrize("when", ["at once", "later"])
def test_what_cannot_be_compiled_runs_without(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, when: str
) -> None:
    def broken(function: object, **_: object) -> object:
        calls = iter(range(100))

        def run(*inputs: object) -> object:
            if when == "later" and next(calls) < 4:
                return function(*inputs)  # type: ignore[operator]
            raise RuntimeError("no compiler\nhere")

        return run

    expected = Engine(tiny("llama", len(tokenizer)), tokenizer).generate("hello", max_tokens=20, mode="sequential")
    monkeypatch.setattr(torch, "compile", broken)
    with caplog.at_level(logging.WARNING):
        engine = Engine(tiny("llama", len(tokenizer)), tokenizer, compile=True)
        assert engine.generate("hello", max_tokens=20, mode="sequential").text == expected.text
    said = [record.message for record in caplog.records if "compiled" in record.message]
    assert said == ["The step cannot be compiled (no compiler here); it runs without, more slowly."]


@pytest.mark.parametrize("named, kept", [(None, CACHE), ("torch's own", CACHE), ("/some/where", Path("/some/where"))])
def test_where_compiled_code_is_kept(named: str | None, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FOLDER, raising=False)
    if named:
        monkeypatch.setenv(FOLDER, default_cache_dir() if named == "torch's own" else named)
    choose_folder()
    assert Path(os.environ[FOLDER]) == kept.expanduser()


def test_without_compile_nothing_is_compiled(tokenizer: PreTrainedTokenizerFast) -> None:
    assert not isinstance(Runner(tiny("llama", len(tokenizer))).run_model, CompiledPass)
