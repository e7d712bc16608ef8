"""`pasta run` and `pasta serve` in front of a completion server: one command, one gateway, real HTTP on both sides."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from pastalm.cli import app
from pastalm.lang.parse import parse
from pastalm.lang.positions import position_policy
from pastalm.lang.script import compile_script
from pastalm.lang.vocabulary import Vocabulary
from pastalm.runtime.engine import Engine
from pastalm.serving.app import build_app
from pastalm.serving.config import ServerConfig
from pastalm.serving.worker import Worker
from tests.runtime.remote.plain_server import PlainServer, knowing, serving

PROMPT = "hello world"
ANSWER = "So <async topic='one'>foo bar</async> and <async topic='two'>12 34</async>.<sync/> Then end"


@pytest.fixture
def url(vocabulary: Vocabulary) -> Iterator[str]:
    script = compile_script(parse(ANSWER), vocabulary, position_policy("contiguous"))
    with serving(PlainServer(knowing((vocabulary.encode(PROMPT), script))).app) as url:
        yield url


def test_run(url: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    command = ["run", PROMPT, "--model", str(tmp_path), "--remote", url, "--no-compare"]
    found = CliRunner().invoke(app, command)
    assert found.exit_code == 0, found.output
    assert parse(ANSWER).plain in found.stdout
    assert url in found.stderr  # what the figures were measured on


def test_a_tokenizer_s_own_code_is_run_if_it_is_trusted(
    url: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    own = tmp_path / "own"
    tokenizer.save_pretrained(own)
    (own / "own.py").write_text(
        "from transformers import PreTrainedTokenizerFast\n\nclass OwnTokenizer(PreTrainedTokenizerFast):\n    pass\n"
    )
    place = own / "tokenizer_config.json"
    fields = {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": [None, "own.OwnTokenizer"]}}
    place.write_text(json.dumps(json.loads(place.read_text()) | fields))
    command = ["run", PROMPT, "--model", str(own), "--remote", url, "--no-compare"]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 2 and "--trust-remote-code" in refused.stderr
    found = CliRunner().invoke(app, [*command, "--trust-remote-code"])
    assert found.exit_code == 0 and parse(ANSWER).plain in found.stdout, found.output


def test_threads_of_a_step_are_the_server_s(url: str) -> None:
    refused = CliRunner().invoke(app, ["serve", "bundled", "--remote", url, "--max-batch-threads", "4"])
    assert refused.exit_code == 2 and "not about one behind --remote" in refused.stderr


def test_run_without_a_server(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pastalm.runtime.remote.server.FIRST_PAUSE", 0.001)
    tokenizer.save_pretrained(tmp_path)
    command = ["run", PROMPT, "--model", str(tmp_path), "--remote", "http://127.0.0.1:9/v1"]
    found = CliRunner().invoke(app, command)
    assert found.exit_code == 2
    assert "http://127.0.0.1:9/v1 has failed" in found.stderr
    assert "Traceback" not in found.output


def test_a_gateway_streams_what_the_server_knows(url: str, tokenizer: PreTrainedTokenizerFast) -> None:
    engine = Engine.remote(url, None, tokenizer)
    worker = Worker(engine, max_batch=4)
    try:
        with serving(build_app(worker, ServerConfig("gateway", "", 1024, "async", (), False))) as gateway:
            client = OpenAI(base_url=gateway, api_key="none")
            stream = client.completions.create(model="gateway", prompt=PROMPT, stream=True, max_tokens=200)
            text = "".join(chunk.choices[0].text for chunk in stream if chunk.choices)
        assert text == parse(ANSWER).plain
    finally:
        engine.release()
