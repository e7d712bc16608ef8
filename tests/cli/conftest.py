"""A tiny random model with PASTA's tags, saved as users have theirs."""

from __future__ import annotations

from pathlib import Path

import pytest


def tiny_tokenizer():
    """A byte-level tokenizer with the tags."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from pastalm.lang.vocabulary import add_tags

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<eos>"], initial_alphabet=alphabet)
    inner.train_from_iterator(["hello world foo bar 12 34"] * 3, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>")
    add_tags(tokenizer)
    return tokenizer


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the tiny tokenizer alone."""
    place = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer().save_pretrained(place)
    return place


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a tiny random llama and its tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    place, tokenizer = tmp_path_factory.mktemp("model"), tiny_tokenizer()
    tokenizer.save_pretrained(place)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(place)
    return place
