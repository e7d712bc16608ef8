"""A compiled pass gives what the eager one gives, for any number of queries; one that cannot be made ends nothing."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._inductor.runtime.cache_dir_utils import default_cache_dir
from transformers import PreTrainedTokenizerFast

from pastalm import Engine, Response
from pastalm.runtime import compiled
from pastalm.runtime.attention import AttentionContext
from pastalm.runtime.compiled import ABANDONED, CACHE, FOLDER, CompiledPass, choose_folder
from pastalm.runtime.memory import OutOfMemoryError
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
    graphs = engine.runner.run_model
    assert isinstance(graphs, CompiledPass) and graphs.active
    monkeypatch.setattr(graphs, "eager", None)  # from here on nothing but graphs
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


BROKEN = RuntimeError("no compiler\nhere")
NARROW = torch._dynamo.exc.TorchDynamoException("DefaultCPUAllocator: no compiler here")  # no memory to compile in


@pytest.mark.parametrize(("when", "error"), [("at once", BROKEN), ("later", BROKEN), ("at once", NARROW)])
def test_what_cannot_be_compiled_runs_without(
    tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    when: str,
    error: Exception,
) -> None:
    def broken(function: object, **_: object) -> object:
        calls = iter(range(100))

        def run(*inputs: object) -> object:
            if when == "later" and next(calls) < 4:
                return function(*inputs)  # type: ignore[operator]
            raise error

        return run

    expected = Engine(tiny("llama", len(tokenizer)), tokenizer).generate("hello", max_tokens=20, mode="sequential")
    monkeypatch.setattr(torch, "compile", broken)
    with caplog.at_level(logging.WARNING):
        engine = Engine(tiny("llama", len(tokenizer)), tokenizer, compile=True)
        assert engine.generate("hello", max_tokens=20, mode="sequential").text == expected.text
    said = [record.message for record in caplog.records if "compiled" in record.message]
    assert said == [
        f"The step cannot be compiled ({' '.join(str(error).split())}); it runs without, more slowly. Compiled code is "
        f"kept in {os.environ[FOLDER]}."
    ]


def test_an_error_of_a_request_leaves_the_pass_compiled(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    narrow: list[bool] = []

    def compiler(function: Callable[..., object], **_: object) -> object:
        def run(*inputs: object) -> object:
            if narrow:
                torch.empty(1 << 60)  # what torch says where there is no memory
            return function(*inputs)

        return run

    monkeypatch.setattr(torch, "compile", compiler)
    engine = Engine(tiny("llama", len(tokenizer)), tokenizer, compile=True)
    expected = engine.generate("hello", max_tokens=9, mode="sequential").text
    narrow.append(True)
    with pytest.raises(OutOfMemoryError):
        engine.generate("hello", max_tokens=9, mode="sequential")
    narrow.clear()
    wrong = engine.request("hello", max_tokens=9, mode="sequential")
    wrong.prompt = [1 << 20]  # no such token: neither pass can read it
    with pytest.raises(IndexError):
        engine.run(wrong)
    graphs = engine.runner.run_model
    assert isinstance(graphs, CompiledPass) and graphs.active and not caplog.records
    assert engine.generate("hello", max_tokens=9, mode="sequential").text == expected


@pytest.mark.parametrize("named, kept", [(None, CACHE), ("torch's own", CACHE), ("/some/where", Path("/some/where"))])
def test_where_compiled_code_is_kept(named: str | None, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, default_cache_dir() if named == "torch's own" else named or "")  # put back afterwards
    if named is None:
        monkeypatch.delenv(FOLDER)
    assert choose_folder() == Path(os.environ[FOLDER]) == kept.expanduser()


@pytest.mark.parametrize("home", ["below a file", "nobody's"])
def test_without_a_home_folder_it_is_kept_where_torch_keeps_it(
    home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    cache = tmp_path / "file" / "compiled" if home == "below a file" else Path("~nobody-of-this-name/compiled")
    monkeypatch.setattr(compiled, "CACHE", cache)
    monkeypatch.setenv(FOLDER, default_cache_dir())
    assert str(choose_folder()) == os.environ[FOLDER] == default_cache_dir()


def test_what_a_killed_compiler_left_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    (tmp_path / "ab").mkdir()
    dead, running, done = (tmp_path / "ab" / f"{name}.main.so" for name in ("dead", "running", "done"))
    for file in (dead, running, done):
        file.touch()
    done.write_text("code")
    long_ago = running.stat().st_mtime - 2 * ABANDONED
    for file in (dead, done):
        os.utime(file, (long_ago, long_ago))
    choose_folder()
    assert {file.name for file in dead.parent.iterdir()} == {running.name, done.name}


class Smallest(nn.Module):
    """A model that is a table and a head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(11, width), nn.Linear(width, 11)

    def get_input_embeddings(self) -> nn.Module:
        return self.table

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def logits(self, tokens: torch.Tensor, positions: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        return self.head(self.table(tokens))[:, keep]


def compiled_pass(model: Smallest) -> CompiledPass:
    return CompiledPass(model.logits, AttentionContext(), fold=False)


@needs_a_compiler
@torch._dynamo.config.patch(recompile_limit=2)
def test_each_has_graphs_of_its_own() -> None:
    """Two graphs each, where torch compiles one function for two and no more."""
    models = [Smallest(16), Smallest(32)]
    graphs = [compiled_pass(model) for model in models]
    for size in (1, 3):
        inputs = (torch.arange(size)[None], torch.arange(size)[None], torch.arange(max(1, size - 1)))
        for model, one in zip(models, graphs, strict=True):
            with torch.inference_mode():
                torch.testing.assert_close(one(*inputs), model.logits(*inputs), atol=1e-5, rtol=0)
    assert all(one.active for one in graphs)


def test_without_compile_nothing_is_compiled(tokenizer: PreTrainedTokenizerFast) -> None:
    assert not isinstance(Runner(tiny("llama", len(tokenizer))).run_model, CompiledPass)
