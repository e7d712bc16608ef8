"""Runs that go on: torn checkpoints, settings that differ, position policies, runs that are finished."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from resource import RLIMIT_FSIZE, getrlimit, setrlimit

import pytest
import torch
from transformers import AutoModelForCausalLM

from pastalm import Engine
from pastalm.cli.errors import expected, sentence
from pastalm.files.lines import DataError
from pastalm.lang.vocabulary import Vocabulary
from pastalm.runtime.attention import attach
from pastalm.runtime.engine import RequestError
from pastalm.training.adapters import add_adapters, merge
from pastalm.training.base import SettingsError, load_base
from pastalm.training.checkpoints import (
    SaveError,
    last_checkpoint,
    read_state,
    require_same,
    run_state,
    save,
    whole_model,
)
from pastalm.training.config import PreferConfig, SftConfig, fixed
from pastalm.training.sft import train_sft
from pastalm.training.trainer import SftTrainer
from tests.training.conftest import config, write_tiny


def weights(folder: Path) -> dict[str, torch.Tensor]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return dict(model.named_parameters())


def assert_same(one: Path, other: Path) -> None:
    left, right = weights(one), weights(other)
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], msg=name)


@pytest.fixture(scope="module")
def whole(base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps, with checkpoints after the fourth and the sixth."""
    return train_sft(config(base, data, tmp_path_factory.mktemp("whole")))


def unfinished(whole: Path, out: Path) -> Path:
    """``whole`` as a kill before its end leaves it."""
    out.mkdir()
    shutil.copytree(whole / "checkpoint-4", out / "checkpoint-4")
    record = read_state(whole)
    del record["figures"]
    record["settings"]["out"] = str(out)
    (out / "run.json").write_text(json.dumps(record))
    return out


@pytest.mark.parametrize("torn", ["nothing written", "state not written", "state half-written"])
def test_a_checkpoint_that_a_kill_tore_is_passed_over(
    torn: str, whole: Path, base: Path, data: Path, tmp_path: Path
) -> None:
    out = unfinished(whole, tmp_path / "out")
    if torn == "nothing written":
        (out / "checkpoint-6").mkdir()
    else:
        shutil.copytree(whole / "checkpoint-6", out / "checkpoint-6")
        (out / "checkpoint-6" / "model.safetensors").write_bytes(b"half")
        state = out / "checkpoint-6" / "trainer_state.json"
        if torn == "state not written":
            state.unlink()
        else:
            state.write_text(state.read_text()[:100])
    assert last_checkpoint(out) == out / "checkpoint-4"
    train_sft(config(base, data, out))
    assert read_state(out)["figures"]["resumed_from"] == 4
    assert_same(whole, out)


def test_a_run_killed_after_its_last_checkpoint_ends_as_it_would_have(
    whole: Path, base: Path, data: Path, tmp_path: Path
) -> None:
    out = unfinished(whole, tmp_path / "out")
    shutil.copytree(whole / "checkpoint-6", out / "checkpoint-6")
    train_sft(config(base, data, out))
    assert_same(whole, out)


def test_a_resumed_run_saves_and_logs_as_often_as_it_is_asked_to_now(
    whole: Path, base: Path, data: Path, tmp_path: Path
) -> None:
    out = unfinished(whole, tmp_path / "out")
    train_sft(config(base, data, out, save_every=5, log_every=1))
    assert sorted(path.name for path in out.glob("checkpoint-*")) == ["checkpoint-5", "checkpoint-6"]
    logged = json.loads((out / "checkpoint-6" / "trainer_state.json").read_text())["log_history"]
    assert [line["step"] for line in logged if "loss" in line][-2:] == [5, 6]
    assert_same(whole, out)


def test_a_finished_run_is_not_trained_again(
    whole: Path, base: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (whole / "model.safetensors").stat().st_mtime_ns
    for other in ({}, {"save_every": 3, "log_every": 1, "gradient_checkpointing": True}):
        assert train_sft(config(base, data, whole, **other)) == whole
        assert "finished" in capsys.readouterr().out
        assert (whole / "model.safetensors").stat().st_mtime_ns == before
    assert read_state(whole)["settings"]["save_every"] == 2, "the record tells of the run as it was"


OTHER = {
    "model": "other", "positions": "pred1", "plain": 1.0, "epochs": 2.0, "steps": 7, "batch_size": 3, "accumulate": 2,
    "row": 64, "pack": False, "learning_rate": 1.0, "warmup": 1, "decay": 0.5, "weight_decay": 0.1, "beta2": 0.9,
    "prompt_loss": True, "lora": 2, "lora_alpha": 1.0, "lora_dropout": 0.1, "lora_targets": "q_proj",
    "tag_learning_rate": 1.0, "dtype": "bfloat16", "seed": 1, "views": "server",
}  # fmt: skip


@pytest.mark.parametrize("finished", [True, False])
def test_all_that_changes_what_comes_out_is_the_runs_own(
    finished: bool, whole: Path, base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused before the model is loaded, and the record stays as it is."""
    monkeypatch.setattr("pastalm.training.sft.load_base", lambda config: pytest.fail("the model was loaded"))
    out = whole if finished else unfinished(whole, tmp_path / "out")
    record = (out / "run.json").read_text()
    assert set(fixed(config(base, data, out))) == set(OTHER) | {"data"}
    for name, value in OTHER.items():
        option = "--positions" if name == "views" else "--" + name.replace("_", "-")  # views settle the positions
        with pytest.raises(SettingsError, match=f"holds a run with {option} .*asks for .*--no-resume"):
            settings = config(base, data, out)
            train_sft(SftConfig(**{**vars(settings), name: value}))
    assert (out / "run.json").read_text() == record


@pytest.mark.parametrize("changed", ["data", "model"])
@pytest.mark.parametrize("finished", [True, False])
def test_other_contents_under_the_same_name_are_refused(
    changed: str, finished: bool, whole: Path, base: Path, data: Path, tmp_path: Path
) -> None:
    own = {"data": tmp_path / "data.jsonl", "model": tmp_path / "base"}
    shutil.copyfile(data, own["data"])
    shutil.copytree(base, own["model"])
    out = unfinished(whole, tmp_path / "out")
    record = read_state(out)
    record["settings"] |= {name: str(path) for name, path in own.items()}
    if finished:
        record["figures"] = read_state(whole)["figures"]
        (out / "model.safetensors").touch()
    (out / "run.json").write_text(json.dumps(record))
    settings = config(own["model"], own["data"], out)
    if finished:
        train_sft(settings)
    file = own["data"] if changed == "data" else own["model"] / "model.safetensors"
    file.write_bytes(file.read_bytes().replace(b"add 7", b"add 8") if changed == "data" else b"other weights")
    with pytest.raises(SettingsError, match=f"holds a run with --{changed} .* which has changed since: .*--no-resume"):
        train_sft(settings)


def test_the_model_that_a_run_starts_from_is_not_overwritten(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "base"
    (model / "checkpoint-2").mkdir(parents=True)
    (tmp_path / "link").symlink_to(model)
    monkeypatch.chdir(tmp_path)
    places = (("base/checkpoint-2", "base"), ("base/adapter", "base"), ("a/hub-id", "a/hub-id"))
    for start, out in (("base", "./base"), (model, "link"), *places):
        for resume in (True, False):
            with pytest.raises(SettingsError, match=r"is also where this run writes, .*give another --out\.$"):
                train_sft(config(start, data, out, resume=resume))
    assert [path.name for path in model.iterdir()] == ["checkpoint-2"]


def test_a_checkpoint_of_more_processes_is_refused(whole: Path, base: Path, data: Path, tmp_path: Path) -> None:
    out = unfinished(whole, tmp_path / "out")
    state = last_checkpoint(out) / "rng_state.pth"
    state.rename(state.with_name("rng_state_0.pth"))
    shutil.copyfile(state.with_name("rng_state_0.pth"), state.with_name("rng_state_1.pth"))
    with pytest.raises(SettingsError, match=r"was written by a run of 2 processes, and this is one of 1: start 2, or"):
        train_sft(config(base, data, out))


def test_checkpoints_of_nobody_s_run_are_not_gone_on_from(whole: Path, base: Path, data: Path, tmp_path: Path) -> None:
    out = unfinished(whole, tmp_path / "out")
    (out / "run.json").unlink()
    with pytest.raises(SettingsError, match=r"of a run that has left no run\.json: give another --out, or --no-re"):
        train_sft(config(base, data, out))
    assert last_checkpoint(out)


def test_data_and_folder_are_looked_at_before_the_model_is_loaded(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pastalm.training.sft.load_base", lambda config: pytest.fail("the model was loaded"))
    out = tmp_path / "out"
    with pytest.raises(FileNotFoundError):
        train_sft(config("base", tmp_path / "missing.jsonl", out))
    (tmp_path / "bad.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match="line 1"):
        train_sft(config("base", tmp_path / "bad.jsonl", out))
    for place in (data, data / "inside"):
        with pytest.raises(SettingsError, match=r"tasks\.jsonl is a file, so --out .* cannot be a folder"):
            train_sft(config("base", data, place))
    assert not out.exists()


def test_other_settings_in_the_same_place_are_refused(whole: Path, base: Path, data: Path, tmp_path: Path) -> None:
    out = unfinished(whole, tmp_path / "out")
    message = r"holds a run with --positions 'pred10', but this one asks for 'pred1': give the same.*--no-resume"
    with pytest.raises(SettingsError, match=message):
        train_sft(config(base, data, out, positions="pred1"))
    with pytest.raises(SettingsError, match=r"--row 128, but this one asks for 64"):
        train_sft(config(base, data, out, row=64))
    assert (out / "checkpoint-4").is_dir()  # a refusal loses no work
    train_sft(config(base, data, out, row=64, resume=False))
    assert read_state(out)["figures"]["resumed_from"] == 0
    assert read_state(out)["settings"]["row"] == 64


def test_a_broken_record_gets_a_sentence(tmp_path: Path) -> None:
    for text in ("{", "[]", '{"settings": 1}'):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(SettingsError, match=r"run\.json is no run state of .*; .*remove the file"):
            read_state(tmp_path)


def test_the_policy_of_a_model_stays_its_own(whole: Path, base: Path, data: Path, tmp_path: Path) -> None:
    const = train_sft(config(base, data, tmp_path / "const", steps=1, positions="const40"))
    with pytest.raises(SettingsError, match=r"--positions 'const40', but this one asks for 'pred10'"):
        train_sft(config(base, data, const, steps=1))  # finished, but not the run that the default would be
    with pytest.raises(
        SettingsError, match=r"was trained with the positions 'const40', but --positions asks for 'pred10'"
    ):
        train_sft(config(const, data, tmp_path / "other", positions="pred10"))
    kept = train_sft(config(const, data, tmp_path / "kept", steps=1))  # not asked: the model's own
    engine = Engine.from_pretrained(str(kept))
    assert engine.positions == "const40"
    options = {"max_tokens": 4}
    assert engine.generate("add 3", **options).text == engine.generate("add 3", positions="const40", **options).text
    for ask in (engine.generate, lambda *args, **kw: list(engine.stream(*args, **kw))):
        with pytest.raises(
            RequestError, match=r"trained with the positions 'const40', but the request asks for 'pred1'"
        ):
            ask("add 3", positions="pred1", **options)
    with pytest.raises(RequestError, match="const40"):
        engine.replay("add 3", "a <async topic='x'>b</async>", positions="pred10")


def test_a_model_without_a_policy_takes_the_one_given(base: Path, data: Path, tmp_path: Path) -> None:
    plain = train_sft(config(base, data, tmp_path / "plain", steps=1, plain=1.0))  # learns no policy
    engine = Engine.from_pretrained(str(plain))
    promised = {
        name: engine.replay("add 3", "a <async topic='x'>b</async> g", positions=name).script.blocks[1].promised
        for name in ("pred1", "pred10")
    }
    assert promised["pred10"] == 1 < promised["pred1"]  # tens, ones
    with pytest.raises(ValueError, match="Unknown position policy 'far'"):
        engine.generate("add 3", positions="far")
    tuned = train_sft(config(plain, data, tmp_path / "tuned", steps=1, positions="pred1"))
    assert Engine.from_pretrained(str(tuned)).positions == "pred1"


@contextmanager
def little_room(most: int) -> Iterator[None]:
    """Files may have so many bytes and no more: as on a disk that is full, the system refuses to write on."""
    soft, hard = getrlimit(RLIMIT_FSIZE)
    setrlimit(RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        setrlimit(RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("at", ["checkpoint-6", "the finished model"])
def test_a_full_disk_is_told_in_a_sentence_and_costs_nothing(
    at: str, whole: Path, base: Path, data: Path, tmp_path: Path
) -> None:
    """The optimiser's file is written by torch, the model's by safetensors: each has an error of its own."""
    out = unfinished(whole, tmp_path / "out")
    if at == "checkpoint-6":
        room, resumed = (whole / "checkpoint-6" / "model.safetensors").stat().st_size + 4096, 4
    else:
        shutil.copytree(whole / "checkpoint-6", out / "checkpoint-6")
        room, resumed = (whole / "model.safetensors").stat().st_size - 4096, 6
    with little_room(room), pytest.raises(SaveError) as caught:
        train_sft(config(base, data, out))
    assert "\n" not in str(caught.value)
    assert re.search(
        r"cannot be written \(.*MiB are free there\).*goes on from the last checkpoint\.$", str(caught.value)
    )
    assert expected(caught.value) and sentence(caught.value) == str(caught.value)
    assert last_checkpoint(out) == out / f"checkpoint-{resumed}"
    assert not list(out.glob("*.safetensors")) and not list(out.glob(".saving-*"))
    assert (out / "checkpoint-6").exists() == (resumed == 6)
    train_sft(config(base, data, out))
    assert read_state(out)["figures"]["resumed_from"] == resumed
    assert_same(whole, out)


@pytest.fixture(scope="module", params=["gemma2", "gpt_oss"])
def without_sdpa(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of a family that transformers runs with eager attention alone."""
    return write_tiny(request.param, tmp_path_factory.mktemp(request.param), layers=2)


@pytest.mark.parametrize("lora", [0, 2])
def test_a_model_without_sdpa_is_trained_and_written(lora: int, without_sdpa: Path, data: Path, tmp_path: Path) -> None:
    out = train_sft(config(without_sdpa, data, tmp_path / "out", steps=1, lora=lora))
    assert Engine.from_pretrained(str(out), dtype="float32").generate("add 3", max_tokens=4).metrics.tokens > 0


@pytest.mark.parametrize("lora", [0, 2])
def test_a_model_without_sdpa_is_copied(lora: int, without_sdpa: Path, data: Path, tmp_path: Path) -> None:
    """As a snapshot is taken, and the finished model where its weights lie on several processes."""
    settings = config(without_sdpa, data, tmp_path / "out", lora=lora)
    model, tokenizer = load_base(settings)
    vocabulary = Vocabulary(tokenizer)
    trained = add_adapters(model, vocabulary, settings) if lora else model
    attach(model)
    state = trained.state_dict()
    copy = whole_model(trained, state, vocabulary, settings)
    assert copy.state_dict().keys() == state.keys()
    assert all(torch.equal(weight, state[name]) for name, weight in copy.state_dict().items())
    save(merge(copy) if lora else copy, tokenizer, settings.out, torch.float32, "card")
    assert (Path(settings.out) / "model.safetensors").is_file()


def test_a_trained_model_says_how_it_was_made(base: Path, data: Path, tmp_path: Path) -> None:
    out = train_sft(config(base, data, tmp_path / "mine", lora=2, eval_data=str(data)))
    card, figures = (out / "README.md").read_text(), read_state(out)["figures"]
    assert card == (out / "adapter" / "README.md").read_text(), "PEFT's own is an empty form"
    assert "# mine" in card and f"{base.name} after `pasta train sft`" in card and data.name in card
    assert "adapters of rank 2 on all-linear" in card and "bfloat16" in card
    assert f"| eval_loss | {figures['eval_loss']} |" in card and "| --lora-alpha | 32.0 |" in card
    assert "More Information Needed" not in card and str(tmp_path) not in card


def test_a_second_run_in_the_same_place_is_refused(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is started when the first one is about to train."""
    first = config(base, data, tmp_path, steps=1)
    plain = SftTrainer.train

    def train(self: SftTrainer, *args: object, **kwargs: object) -> object:
        with pytest.raises(DataError, match=r"is in use by another run; wait for it, or choose another --out\.$"):
            train_sft(first)
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(SftTrainer, "train", train)
    train_sft(first)
    assert read_state(tmp_path)["figures"]["steps"] == 1


def test_runs_of_the_two_stages_do_not_meet(whole: Path, base: Path, data: Path) -> None:
    prefer = PreferConfig(str(base), str(data), str(whole))
    with pytest.raises(SettingsError, match=r"holds a run of `pasta train sft`: give another --out\."):
        require_same(prefer, run_state(prefer, []), read_state(whole), "another --out")
