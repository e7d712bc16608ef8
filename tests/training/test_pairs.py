"""Sampled answers as training examples: the tokens, the log-probabilities and the targets are those of the decoding."""

from __future__ import annotations

import json
from copy import deepcopy
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from pastalm.data.questions import Question
from pastalm.files.journal import Journal
from pastalm.files.lines import DataError
from pastalm.files.lock import held
from pastalm.lang.positions import POLICIES
from pastalm.lang.vocabulary import Vocabulary
from pastalm.layout import IGNORE
from pastalm.runtime.attention import attach
from pastalm.runtime.engine import Engine
from pastalm.training.optimise import reference_log_probabilities
from pastalm.training.pairs import (
    PairCollator,
    PreferencePair,
    SampledAnswer,
    forced_tokens,
    sampled_answer,
    share_rows,
)
from pastalm.training.sampling import FIELDS, Sampling, sample, sampled
from tests.training.prefer_model import WINDOW, write_model

POLICY = POLICIES["pred10"]
PROMPTS = ["add 1", "tell me of foo and bar", "x"]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Engine:
    """A model whose promises have long numbers: their ends are forced."""
    folder = write_model(tmp_path_factory.mktemp("model"), tokenizer, digits=3.0)
    return Engine.from_pretrained(str(folder), device="cpu", dtype="float32")


def drawn(engine: Engine, prompt: str, seed: int, **options) -> tuple[dict, float, int]:
    """A sampled answer as a journal has it, the log-probability of its choices while they were made, their number."""
    noted: list[tuple[int, float]] = []

    def note(path, logits, token) -> None:
        noted.append((token, torch.log_softmax(logits.float(), -1)[token].item()))

    response = engine.generate(prompt, temperature=1.0, seed=seed, observe=note, max_tokens=80, **options)
    line = json.loads(json.dumps(sampled((0, seed), response)))
    # an answer that a limit cut has no end, even if its main thread had come to one
    values = [value for token, value in noted if line["ended"] or token != engine.tokenizer.eos_token_id]
    return line, sum(values), len(values)


@pytest.fixture(scope="module")
def answers(engine: Engine) -> list[tuple[SampledAnswer, float, int, dict]]:
    """Answers of all kinds: whole ones, ones cut off as a whole or in a chunk, with and without chunks."""
    vocabulary = Vocabulary(engine.tokenizer)
    found = []
    for seed in range(9):
        prompt = PROMPTS[seed % 3]
        options = {"max_async_tokens": 3} if seed % 2 else {}
        line, log_p, choices = drawn(engine, prompt, seed, **options)
        found.append((sampled_answer(engine.encode(prompt), line, vocabulary), log_p, choices, line))
    return found


def test_training_scores_exactly_what_was_chosen(engine: Engine, answers):
    """The dense forward pass of training gives each sampled answer the log-probability that it was decoded with; tokens
    that nobody chose count in neither."""
    vocabulary = Vocabulary(engine.tokenizer)
    kinds = {(line["ended"], bool(line["cut"])) for *_, line in answers}
    assert {(True, False), (True, True), (False, True)} <= kinds and any(line["chunks"] for *_, line in answers)
    assert any(answer.silent for answer, *_ in answers)
    context = attach(engine.runner.model)
    pairs = [PreferencePair(k, one[0], other[0]) for k, (one, other) in enumerate(pairwise(answers))]
    batch = PairCollator(POLICY, 0)(pairs)
    assert len(batch["input_ids"]) < 2 * len(pairs), "short answers share rows"
    found = reference_log_probabilities(engine.runner.model, context, batch, dtype="float32")
    for index, (chosen, rejected) in enumerate(found):
        assert chosen == pytest.approx(answers[index][1], rel=1e-4), answers[index][3]["annotated"]
        assert rejected == pytest.approx(answers[index + 1][1], rel=1e-4)
    for answer, _, choices, _ in answers:
        labels = PairCollator(POLICY, 0)([PreferencePair(0, answer, answer)])["labels"]
        assert (labels != IGNORE).sum() == 2 * choices
    assert engine.tokenizer.eos_token_id in vocabulary.eos


def test_answers_that_fill_the_window_are_scored_by_the_positions_that_there_are(tokenizer: PreTrainedTokenizerFast):
    """GPT-2 has a table of positions, which ends."""
    torch.manual_seed(0)
    config = AutoConfig.for_model("gpt2", vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4, n_positions=40)
    engine = Engine(AutoModelForCausalLM.from_config(config).eval(), tokenizer)
    vocabulary = Vocabulary(engine.tokenizer)
    context, collator = attach(engine.runner.model), PairCollator(POLICY, 0, window=40)
    beyond = 0
    for seed in range(12):
        line, log_p, _ = drawn(engine, "add 1", seed, promise_bias=3.0 * (seed % 2))
        answer = sampled_answer(engine.encode("add 1"), line, vocabulary)
        beyond += answer.example.last_position(POLICY) >= 40
        batch = collator([PreferencePair(0, answer, answer)])
        [(found, _)] = reference_log_probabilities(engine.runner.model, context, batch, dtype="float32")
        assert found == pytest.approx(log_p, rel=1e-4)
    assert beyond > 4


def test_answers_keep_their_tokens(engine: Engine, answers):
    for answer, _, _, line in answers:
        tokens = list(answer.example.script.tokens)
        end = [engine.tokenizer.eos_token_id] if line["ended"] else []
        assert tokens == line["script"]["tokens"] and tokens[len(tokens) - len(end) :] == end


def test_an_answer_ends_with_the_token_that_ended_it(engine: Engine, answers):
    """Chat models often have two: the end of a turn and the end of the text."""
    vocabulary, ended = Vocabulary(engine.tokenizer), [line for *_, line in answers if line["ended"]]
    assert {line["end"] for line in ended} == {engine.tokenizer.eos_token_id}
    for end, tail in ((7, [7]), (None, [])):  # None: a stop string, say
        line = deepcopy(ended[0]) | {"end": end}
        written = list(line["script"]["tokens"])
        assert sampled_answer([1], line, vocabulary).example.script.tokens == [*written, *tail]


def test_forced_tokens(engine: Engine):
    """After three digits only the end of the promise is left; a chunk that is cut off is closed by the runtime."""
    vocabulary = Vocabulary(engine.tokenizer)
    encode = vocabulary.encode
    start = [vocabulary.promise_topic, *encode("foo"), vocabulary.promise_tokens]

    def line(number: str) -> dict:
        tokens = [
            *start,
            *encode(number),
            vocabulary.promise_end,
            vocabulary.async_start,
            *encode("x"),
            vocabulary.async_end,
        ]
        blocks = [[-1, "", 0, 0, 0], [0, "foo", int(number), 1 << 40, 1]]
        return {"script": {"tokens": tokens, "block": [0] * (len(tokens) - 3) + [1] * 3, "blocks": blocks}}

    for number, cut, expected in (("12", [], []), ("345", [], [-4]), ("12", [1], [-1]), ("345", [1], [-4, -1])):
        fields = line(number) | {"cut": cut, "ended": False}
        script = sampled_answer([5], fields, vocabulary).example.script
        wanted = {len(script.tokens) + place for place in expected}
        assert forced_tokens(script, vocabulary, cut) == wanted


def test_pairs_of_a_batch_do_not_see_each_other(engine: Engine, answers):
    context = attach(engine.runner.model)
    collator = PairCollator(POLICY, 0)
    pairs = [PreferencePair(k, answers[k][0], answers[k + 1][0]) for k in range(4)]
    together = reference_log_probabilities(engine.runner.model, context, collator(pairs), dtype="float32")
    for pair, both in zip(pairs, together):
        [alone] = reference_log_probabilities(engine.runner.model, context, collator([pair]), dtype="float32")
        assert both == pytest.approx(alone, rel=1e-4)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30))
def test_rows_hold_each_answer_once_and_no_more_than_the_longest(lengths: list[int]):
    rows = share_rows(lengths)
    assert sorted(k for row in rows for k in row) == list(range(len(lengths)))
    assert max(sum(lengths[k] for k in row) for row in rows) == max(lengths)


def ids(journal: Journal) -> list[list[int]]:
    return [one["script"]["tokens"] for one in journal.values()]


def test_samples_depend_neither_on_the_batch_nor_on_interruptions(engine: Engine, tmp_path: Path):
    questions = [Question(prompt, index=k) for k, prompt in enumerate(PROMPTS)]
    with Journal(tmp_path / "a.jsonl", FIELDS) as one:
        assert sample(engine, questions, Sampling(3, 1.0, 40, 4, max_batch=4), one) == 9
        whole = ids(one)
    with Journal(tmp_path / "b.jsonl", FIELDS) as part:
        sample(engine, questions[:2], Sampling(2, 1.0, 40, 4, max_batch=1), part)
    with open(tmp_path / "b.jsonl", "ab") as file:
        file.write(b'{"prompt": 2, "sam')  # a kill in the middle of a line
    before = (tmp_path / "b.jsonl").read_bytes()[:-18]
    with Journal(tmp_path / "b.jsonl", FIELDS) as rest:
        assert len(rest) == 4
        sample(engine, questions, Sampling(3, 1.0, 40, 4, max_batch=3), rest)
        assert ids(rest) == whole
    after = (tmp_path / "b.jsonl").read_bytes()
    assert after.startswith(before) and len(after.splitlines()) == 9
    assert len({tuple(tokens) for tokens in whole}) >= 7, "every sample is another draw"
    with Journal(tmp_path / "c.jsonl", FIELDS) as later:
        sample(engine, questions, Sampling(3, 1.0, 40, 4, round=2), later)
        assert not {tuple(one) for one in ids(later)} & {tuple(one) for one in whole}


def test_processes_share_the_prompts(engine: Engine, tmp_path: Path):
    questions = [Question(prompt, index=k) for k, prompt in enumerate(PROMPTS)]
    for rank in (1, 0):
        with Journal(tmp_path / "s.jsonl", FIELDS, rank) as journal:
            sample(engine, questions, Sampling(2, 1.0, 20, 0), journal, (rank, 2))
    with Journal(tmp_path / "s.jsonl", FIELDS) as journal:
        assert list(journal) == [(p, k) for p in range(3) for k in range(2)]
        assert len((tmp_path / "s.rank1.jsonl").read_text().splitlines()) == 2


def test_prompts_that_fill_the_window_are_left_out(engine: Engine, tmp_path: Path):
    with Journal(tmp_path / "s.jsonl", FIELDS) as journal:
        questions = [Question("x" * (WINDOW + 1)), Question("x", index=1)]
        assert sample(engine, questions, Sampling(1, 1.0, 20, 0), journal) == 1
        assert list(journal) == [(1, 0)]
        with pytest.raises(DataError, match=f"window is {WINDOW}"):
            sample(engine, questions[:1], Sampling(1, 1.0, 20, 0), journal)


def test_a_foreign_file_is_no_journal_and_two_runs_do_not_meet(tmp_path: Path):
    for text in ("something else\n", "something else", '{"prompt": "a text"}\n'):
        (tmp_path / "a.jsonl").write_text(text)
        with pytest.raises(DataError, match="not written by this command"):
            Journal(tmp_path / "a.jsonl", FIELDS)
        assert (tmp_path / "a.jsonl").read_text() == text
    with held(tmp_path / "lock"), pytest.raises(DataError, match="in use by another run"), held(tmp_path / "lock"):
        pass
