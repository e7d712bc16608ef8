"""Stage 1 in one process: tags adopted, loss by hand, packing, what is logged and kept."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from pastalm import Engine
from pastalm.data.collate import Collator
from pastalm.data.examples import AnnotatedAnswer, DataError, Example, encode_answers, pack, read_annotated
from pastalm.lang.parse import parse
from pastalm.lang.positions import POLICIES
from pastalm.lang.vocabulary import Vocabulary
from pastalm.layout import IGNORE
from pastalm.tasks import sample, to_json
from pastalm.training.base import adopt_tags
from pastalm.training.checkpoints import read_state
from pastalm.training.config import PreferConfig, SftConfig, helps
from pastalm.training.data import load_rows
from pastalm.training.sft import train_sft
from pastalm.training.trainer import SftTrainer, training_arguments
from tests.runtime.families import tiny
from tests.training.conftest import config

POLICY = POLICIES["pred10"]


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
    [example] = encode_answers([AnnotatedAnswer("hello", answer)], vocabulary, POLICY, plain=0, seed=0)
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


def test_the_loss_of_a_drawn_example_is_its_arithmetic(
    base: Path, data: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    """The example, drawn: index, token, position, and the index whose token it predicts.

    0 q  1 a  2 <promise topic="  3 x  4 " tokens=  5 1  6 />                  10 c  11 <sync/>  12 d  13 eos
                                                          7 <async>  8 b  9 </async>
    positions 0 .. 6, then 7 8 9 in the block, and 17 18 19 20 after it: 6 + 1 + 10 x 1
    0 -> 1 -> 2 -> 3 -> 4 -> 5 -> 6 -> 10 -> 11 -> 12 -> 13, and 7 -> 8 -> 9
    """
    vocabulary = Vocabulary(tokenizer)
    answer = parse("a<async topic='x'>b</async>c<sync/>d")
    [example] = encode_answers([AnnotatedAnswer("q", answer)], vocabulary, POLICY, plain=0, seed=0)
    batch = Collator(POLICY, 0)([[example]])
    a, b, c, d, x, one = (vocabulary.encode(text)[0] for text in ("a", "b", "c", "d", "x", "1"))
    eos = tokenizer.eos_token_id
    opening = [vocabulary.promise_topic, x, vocabulary.promise_tokens, one, vocabulary.promise_end]
    block = [vocabulary.async_start, b, vocabulary.async_end]
    assert batch["input_ids"][0, 1:].tolist() == [a, *opening, *block, c, vocabulary.sync, d, eos]
    assert batch["position_ids"][0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 17, 18, 19, 20]
    model = tiny("llama", len(tokenizer))
    trainer = SftTrainer(model, training_arguments(config(base, data, tmp_path), 1))
    loss, outputs = trainer.compute_loss(model, dict(batch), return_outputs=True)
    logp = torch.log_softmax(outputs.logits[0], -1)
    main = logp[0, a] + logp[1, opening[0]] + logp[2, x] + logp[3, opening[2]] + logp[4, one] + logp[5, opening[4]]
    after = logp[6, c] + logp[10, vocabulary.sync] + logp[11, d] + logp[12, eos]
    inside = logp[7, b] + logp[8, vocabulary.async_end]
    assert loss.item() == pytest.approx(-(main + after + inside).item() / 12, rel=1e-6)
    with torch.no_grad():
        model.get_output_embeddings().weight.zero_()  # all tokens are as likely: each of the 12 costs log V
    assert trainer.compute_loss(model, dict(batch)).item() == pytest.approx(math.log(len(tokenizer)), rel=1e-6)


def test_every_target_of_a_step_counts_once(base: Path, data: Path, tmp_path: Path) -> None:
    """Also one in the first column, which transformers' own losses shift away."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    adopt_tags(model, tokenizer)
    settings = config(base, data, tmp_path, accumulate=2, prompt_loss=True)
    rows = load_rows(settings, Vocabulary(tokenizer))
    collator = Collator(POLICY, 0, prompt_targets=True)
    trainer = SftTrainer(model, training_arguments(settings, len(rows)), train_dataset=rows, data_collator=collator)
    batches, count = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), 2, torch.device("cpu"))
    assert (batches[0]["labels"][:, 0] != IGNORE).all()
    assert count == sum((batch["labels"] != IGNORE).sum() for batch in batches)
    parts = sum(trainer.compute_loss(model, batch, num_items_in_batch=count).item() for batch in batches)
    alone = [trainer.compute_loss(model, batch).item() * (batch["labels"] != IGNORE).sum().item() for batch in batches]
    assert parts == pytest.approx(math.fsum(alone) / count.item(), rel=1e-5)


def test_the_held_out_loss_is_that_of_the_trained_model(base: Path, data: Path, tmp_path: Path) -> None:
    """Against each held-out example alone, in rows of its own; and it changes nothing about the training."""
    held = tmp_path / "held.jsonl"
    held.write_text("".join(to_json(task) + "\n" for task in sample("held-out", 0, 5)))
    settings = config(base, data, tmp_path / "told", eval_data=str(held), save_every=2, row=1200)
    train_sft(settings)
    tokenizer = AutoTokenizer.from_pretrained(settings.out)
    model = AutoModelForCausalLM.from_pretrained(f"{settings.out}/checkpoint-{settings.steps}")  # float32
    trainer = SftTrainer(model.eval(), training_arguments(config(base, data, tmp_path), 1))
    total, count = 0.0, 0
    for example in encode_answers(read_annotated(held), Vocabulary(tokenizer), POLICY, plain=0, seed=0):
        if len(example) > settings.row:
            continue
        batch = Collator(POLICY, 0)([[example]])
        targets = int((batch["labels"] != IGNORE).sum())
        total, count = total + trainer.compute_loss(model, batch).item() * targets, count + targets
    assert read_state(settings.out)["figures"]["eval_loss"] == pytest.approx(total / count, abs=2e-5)
    without = config(base, data, tmp_path / "not told", save_every=2, row=1200)
    train_sft(without)
    told, untold = (Path(run.out, "model.safetensors").read_bytes() for run in (settings, without))
    assert told == untold
    with pytest.raises(DataError, match="empty"):
        held.write_text("")
        train_sft(replace(settings, out=str(tmp_path / "never")))
    assert not (tmp_path / "never").exists()


def test_a_run_tells_what_it_did(base: Path, data: Path, tmp_path: Path) -> None:
    """`run.json` and TensorBoard against sums over the data."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = config(base, data, tmp_path, steps=-1, epochs=2, batch_size=4, accumulate=2, log_every=1)
    train_sft(settings)
    figures = read_state(tmp_path)["figures"]
    vocabulary = Vocabulary(AutoTokenizer.from_pretrained(tmp_path))
    examples = list(encode_answers(read_annotated(data), vocabulary, POLICY, plain=0, seed=0))
    assert figures["tokens"] == 2 * sum(map(len, examples))
    targets = sum((Collator(POLICY, 0)([[one]])["labels"] != IGNORE).sum().item() for one in examples)
    assert figures["targets"] == 2 * targets
    assert figures["steps"] == 2 * -(-len(load_rows(settings, vocabulary)) // 8)
    assert 0.8 < figures["fill"] <= 1
    assert figures["tokens_per_second"] == pytest.approx(figures["tokens"] / figures["seconds"], rel=0.1)
    assert figures["peak_memory_mib"] > 100
    events = EventAccumulator(str(tmp_path / "runs"))
    events.Reload()
    assert {"train/loss", "train/tokens_per_second"} <= set(events.Tags()["scalars"])
    losses = [event.value for event in events.Scalars("train/loss")]
    assert len(losses) == figures["steps"]
    assert math.fsum(losses) / len(losses) == pytest.approx(figures["loss"], rel=1e-3)


def test_without_packing_each_row_is_one_example(base: Path, data: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    adopt_tags(AutoModelForCausalLM.from_pretrained(base), tokenizer)
    rows = load_rows(config(base, data, tmp_path, pack=False), Vocabulary(tokenizer))
    assert sorted(map(len, (rows[k] for k in range(len(rows))))) == [1] * 40


def test_held_out_data_changes_no_weight(base: Path, data: Path, tmp_path: Path) -> None:
    """Dropout draws the same numbers, however often the held-out loss is taken in between."""
    drops = {"steps": 3, "lora": 2, "lora_dropout": 0.3, "learning_rate": 1e-2}
    one = train_sft(config(base, data, tmp_path / "with", eval_data=str(data), save_every=1, **drops))
    other = train_sft(config(base, data, tmp_path / "without", **drops))
    left, right = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_rows_fill_whole_steps_and_empty_ones_cost_nothing(base: Path, data: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    adopt_tags(AutoModelForCausalLM.from_pretrained(base), tokenizer)
    rows = load_rows(config(base, data, tmp_path, batch_size=3, accumulate=3), Vocabulary(tokenizer))
    assert len(rows) % 9 == 0
    assert sum(len(rows[k]) for k in range(len(rows))) == 40
    collator = Collator(POLICY, 0)
    full = [rows[k] for k in range(len(rows)) if rows[k]][:2]
    for name, tensor in collator([*full, []]).items():
        assert torch.equal(tensor, collator(full)[name])
    assert (collator([[], []])["labels"] == IGNORE).all()


@pytest.mark.slow
def test_training_teaches_the_tags_and_keeps_the_policy(base: Path, data: Path, tmp_path: Path) -> None:
    settings = replace(config(base, data, tmp_path), steps=60, positions="const40", save_every=100)
    engine = Engine.from_pretrained(str(train_sft(settings)), dtype="float32")
    assert engine.positions == "const40"
    response = engine.generate("add 7", max_tokens=60)
    assert [thread.topic for thread in response.threads[1:]] == ["it"]


def test_a_model_for_plain_servers_keeps_their_positions(base: Path, data: Path, tmp_path: Path) -> None:
    out = train_sft(config(base, data, tmp_path / "out", steps=2, views="server"))
    assert Engine.from_pretrained(str(out), dtype="float32").positions == "contiguous"
    assert read_state(out)["settings"]["views"] == "server"
    with pytest.raises(ValueError, match="--views server goes with --positions contiguous, not with pred10"):
        config(base, data, tmp_path / "other", views="server", positions="pred10")


def test_plain_answers_have_no_tags(tokenizer: PreTrainedTokenizerFast) -> None:
    vocabulary = Vocabulary(tokenizer)
    records = [AnnotatedAnswer("p", parse("a <async topic='x'>b</async> c"))] * 50
    found = [
        bool(set(e.script.tokens) & set(vocabulary.tags))
        for e in encode_answers(records, vocabulary, POLICY, plain=0.5, seed=1)
    ]
    assert 10 < sum(found) < 40
    assert not any(
        set(e.script.tokens) & set(vocabulary.tags)
        for e in encode_answers(records, vocabulary, POLICY, plain=1.0, seed=1)
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
    [example] = encode_answers([AnnotatedAnswer("hello", parse("a"))], vocabulary, POLICY, plain=0, seed=0)
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
    records = list(read_annotated(path))
    assert [record.answer for record in records] == [task.answer for task in sample("train", 3, 22)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{nonsense", "line 2: not JSON"),
        ('{"prompt": "a"}', "line 2: has no 'annotated'"),
        ('{"prompt": "a", "annotated": "b</async>"}', "line 2, in 'annotated': line 1, column 2: this </async> closes"),
    ],
)
def test_bad_lines_are_told_with_their_place(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"prompt": "a", "annotated": "b"}\n' + line + "\n")
    with pytest.raises(DataError) as caught:
        list(read_annotated(path))
    assert message in str(caught.value)


KINDS = (SftConfig, PreferConfig)
WRONG = [
        ("plain", 2), ("batch_size", 0), ("learning_rate", 0), ("learning_rate", math.nan), ("positions", "far"),
        ("steps", 0), ("steps", -5), ("epochs", 0), ("warmup", -1), ("beta2", 1), ("beta2", -0.1), ("seed", -1),
        ("seed", 2**32), ("weight_decay", -0.1), ("weight_decay", math.inf), ("lora", -1), ("lora_dropout", 1),
        ("lora_dropout", -0.1), ("lora_alpha", 0),
]  # fmt: skip
OF_STAGE_1 = ("plain", "positions")


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [(kind, *wrong) for kind in KINDS for wrong in WRONG if kind is SftConfig or wrong[0] not in OF_STAGE_1],
)
def test_wrong_settings_get_a_sentence(kind: type, field: str, value: object) -> None:
    """Both stages have these; the sentence names the option as it is typed."""
    with pytest.raises(ValueError, match=rf"^--{field.replace('_', '-')}\b.*\.$"):
        kind("m", "d", "o", **{field: value})


@pytest.mark.parametrize("kind", KINDS)
def test_paths_are_expanded_where_they_enter(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell leaves `~` as it is after `--out=`."""
    monkeypatch.setenv("HOME", "/home/me")
    found = kind("~/m", "~/d", "~/o")
    assert (found.model, found.data, found.out) == ("/home/me/m", "/home/me/d", "/home/me/o")
    assert SftConfig("m", "d", "o", eval_data="~/e").eval_data == "/home/me/e"
    more = PreferConfig("org/hub-id", "tasks:train:4", "o", baseline="~/b", reuse_samples="~/r")
    assert (more.model, more.data, more.baseline, more.reuse_samples) == (
        "org/hub-id",
        "tasks:train:4",
        "/home/me/b",
        "/home/me/r",
    )


def test_the_learning_rate_goes_by_what_is_trained() -> None:
    assert SftConfig("m", "d", "o").learning_rate == 1e-5
    assert SftConfig("m", "d", "o", lora=16).learning_rate == 3e-4
    assert SftConfig("m", "d", "o", lora=16, learning_rate=1e-4).learning_rate == 1e-4
    assert PreferConfig("m", "d", "o").learning_rate == 5e-7 < PreferConfig("m", "d", "o", lora=16).learning_rate
    assert "1e-05, with --lora 0.0003" in helps(SftConfig)["learning_rate"]


def test_settings_at_their_bounds_are_taken() -> None:
    SftConfig("m", "d", "o", steps=-1, beta2=0, lora_dropout=0, seed=2**32 - 1, warmup=0)
    SftConfig("m", "d", "o", steps=1, epochs=0)


def test_a_log_reads_as_a_line(base: Path, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train_sft(config(base, data, tmp_path, steps=2, log_every=1, eval_data=str(data), save_every=2))
    said = capfd.readouterr().err
    steps = re.findall(r"step (\d) of 2  loss (\d\.\d{4})  learning rate \S+  gradient \S+  [\d,]+ tokens/s\n", said)
    assert [step for step, _ in steps] == ["1", "2"]
    mean = math.fsum(float(loss) for _, loss in steps) / 2
    assert mean == pytest.approx(read_state(tmp_path)["figures"]["loss"], abs=1e-3)
    held = re.search(r"step 2 of 2  held-out loss (\S+)  text (\S+)  tags (\S+)\n", said)
    figures = read_state(tmp_path)["figures"]
    assert held, said
    for shown, name in zip(held.groups(), ("eval_loss", "eval_text_loss", "eval_tag_loss"), strict=True):
        assert float(shown) == pytest.approx(figures[name], abs=1e-4)


@pytest.mark.parametrize("steps", [1, 7, 45])
def test_a_short_run_logs_often_and_its_first_and_last_step(
    steps: int, base: Path, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train_sft(config(base, data, tmp_path, steps=steps, save_every=100))
    out, err = capfd.readouterr()
    logged = {int(step): float(loss) for step, loss in re.findall(rf"step (\d+) of {steps}  loss (\S+)", err)}
    assert {1, steps} <= set(logged) and len(logged) >= min(steps, 10)
    assert f"Loss {logged[1]:.4f} at first, {logged[steps]:.4f} at last." in out
    assert "Trained: all weights." in out and "learning rate 0.01 (0.01 of the marks' rows), computed in float32" in out
    assert "saved in bfloat16" in out and " tokens/s" in out
    assert AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto").dtype == torch.bfloat16


def test_held_out_text_and_tags_are_told_apart(base: Path, data: Path, tmp_path: Path) -> None:
    """Each target of a held-out answer is put by hand with the text or with the tags."""
    settings = config(base, data, tmp_path, eval_data=str(data), steps=1)
    train_sft(settings)
    figures = read_state(tmp_path)["figures"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    vocabulary = Vocabulary(tokenizer)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-1")
    trainer = SftTrainer(model.eval(), training_arguments(config(base, data, tmp_path), 1))
    sums, counts, characters = {True: 0.0, False: 0.0}, {True: 0, False: 0}, 0
    records = list(read_annotated(data))
    for record, example in zip(records, encode_answers(records, vocabulary, POLICY, plain=0, seed=0), strict=True):
        batch = Collator(POLICY, 0)([[example]])
        logp = torch.log_softmax(trainer.compute_loss(model, batch, return_outputs=True)[1].logits[0], -1)
        start, tokens = len(example.prompt), example.script.tokens
        for block in (0, 1):
            own = [index for index, owner in enumerate(example.script.block) if owner == block]
            promising = False
            for before, index in zip([-1, *own] if block == 0 else own, own if block == 0 else own[1:]):
                promising |= tokens[index] == vocabulary.promise_topic
                tag = promising or tokens[index] in vocabulary.tags
                promising &= tokens[index] != vocabulary.promise_end
                sums[tag] -= logp[start + before, tokens[index]].item()
                counts[tag] += 1
        characters += len(record.answer.plain)
    assert figures["eval_text_loss"] == pytest.approx(sums[False] / counts[False], rel=1e-4)
    assert figures["eval_tag_loss"] == pytest.approx(sums[True] / counts[True], rel=1e-4)
    assert figures["eval_loss"] == pytest.approx(sum(sums.values()) / sum(counts.values()), rel=1e-4)
    assert figures["eval_text_per_character"] == pytest.approx(sums[False] / characters, rel=1e-4)
