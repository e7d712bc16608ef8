"""The training of a round: where it begins, and what it keeps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from pastalm.training.config import PreferConfig
from pastalm.training.prefer import train_prefer
from tests.training.prefer_model import settings, variety, write_model, write_prompts

DROPOUT = {"embd_pdrop": 0.3, "resid_pdrop": 0.3, "attention_dropout": 0.3}  # two of modules, a number of attention


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> PreferConfig:
    """A run that ended before it wrote the model of its one round, after both steps; its base has dropout."""
    place = tmp_path_factory.mktemp("run")
    base, data = write_model(place / "base", tokenizer), write_prompts(place / "prompts.jsonl", 4)
    fields = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(fields | DROPOUT))
    config = settings(base, data, place / "out", rounds=1, steps=2)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("pastalm.training.optimise._Models.write_last", interrupt)
        train_prefer(config, variety)
    return config


def interrupt(_: object) -> None:
    raise KeyboardInterrupt


def test_a_base_with_dropout_begins_without_an_advantage(interrupted: PreferConfig) -> None:
    """A model that has not moved has gained nothing on the reference, which is taken without dropout."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(Path(interrupted.out) / "round1" / "runs"))
    events.Reload()
    for name in ("advantage", "chosen"):
        first, second = (event.value for event in events.Scalars(f"train/{name}"))
        assert first == pytest.approx(0, abs=1e-3) and abs(second) > 1e-3


def test_a_round_that_goes_on_says_which_snapshots_it_has_passed(
    interrupted: PreferConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = train_prefer(replace(interrupted, snapshots="0.5,1"), variety)
    assert "Round 1 has no snapshot at 0.5, 1: " in capsys.readouterr().out
    train_prefer(replace(interrupted, snapshots="0.5"), variety)  # it is finished
    assert capsys.readouterr().out.startswith("Round 1 has no snapshot at 0.5: ")
    assert not list(Path(interrupted.out).rglob("snapshot-*"))
    assert DROPOUT.items() <= json.loads((trained / "config.json").read_text()).items()
