"""The audit end to end on tiny models: figures, the journal, the repaired set, a model that has learned to copy."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pastalm.data.audit import Audited, AuditError, Auditor, Measured, ranked, summarise
from pastalm.data.check import CheckedRecord, check_file, read_sound
from pastalm.data.dependence import show_siblings
from pastalm.data.repaired import write_repaired
from pastalm.files.lines import DataError
from pastalm.lang.parse import parse
from pastalm.lang.positions import POLICIES
from pastalm.lang.script import compile_script
from pastalm.lang.vocabulary import Vocabulary
from pastalm.layout import IGNORE, layout
from pastalm.runtime.oracle import oracle
from tests.conftest import byte_level_tokenizer

POLICY = POLICIES["pred10"]
A, B, C = (f"<async topic='{topic}'>{topic} hello world foo bar</async>" for topic in "abc")
TEXTS = (
    f"Hi {A} and {B}, {C}<sync/> so {A} x",
    "no block at all",
    f"one {C}",
    f"{A}<sync/> é {B} then {C}",
)


def write(path: Path, texts: Any) -> Path:
    rows = ({"prompt": f"hello {k}", "note": "kept", "annotated": text} for k, text in enumerate(texts))
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "data.jsonl", TEXTS)


@pytest.fixture(scope="module")
def auditor(tiny_llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> Auditor:
    return Auditor(tiny_llama, tokenizer, batch=3)


def audited(auditor: Auditor, data: Path, journal: Path | None = None) -> list[Audited]:
    found = auditor.run(read_sound(data), journal or data.with_suffix(".journal"))
    return sorted(found, key=lambda one: one.line.number)


def test_figures_of_every_block(auditor: Auditor, data: Path, vocabulary: Vocabulary):
    found = audited(auditor, data)
    assert [[block.place for block in one.blocks] for one in found] == [[1, 2, 3, 1], [], [1], [1, 1, 2]]
    assert [[block.topic for block in one.blocks] for one in found] == [list("abca"), [], ["c"], list("abc")]
    for one in found:
        script = compile_script(parse(one.line.record.annotated), vocabulary, POLICY)
        logits = oracle(auditor.runner, vocabulary.prompts.encode(one.line.record.prompt), script, POLICY)
        for block in one.blocks:
            own = script.of(block.number)[1:]
            assert block.tokens == len(own) and own[-1] == vocabulary.async_end
            if block.place == 1:
                assert (block.hidden, block.seen, block.dependence) == (None, None, 0.0)
                continue
            logp = logits[(block.number - 1,)].log_softmax(-1)[range(len(own)), own]  # each token's own predictor
            assert block.hidden == pytest.approx(logp.mean().item(), abs=1e-5)
            assert block.dependence == pytest.approx(block.seen - block.hidden) and abs(block.dependence) > 1e-6


def test_summary_and_ranking():
    line = CheckedRecord(7, ())
    values = (0.0, 0.1, 0.3, -0.2)
    blocks = [
        Measured(k, "t", place, 5, -1.0 - value, -1.0) for k, (place, value) in enumerate(zip((1, 2, 2, 3), values))
    ]
    found = [Audited(line, tuple(blocks)), Audited(CheckedRecord(9, ()), (), too_long=True)]
    summary = summarise(found)
    assert (summary.records, summary.too_long, summary.blocks, summary.hidden) == (2, 1, 4, 3)
    assert summary.mean == pytest.approx(0.2 / 3) and summary.quantiles[0.5] == pytest.approx(0.1)
    assert (
        summary.places[2].blocks == 2 and summary.places[2].mean == pytest.approx(0.2) and set(summary.places) == {2, 3}
    )
    assert [block.number for _, block in ranked(found, 2)] == [2, 1]
    assert summarise([]).mean is None


def test_a_journal_cut_anywhere_is_completed_and_never_repeated(auditor: Auditor, tmp_path: Path):
    data = write(tmp_path / "data.jsonl", [text + "!" * k for k in range(12) for text in TEXTS])
    whole, journal = audited(auditor, data), tmp_path / "journal"
    run = auditor.run(read_sound(data), journal)
    assert len(list(islice(run, 30))) == 30
    run.close()
    done = journal.read_bytes()
    journal.write_bytes(done[:-20])  # as a kill in the middle of a line leaves it
    again = audited(auditor, data, journal)
    assert [(one.line, one.too_long) for one in again] == [(one.line, one.too_long) for one in whole]
    for ours, theirs in zip(again, whole):
        assert [block.dependence for block in ours.blocks] == pytest.approx(
            [b.dependence for b in theirs.blocks], abs=1e-5
        )
    ids = [json.loads(line)["id"] for line in journal.read_text().splitlines()]
    assert len(ids) == len(set(ids)) == 48
    assert journal.read_bytes().startswith(done[: done.rindex(b"\n", 0, -1) + 1])
    before = journal.read_bytes()
    assert audited(auditor, data, journal) == again and journal.read_bytes() == before


def test_another_model_is_another_measurement(data: Path, tokenizer: PreTrainedTokenizerFast, auditor: Auditor):
    (line, *_) = read_sound(data)
    model = LlamaForCausalLM(auditor.runner.model.config)
    assert Auditor(model, tokenizer).identity(line) != auditor.identity(line)
    assert Auditor(auditor.runner.model, tokenizer, positions="pred1").identity(line) != auditor.identity(line)
    assert Auditor(auditor.runner.model, tokenizer, batch=1).identity(line) == auditor.identity(line)


def test_a_record_beyond_the_models_window_is_said_and_left_out(auditor: Auditor, tmp_path: Path):
    data = write(tmp_path / "data.jsonl", [f"{A} {B}", f"{A} {B} " + "x" * 1100])
    found = audited(auditor, data)
    assert [one.too_long for one in found] == [False, True] and summarise(found).too_long == 1
    counts = write_repaired(found, tmp_path / "out.jsonl", 1e9, auditor.steps)
    assert (counts.kept, counts.changed, counts.left_out) == (1, 0, 1)
    assert (tmp_path / "out.jsonl").read_text() == data.read_text().splitlines(keepends=True)[0]


def test_the_repaired_set_is_sound_and_its_dependent_blocks_see_their_siblings(
    auditor: Auditor, data: Path, tmp_path: Path
):
    found = [replace(one, blocks=tuple(map(_positive, one.blocks))) for one in audited(auditor, data)]
    values = sorted(block.dependence for one in found for block in one.blocks if block.place > 1)
    above = values[-2]
    out = tmp_path / "out.jsonl"
    counts = write_repaired(found, out, above, auditor.steps)
    dependent = sum(value > above for value in values)
    assert (
        dependent >= 1 and counts.dependent == dependent and counts.changed + counts.kept == 4 and counts.changed >= 1
    )
    assert not any(record.findings for record in check_file(out))
    before, after = (path.read_text().splitlines() for path in (data, out))
    assert sum(ours != theirs for ours, theirs in zip(before, after, strict=True)) == counts.changed
    for ours, theirs in zip(map(json.loads, before), map(json.loads, after)):
        assert parse(ours["annotated"]).plain == parse(theirs["annotated"]).plain
        assert (ours["prompt"], ours["note"]) == (theirs["prompt"], theirs["note"])
    assert write_repaired(found, out, 1e9, auditor.steps).changed == 0 and out.read_bytes() == data.read_bytes()
    with pytest.raises(ValueError, match="give 0 nats"):
        write_repaired(found, out, -0.1, auditor.steps)


def test_the_repaired_set_has_the_order_of_a_set_of_several_files(auditor: Auditor, tmp_path: Path):
    folder, out = tmp_path / "set", tmp_path / "out.jsonl"
    folder.mkdir()
    files = [write(folder / name, [text + name for text in TEXTS]) for name in ("one.jsonl", "two.jsonl")]
    paths = f"path: [{', '.join(file.name for file in files)}]"
    (folder / "README.md").write_text(
        f"---\nconfigs:\n- config_name: all\n  data_files:\n  - split: train\n    {paths}\n---\n"
    )
    found = list(auditor.run(read_sound(folder), tmp_path / "journal"))
    assert write_repaired(found, out, 1e9, auditor.steps).kept == 8
    assert out.read_bytes() == b"".join(file.read_bytes() for file in files)


def _positive(block: Measured) -> Measured:
    """A random model is as likely to be helped by what it sees as not."""
    return block if block.hidden is None else replace(block, seen=block.hidden + abs(block.dependence))


def test_a_model_without_tags_and_unsound_data_are_refused(tiny_llama: LlamaForCausalLM, tmp_path: Path):
    with pytest.raises(AuditError, match="pasta train sft"):
        Auditor(tiny_llama, byte_level_tokenizer())
    data = write(tmp_path / "bad.jsonl", [A, "<async topic='a'>short</async>"])
    with pytest.raises(DataError, match=r"line 2, in 'annotated' line 1, column 1.*pasta check"):
        read_sound(data)


def test_a_block_that_copies_its_sibling_depends_on_it(tokenizer: PreTrainedTokenizerFast, tmp_path: Path):
    """A tiny model learns, from views with and without the siblings, that b repeats a and that c does not."""
    texts = [
        f"<async topic='a'>{' '.join(letter * 5)}</async><async topic='b'>{' '.join(letter * 5)}</async>"
        "<async topic='c'>hello world foo bar hello</async>"
        for letter in "xyzqjkvu"
    ]
    vocabulary = Vocabulary(tokenizer)
    scripts = [compile_script(parse(text), vocabulary, POLICY) for text in texts]
    laid = [layout(vocabulary.encode("go"), script, POLICY) for script in scripts]
    views = laid + [show_siblings(show_siblings(one, script, 2), script, 3) for one, script in zip(laid, scripts)]
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes, attn_implementation="eager"))
    visible = torch.stack([one.mask() for one in views])[:, None]
    bias = torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min)
    tokens, places, targets = (
        torch.stack([getattr(one, name) for one in views]) for name in ("tokens", "positions", "targets")
    )
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(120):
        logits = model(tokens, attention_mask=bias, position_ids=places, use_cache=False).logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE).backward()
        optimiser.step()
        optimiser.zero_grad()
    data = write(tmp_path / "copies.jsonl", texts)
    data.write_text(re.sub(r"hello \d", "go", data.read_text()))
    found = audited(Auditor(model, tokenizer), data)
    copying = [one.blocks[1].dependence for one in found]
    saying = [one.blocks[2].dependence for one in found]
    assert min(copying) > 0.05 and min(copying) > 5 * max(map(abs, saying))
    assert {block.topic for _, block in ranked(found, len(texts))} == {"b"}
