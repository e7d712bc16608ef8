"""What the tests of training share: a tiny base without tags, a little data, settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pastalm.training.config import SftConfig
from tests.conftest import byte_level_tokenizer
from tests.runtime.families import tiny


def write_tiny(family: str, folder: Path, *, layers: int) -> Path:
    """A tiny model of a family, without tags, with its tokenizer."""
    tokenizer = byte_level_tokenizer()
    tiny(family, len(tokenizer), layers).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without tags, with positions enough for generated tasks."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = byte_level_tokenizer()
    model = tiny("llama", len(tokenizer), layers=2)
    model.config.max_position_embeddings = 4096
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty answers of one chunk, of seven lengths."""
    path = tmp_path_factory.mktemp("data") / "tasks.jsonl"
    short = [
        {"prompt": f"add {n}", "annotated": f"{n} <async topic='it'>is {'so ' * (n % 7)}{n}</async><sync/> so"}
        for n in range(40)
    ]
    path.write_text("\n".join(map(json.dumps, short)) + "\n")
    return path


def config(base: Path, data: Path, out: Path, **other: object) -> SftConfig:
    """Six quick steps."""
    settings = {
        "steps": 6,
        "batch_size": 2,
        "row": 128,
        "learning_rate": 1e-2,
        "save_every": 2,
        "epochs": 1,
        "dtype": "float32",
    }
    return SftConfig(str(base), str(data), str(out), **{**settings, **other})
