"""A tiny random model that uses the language: biases of its head make tags, ends and numbers likely."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

from pastalm.lang.vocabulary import Vocabulary
from pastalm.training.config import PreferConfig
from pastalm.training.prefer import train_prefer
from pastalm.training.score import Candidate
from tests.runtime.families import tiny

WINDOW = 1 << 14  # positions: a promise of three digits takes up to 9,990 of them


def write_model(folder: Path, tokenizer: PreTrainedTokenizerFast, *, digits: float = 0.0, layers: int = 4) -> Path:
    """A Phi, the family whose head has biases. ``digits`` makes numbers long, so that their end is forced."""
    vocabulary, model = Vocabulary(tokenizer), tiny("phi", len(tokenizer), layers)
    lifts = {
        tokenizer.eos_token_id: 4.5, vocabulary.async_end: 5.5, vocabulary.promise_topic: 5.0,
        vocabulary.promise_tokens: 5.0, vocabulary.promise_end: 5.0, vocabulary.sync: 3.0,
    }  # fmt: skip
    lifts |= dict.fromkeys(vocabulary.digits(1, False), digits)
    with torch.no_grad():
        for token, lift in lifts.items():
            model.lm_head.bias[token] += lift
    model.config.max_position_embeddings = WINDOW
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_prompts(path: Path, number: int) -> Path:
    """A data file of that many prompts."""
    path.write_text("".join(json.dumps({"prompt": f"add {n} and {n}"}) + "\n" for n in range(number)))
    return path


def variety(candidates: list[Candidate]) -> list[float]:
    """A quality by program: how many different characters the text has, in tens."""
    return [len(set(one.text)) / 10 for one in candidates]


def settings(model: Path, data: Path, out: Path, **other: object) -> PreferConfig:
    """Two quick rounds."""
    quick = {"samples": 3, "max_tokens": 40, "max_batch": 4, "steps": 4, "batch_size": 2, "learning_rate": 1e-3}
    quick |= {"save_every": 1, "dtype": "float32"}
    return PreferConfig(str(model), str(data), str(out), **{**quick, **other})


def prefer(model: Path, data: Path, out: Path, batch_size: int = 2) -> None:
    """A run with a snapshot in the middle, for processes that are killed, or are several."""
    train_prefer(settings(model, data, out, snapshots="0.5", batch_size=batch_size), variety)
