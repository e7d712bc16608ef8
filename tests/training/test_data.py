"""Which examples become rows: those whose positions the model has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pastalm.data.collate import Collator
from pastalm.files.lines import DataError
from pastalm.lang.positions import POLICIES
from pastalm.lang.vocabulary import Vocabulary
from pastalm.training.data import load_rows
from pastalm.training.sft import train_sft
from tests.training.conftest import config, write_tiny

CHUNK = "<async topic='it'>is {}</async><sync/>"


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 512 positions, which are learned (GPT-2) or turned by (Llama)."""
    return write_tiny(request.param, tmp_path_factory.mktemp(request.param), layers=1)


def write(path: Path, *answers: str) -> Path:
    path.write_text("".join(json.dumps({"prompt": "add", "annotated": answer}) + "\n" for answer in answers))
    return path


def test_what_the_model_has_no_positions_for_is_left_out(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An example may be long, or be short and end far behind its promises."""
    data = write(tmp_path / "data.jsonl", "so", "so " * 600, CHUNK.format("so") + "so", f"{CHUNK.format('so')}so" * 60)
    out = train_sft(config(model, data, tmp_path / "out", row=4096, steps=1, eval_data=str(data)))
    said = "2 of 4 examples reach beyond the model's window of 512 positions, counted as --positions pred10 does, and"
    assert capsys.readouterr().out.count(said) == 2  # of the held-out ones, too
    assert (out / "model.safetensors").is_file()


def test_nothing_but_what_the_model_has_no_positions_for(model: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "data.jsonl", "so " * 600)
    with pytest.raises(DataError, match=r"^\S+: every example reaches beyond the model's window of 512 .*--model\.$"):
        train_sft(config(model, data, tmp_path / "out", row=4096))
    assert not list((tmp_path / "out").rglob("*.json"))


@pytest.mark.parametrize("policy", [*POLICIES, "server"])
def test_the_last_position_is_that_of_the_batch(policy: str, vocabulary: Vocabulary, tmp_path: Path) -> None:
    """The window's edge, example by example; with "server" in views."""
    chunks = (CHUNK.format("so " * n) + "so" for n in (0, 3, 40))
    data = write(tmp_path / "data.jsonl", "so", *chunks, CHUNK.format("so") * 3, f"so{CHUNK.format('so ' * 200)}")
    how = {"views": "server"} if policy == "server" else {"positions": policy}
    settings = config(tmp_path, data, tmp_path / "out", row=4096, pack=False, batch_size=1, **how)
    rows = load_rows(settings, vocabulary)
    collator = Collator(POLICIES[settings.positions], 0)
    reach = [int(collator([rows[k]])["position_ids"].max()) for k in range(len(rows))]
    assert len(set(reach)) > 3
    for window in (min(reach) + 1, *(last + more for last in reach[1:] for more in (0, 1) if last > min(reach))):
        kept = load_rows(settings, vocabulary, window=window)
        found = [int(collator([kept[k]])["position_ids"].max()) for k in range(len(kept))]
        assert found == [last for last in reach if last < window]
