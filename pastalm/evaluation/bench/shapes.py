"""Models of a known shape with random weights: they decode as fast as real ones, and nothing has to be downloaded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from pastalm.lang.tokenizer import add_tags

WINDOW = 32768
MOST_TRAINED = 8192  # ids of a tokenizer that is trained on the spot; the head may score more


@dataclass(frozen=True)
class Shape:
    """A decoder in Llama's layout: layers, width, query heads, key heads, inner width, ids that the head scores."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    inner: int
    vocabulary: int
    tied: bool = True


SHAPES = {
    "tiny": Shape(2, 64, 4, 2, 128, 1024),
    "smollm2-135m": Shape(30, 576, 9, 3, 1536, 49152),
    "qwen2.5-0.5b": Shape(24, 896, 14, 2, 4864, 151936),
    "llama-1b": Shape(16, 2048, 32, 8, 8192, 128256),
    "qwen2.5-1.5b": Shape(28, 1536, 12, 2, 8960, 151936),
    "llama-7b": Shape(32, 4096, 32, 32, 11008, 32000, tied=False),
    "llama-8b": Shape(32, 4096, 32, 8, 14336, 128256, tied=False),
}


class UnknownShapeError(ValueError):
    """A name that no shape has."""


def shape_of(name: str) -> Shape:
    """The shape of a name. Raises :class:`UnknownShapeError`."""
    if name not in SHAPES:
        raise UnknownShapeError(f"Unknown shape {name!r}; choose one of {', '.join(SHAPES)}.")
    return SHAPES[name]


def random_model(shape: Shape, device: torch.device, dtype: torch.dtype, seed: int = 0) -> LlamaForCausalLM:
    """A model of this shape, its weights made on the device. The same seed gives the same weights on one device."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=WINDOW,
        tie_word_embeddings=shape.tied,
        bos_token_id=None,
        eos_token_id=None,
        dtype=dtype,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            return LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)


def random_tokenizer(template: PreTrainedTokenizerBase, texts: Iterable[str], size: int) -> PreTrainedTokenizerBase:
    """A tokenizer like ``template`` for these texts, at most ``size`` ids, with PASTA's tags: its tokens are about as
    long as a real model's."""
    ids = min(size, MOST_TRAINED) - 16  # room for the tags
    tokenizer = template.train_new_from_iterator(texts, ids, show_progress=False)
    add_tags(tokenizer)
    return tokenizer
