"""Runs that go on: torn checkpoints, settings that differ, position policies, runs that are finished."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from pastalm import Engine
from pastalm.runtime.engine import RequestError
from pastalm.training.base import SettingsError
from pastalm.training.record import last_checkpoint, read_run
from pastalm.training.sft import train_sft
from tests.training.conftest import config


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
    record = read_run(whole)
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
    assert read_run(out)["figures"]["resumed_from"] == 4
    assert_same(whole, out)


def test_a_run_killed_after_its_last_checkpoint_ends_as_it_would_have(
    whole: Path, base: Path, data: Path, tmp_path: Path
) -> None:
    out = unfinished(whole, tmp_path / "out")
    shutil.copytree(whole / "checkpoint-6", out / "checkpoint-6")
    train_sft(config(base, data, out))
    assert_same(whole, out)


def test_a_finished_run_is_not_trained_again(
    whole: Path, base: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (whole / "model.safetensors").stat().st_mtime_ns
    assert train_sft(config(base, data, whole)) == whole
    assert "finished" in capsys.readouterr().out
    assert (whole / "model.safetensors").stat().st_mtime_ns == before


def test_other_settings_in_the_same_place_are_refused(whole: Path, base: Path, data: Path, tmp_path: Path) -> None:
    out = unfinished(whole, tmp_path / "out")
    message = r"holds a run with --positions 'pred10', but this one asks for 'pred1': give the same.*--no-resume"
    with pytest.raises(SettingsError, match=message):
        train_sft(config(base, data, out, positions="pred1"))
    with pytest.raises(SettingsError, match=r"--row 128, but this one asks for 64"):
        train_sft(config(base, data, out, row=64))
    assert (out / "checkpoint-4").is_dir()  # a refusal loses no work
    train_sft(config(base, data, out, row=64, resume=False))
    assert read_run(out)["figures"]["resumed_from"] == 0
    assert read_run(out)["settings"]["row"] == 64


def test_a_broken_record_gets_a_sentence(tmp_path: Path) -> None:
    for text in ("{", "[]", '{"settings": 1}'):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(SettingsError, match=r"run\.json is no record of a run; .*remove the file"):
            read_run(tmp_path)


def test_the_policy_of_a_model_stays_its_own(whole: Path, base: Path, data: Path, tmp_path: Path) -> None:
    const = train_sft(config(base, data, tmp_path / "const", steps=1, positions="const40"))
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
    assert engine.generate("add 3", max_tokens=4, positions="pred1").text is not None
    with pytest.raises(ValueError, match="Unknown position policy 'far'"):
        engine.generate("add 3", positions="far")
    tuned = train_sft(config(plain, data, tmp_path / "tuned", steps=1, positions="pred1"))
    assert Engine.from_pretrained(str(tuned)).positions == "pred1"
