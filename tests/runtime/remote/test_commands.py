"""`pasta eval`, `bench` and `train prefer` with a model behind a completion server, over real HTTP."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from typer.testing import CliRunner, Result

from pastalm.cli import app
from pastalm.evaluation.bench.remote import CACHED, MeasuredServer, cached_tokens
from pastalm.lang.parse import parse
from pastalm.lang.positions import CONTIGUOUS, position_policy
from pastalm.lang.script import compile_script
from pastalm.lang.vocabulary import Vocabulary
from pastalm.runtime.engine import Engine
from pastalm.runtime.mode import Mode
from tests.runtime.remote.plain_server import MODEL, PlainServer, knowing, serving, writing

PROMPT = "hello world"
ANSWER = "So <async topic='one'>foo bar</async> and <async topic='two'>12 34</async>.<sync/> Then end"


@pytest.fixture
def model(tiny_llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Path:
    """The folder of the model that :func:`plain` serves."""
    folder = tmp_path / "model"
    tiny_llama.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def plain(tiny_llama: LlamaForCausalLM) -> Iterator[tuple[PlainServer, str]]:
    plain = PlainServer(writing(tiny_llama))
    with serving(with_counter(plain.app, 7)) as url:
        yield plain, url


def with_counter(app: FastAPI, tokens: int) -> FastAPI:
    """An app with a page of metrics as vLLM has it."""
    line = f'{CACHED}{{engine="0",model_name="{MODEL}"}} {float(tokens)}'
    app.get("/metrics")(lambda: PlainTextResponse(f"# HELP {CACHED} tokens\n{line}\n"))
    return app


def pasta(*words: object) -> Result:
    return CliRunner().invoke(app, list(map(str, words)))


def data(folder: Path, *lines: dict) -> Path:
    place = folder / "data.jsonl"
    place.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return place


def test_eval(plain: tuple[PlainServer, str], model: Path, tmp_path: Path) -> None:
    """The model's answer and the baseline's, which is the same model's, are the server's."""
    (_, url), out = plain, tmp_path / "out"
    prompts = data(tmp_path, {"prompt": PROMPT})
    found = pasta("eval", prompts, "--model", model, "--remote", url, "--out", out, "--max-tokens", 12)
    assert found.exit_code == 0, found.output
    line = json.loads((out / "answers.jsonl").read_text())
    own = Engine.from_pretrained(str(model), "cpu", "float32").generate(PROMPT, mode="sequential", max_tokens=12)
    assert line["baseline"]["text"] == own.text and line["answer"]["metrics"]["tokens"] == 12
    assert json.loads((out / "settings.json").read_text())["machine"]["device"] == url


def test_what_an_answer_costs(vocabulary: Vocabulary, tokenizer: PreTrainedTokenizerFast) -> None:
    prompt = vocabulary.encode(PROMPT)
    script = compile_script(parse(ANSWER), vocabulary, position_policy(CONTIGUOUS))
    with serving(PlainServer(knowing((prompt, script))).app) as url:
        engine = Engine.remote(url, None, tokenizer)
        server = MeasuredServer(engine, [url])
        assert server.answer(PROMPT, Mode.ASYNC).text == parse(ANSWER).plain
        engine.release()
    costs = server.costs[Mode.ASYNC]
    first, second = (index for index, token in enumerate(script.tokens) if token == vocabulary.async_start)
    children = (first + 1) + (second + 1 - script.blocks[1].content - 2)  # what each sees; the second not the first
    joined = script.tokens.index(vocabulary.sync) + 1
    assert (costs.requests, costs.sent) == (4, 4 * len(prompt) + children + joined)  # main twice
    assert (costs.answers, costs.prompts, costs.cached, costs.again) == (1, len(prompt), None, None)


def test_bench(plain: tuple[PlainServer, str], model: Path, tmp_path: Path) -> None:
    plain[0].longest = 60
    known, out = data(tmp_path, {"prompt": PROMPT, "annotated": ANSWER}), tmp_path / "out"
    command = ("bench", "--model", model, "--remote", plain[1], "--data", known, "--sequences", "1,2", "--out", out)
    found, refused = pasta(*command), pasta(*command, "--only", "steps")
    assert found.exit_code == 0, found.output
    report = json.loads((out / "bench.json").read_text())
    assert [one["sequences"] for one in report["load"]] == [1, 2] and len(report["replay"]) == 1
    sequential = report["costs"][1]
    assert sequential["answers"] == sequential["requests"] == 1
    assert sequential["sent"] == sequential["prompts"] and sequential["cached"] == sequential["again"] == 0
    assert "What the server was asked" in found.stdout and plain[1] in found.stdout
    assert refused.exit_code == 2 and "choose from replay, load" in refused.stderr


def test_counts_of_a_servers_cache(tiny_llama: LlamaForCausalLM, plain: tuple[PlainServer, str]) -> None:
    assert cached_tokens([plain[1], plain[1]]) == 14
    with serving(PlainServer(writing(tiny_llama)).app) as silent:
        assert cached_tokens([silent]) is None


def test_a_missing_package_is_named(model: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    done = pasta("run", PROMPT, "--model", model, "--remote", "http://127.0.0.1:9/v1")
    assert done.exit_code == 2 and "pip install 'pastalm[remote]'" in " ".join(done.output.split())
