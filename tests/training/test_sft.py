"""Stage 1 as users run it: tags adopted, loss by hand, packing, a kill in the middle, the policy kept."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, TrainerCallback

from pastalm import Engine
from pastalm.data.collate import Collator
from pastalm.data.examples import DataError, Example, Record, encode_records, pack, read_records
from pastalm.data.tasks import sample, to_json
from pastalm.lang.parse import parse
from pastalm.lang.positions import POLICIES
from pastalm.lang.vocabulary import Vocabulary
from pastalm.layout import IGNORE
from pastalm.training import sft
from pastalm.training.config import SftConfig
from pastalm.training.sft import SftTrainer, adopt_tags, train_sft, training_arguments
from tests.conftest import byte_level_tokenizer
from tests.runtime.families import tiny

POLICY = POLICIES["pred10"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without tags."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = byte_level_tokenizer()
    tiny("llama", len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "tasks.jsonl"
    short = [{"prompt": f"add {n}", "annotated": f"{n} <async topic='it'>is {n}</async><sync/> so"} for n in range(40)]
    path.write_text("\n".join(map(json.dumps, short)) + "\n")
    return path


def config(base: Path, data: Path, out: Path) -> SftConfig:
    return SftConfig(
        str(base), str(data), str(out), steps=6, batch=2, row=128, learning_rate=1e-2, save_every=2, epochs=1
    )


def test_new_rows_are_the_mean_of_the_ordinary_ones(base: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    ordinary = len(tokenizer)
    before = model.get_input_embeddings().weight.detach().clone()
    head = model.get_output_embeddings().weight.detach().clone()
    adopt_tags(model, tokenizer)
    assert len(tokenizer) == ordinary + 6
    for row in range(ordinary, ordinary + 6):
        torch.testing.assert_close(model.get_input_embeddings().weight[row], before[:ordinary].mean(0))
        torch.testing.assert_close(model.get_output_embeddings().weight[row], head[:ordinary].mean(0))
    torch.testing.assert_close(model.get_input_embeddings().weight[:ordinary], before)


def test_the_trainers_loss_is_the_thread_wise_loss(
    base: Path, data: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    """One batch through the Trainer against log-probabilities picked out by hand, target by target."""
    model = tiny("llama", len(tokenizer))
    vocabulary = Vocabulary(tokenizer)
    answer = parse("a <async topic='x'>b c</async> d<sync/> e")
    [example] = encode_records([Record("hello", answer)], vocabulary, POLICY, plain=0, seed=0)
    batch = Collator(POLICY, 0)([[example]])
    trainer = SftTrainer(model, training_arguments(config(base, data, tmp_path), 1))
    loss = trainer.compute_loss(model, dict(batch), num_items_in_batch=None)
    outputs = trainer.compute_loss(model, dict(batch), return_outputs=True)[1]
    logp = torch.log_softmax(outputs.logits[0], -1)
    tokens, block = example.script.tokens, example.script.block
    picked = []
    start = len(example.prompt)
    for index, token in enumerate(tokens):
        own = [k for k in range(index) if block[k] == block[index]]
        if block[index] and not own:
            continue  # <async> is never predicted
        giver = start + own[-1] if own else start - 1
        picked.append(-logp[giver, token].item())
    assert loss.item() == pytest.approx(math.fsum(picked) / len(picked), rel=1e-5)


class Stopped(Exception):
    pass


class StopAfter(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if state.global_step == self.step:
            raise Stopped


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_end(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_sft(config(base, data, tmp_path / "whole"))

    class Interrupted(SftTrainer):
        def __init__(self, *args, **kwargs) -> None:
            super().__init__(*args, callbacks=[StopAfter(5)], **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(sft, "SftTrainer", Interrupted)
        with pytest.raises(Stopped):
            train_sft(config(base, data, tmp_path / "killed"))
    assert (tmp_path / "killed" / "checkpoint-4").is_dir()
    resumed = train_sft(config(base, data, tmp_path / "killed"))
    one, other = (AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32) for path in (whole, resumed))
    for (name, left), right in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(left, right, msg=name)


@pytest.mark.slow
def test_training_teaches_the_tags_and_keeps_the_policy(base: Path, data: Path, tmp_path: Path) -> None:
    settings = replace(config(base, data, tmp_path), steps=60, positions="const40", save_every=100)
    engine = Engine.from_pretrained(str(train_sft(settings)), dtype="float32")
    assert engine.positions == "const40"
    response = engine.generate("add 7", max_tokens=60)
    assert [thread.topic for thread in response.threads[1:]] == ["it"]


def test_plain_answers_have_no_tags(tokenizer: PreTrainedTokenizerFast) -> None:
    vocabulary = Vocabulary(tokenizer)
    records = [Record("p", parse("a <async topic='x'>b</async> c"))] * 50
    found = [
        bool(set(e.script.tokens) & set(vocabulary.tags))
        for e in encode_records(records, vocabulary, POLICY, plain=0.5, seed=1)
    ]
    assert 10 < sum(found) < 40
    assert not any(
        set(e.script.tokens) & set(vocabulary.tags)
        for e in encode_records(records, vocabulary, POLICY, plain=1.0, seed=1)
    )


def test_packing_loses_nothing_and_fills_rows() -> None:
    lengths = [3, 9, 4, 6, 8, 2, 7, 12, 5] * 20
    dropped: list[int] = []
    rows = pack(lengths, 10, 0, dropped.append)
    assert sorted(k for row in rows for k in row) + sorted(dropped) == sorted(
        k for k, n in enumerate(lengths) if n <= 10
    ) + sorted(k for k, n in enumerate(lengths) if n > 10)
    assert all(sum(lengths[k] for k in row) <= 10 for row in rows)
    assert sum(n for n in lengths if n <= 10) / (10 * len(rows)) > 0.85


def test_prompts_carry_no_loss_unless_asked(tokenizer: PreTrainedTokenizerFast) -> None:
    vocabulary = Vocabulary(tokenizer)
    [example] = encode_records([Record("hello", parse("a"))], vocabulary, POLICY, plain=0, seed=0)
    assert isinstance(example, Example)
    n = len(example.prompt)
    without, with_prompt = (
        Collator(POLICY, 0, prompt_targets=flag)([[example]])["labels"][0].tolist() for flag in (False, True)
    )
    assert without[: n - 1] == [IGNORE] * (n - 1)
    assert with_prompt[: n - 1] == list(example.prompt[1:])
    assert without[n - 1 :] == with_prompt[n - 1 :]


def test_tasks_are_training_data(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text("\n".join(map(to_json, sample("train", 3, 22))) + "\n")
    records = list(read_records(path))
    assert [record.answer for record in records] == [task.answer for task in sample("train", 3, 22)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{nonsense", "line 2: not JSON"),
        ('{"prompt": "a"}', "line 2: needs an object with 'annotated'"),
        ('{"prompt": "a", "annotated": "b</async>"}', "line 2, in 'annotated': line 1, column 2: this </async> closes"),
    ],
)
def test_bad_lines_are_told_with_their_place(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"prompt": "a", "annotated": "b"}\n' + line + "\n")
    with pytest.raises(DataError) as caught:
        list(read_records(path))
    assert message in str(caught.value)


@pytest.mark.parametrize(("field", "value"), [("plain", 2), ("batch", 0), ("learning_rate", 0), ("positions", "far")])
def test_wrong_settings_get_a_sentence(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=r"\."):
        SftConfig("m", "d", "o", **{field: value})
