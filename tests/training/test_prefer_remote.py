"""Stage 2 with a model behind a completion server: it draws the answers, and training scores them in its views."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from pastalm.data.questions import read_questions
from pastalm.files.journal import Journal
from pastalm.lang.positions import CONTIGUOUS
from pastalm.lang.vocabulary import Vocabulary
from pastalm.layout import IGNORE
from pastalm.runtime.load import load
from pastalm.training.base import SettingsError
from pastalm.training.pairs import Pairs, SampledAnswer, sampled_answer
from pastalm.training.prefer import train_prefer
from pastalm.training.sampling import FIELDS
from pastalm.views import view_layout
from tests.runtime.remote.plain_server import PlainServer, Writer, serving, writing
from tests.training.prefer_model import settings, variety, write_model, write_prompts


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), tokenizer)


def promising(write: Writer, vocabulary: Vocabulary) -> Writer:
    """Has a model whose promises are broken, since nothing enforces the grammar at a server, finish each that it
    begins."""
    topic, number = vocabulary.encode("foo"), vocabulary.encode("2")
    promise = [vocabulary.promise_topic, *topic, vocabulary.promise_tokens, *number, vocabulary.promise_end]

    def written(ids: Sequence[int], body: Mapping[str, Any]) -> int:
        begun = next((k for k in range(len(promise) - 1, 0, -1) if list(ids[-k:]) == promise[:k]), 0)
        return promise[begun] if begun else write(ids, body)

    return written


def plain_log_probability(model: Any, answer: SampledAnswer) -> float:
    """Of an answer's tokens, each behind the ids that the server was sent, as a plain causal pass has it."""
    laid = view_layout(answer.example.prompt, answer.example.script)
    rows = [k for k in (laid.targets != IGNORE).nonzero()[:, 0].tolist() if k not in answer.silent]
    logits = [model(input_ids=laid.tokens[laid.mask()[row]][None]).logits[0, -1] for row in rows]
    found = torch.stack(logits).log_softmax(-1).gather(-1, laid.targets[rows][:, None])
    return float(found.sum())


def test_the_server_draws_and_training_scores_its_views(model: Path, tmp_path: Path) -> None:
    known, tokenizer = load(str(model), "cpu", "float32")
    plain = PlainServer(promising(writing(known), Vocabulary(tokenizer)), longest=4096)
    data, out = write_prompts(tmp_path / "prompts.jsonl", 3), tmp_path / "out"
    with serving(plain.app) as url:
        train_prefer(settings(model, data, out, remote=[url], rounds=1), variety)
    assert {body["temperature"] for body in plain.asked} == {0.0, 1.0}  # the baseline's answers and the samples
    assert json.loads((out / "model" / "config.json").read_text())["pasta_positions"] == CONTIGUOUS
    lines = [json.loads(line) for line in (out / "round1" / "pairs.jsonl").read_text().splitlines()]
    prompts = {one.index: one.prompt for one in read_questions(str(data), None)}
    with Journal(out / "round1" / "samples.jsonl", FIELDS) as samples, torch.inference_mode():
        assert any(line["chunks"] for line in samples.values())
        pairs = Pairs(lines, prompts, samples, Vocabulary(tokenizer), in_views=True)
        expected = {
            pairs[k].prompt: [plain_log_probability(known, one) for one in (pairs[k].chosen, pairs[k].rejected)]
            for k in range(len(lines))
        }
    for line in map(json.loads, (out / "round1" / "reference.jsonl").read_text().splitlines()):
        assert [line["chosen"], line["rejected"]] == pytest.approx(expected[line["prompt"]], rel=1e-4)


def test_no_loss_is_on_what_the_driver_wrote(vocabulary: Vocabulary) -> None:
    """A server follows no grammar, so all tokens of a promise are the model's; the end of a cut chunk is not."""
    tokens = [vocabulary.promise_topic, *vocabulary.encode("foo"), vocabulary.promise_tokens, *vocabulary.encode("345")]
    tokens += [vocabulary.promise_end, vocabulary.async_start, *vocabulary.encode("x"), vocabulary.async_end]
    blocks = [[-1, "", 0, 0, 0], [0, "foo", 345, 1 << 40, 1]]
    script = {"tokens": tokens, "block": [0] * (len(tokens) - 3) + [1] * 3, "blocks": blocks}
    answer = sampled_answer([5], {"script": script, "cut": [1], "ended": False}, vocabulary, in_views=True)
    laid = view_layout([5], answer.example.script)
    assert [laid.targets[place].item() for place in answer.silent] == [vocabulary.async_end]


def refused(said: str, model: Path, out: Path, **more: Any) -> None:
    with pytest.raises((ValueError, SettingsError), match=said):
        train_prefer(settings(model, out / "prompts.jsonl", out / "out", remote=["http://127.0.0.1:9/v1"], **more))


def test_what_a_server_cannot_do_is_refused(model: Path, tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts.jsonl", 2)
    refused("one round: give --rounds 1", model, tmp_path)
    config = json.loads((model / "config.json").read_text())
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps(config | {"pasta_positions": "pred10"}))
    refused("was trained with the positions 'pred10'", other, tmp_path, rounds=1, quality="redundancy")
