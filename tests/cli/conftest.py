"""The tiny model and tokenizer, saved as users have theirs."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A directory with the tiny tokenizer alone."""
    place = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(place)
    return place


@pytest.fixture(scope="session")
def model_dir(
    tmp_path_factory: pytest.TempPathFactory, tiny_llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> Path:
    """A directory with a tiny random llama and its tokenizer."""
    place = tmp_path_factory.mktemp("model")
    tokenizer.save_pretrained(place)
    tiny_llama.save_pretrained(place)
    return place
