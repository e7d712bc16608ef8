"""The untrained beginning of the bundled model: a small Llama and a byte-level tokenizer with single digits."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from pastalm.lang.tokenizer import add_tags

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<|answer|>{{ message['content'] }}<|end|>"
    "{% else %}<|prompt|>{{ message['content'] }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|answer|>{% endif %}"
)
SPECIAL = ("<|end|>", "<|pad|>", "<|prompt|>", "<|answer|>")


def train_tokenizer(texts: Iterable[str], size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of ``size`` ids, the six tags included; every digit is a token of its own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d| ?\p{L}+| ?[^\s\p{L}\d]|\s"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size - 6,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>", chat_template=CHAT_TEMPLATE
    )
    fast.add_special_tokens({"extra_special_tokens": list(SPECIAL[2:])})
    add_tags(fast)
    return fast


def build(tokenizer: PreTrainedTokenizerFast, *, layers: int, width: int, heads: int, window: int) -> Qwen3ForCausalLM:
    """An untrained model of that size in Llama's layout, with normalised queries and keys (Qwen3's); embedding and head
    share their weights."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=int(width * 8 / 3) // 32 * 32,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=width // heads,
        max_position_embeddings=window,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen3ForCausalLM(config)


def start(texts: Iterable[str], out: str | Path, *, seed: int = 0, vocabulary: int = 1280, layers: int = 6) -> Path:
    """Write an untrained model and its tokenizer, trained on ``texts``, to ``out``."""
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(texts, vocabulary)
    build(tokenizer, layers=layers, width=224, heads=7, window=2048).save_pretrained(out)
    tokenizer.save_pretrained(out)
    return Path(out)
