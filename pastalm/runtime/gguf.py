"""A GGUF file as an ordinary model: its weights unpacked, so that it trains and is saved like any other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from pastalm.runtime.checkpoint import Checkpoint, LoadError

NEEDED = ("gguf", "accelerate")  # what transformers reads such files with
PACKED_FIELDS = ("quantization_config", "_model_name_or_path")  # of a config that was read from a GGUF file
ROUNDING = 0.1  # tables that differ by less than this share of their size are one table, rounded in two ways


def require_reader(checkpoint: Checkpoint) -> None:
    """Raise :class:`LoadError` if the packages that read GGUF files are not installed."""
    missing = [package for package in NEEDED if find_spec(package) is None]
    if missing:
        raise LoadError(
            f"Reading {checkpoint.gguf_file} needs the packages {' and '.join(missing)}: pip install 'pastalm[gguf]'."
        )


@contextmanager
def read_once(checkpoint: Checkpoint) -> Iterator[None]:
    """Within it a GGUF file is parsed once, and quickly. The library parses it anew for the config, the tokenizer and
    the weights, four times in all, and that takes several times as long as everything else together."""
    if checkpoint.gguf_file is None:
        yield
        return
    import gguf as library
    from gguf.gguf_reader import GGUFReader
    from gguf.tensor_mapping import get_tensor_name_map

    class Reader(GGUFReader):
        """The same over a plain array: a memory map makes much ado about each of a million slices."""

        @property
        def data(self) -> Any:
            return self._data

        @data.setter
        def data(self, mapped: Any) -> None:
            self._data = mapped.view(np.ndarray)

    package: Any = library
    package.GGUFReader, package.get_tensor_name_map = cache(Reader), cache(get_tensor_name_map)
    try:
        yield
    finally:
        package.GGUFReader, package.get_tensor_name_map = GGUFReader, get_tensor_name_map


def unpacked(packed: Any, dtype: torch.dtype) -> Any:
    """The model that the library has made of a GGUF file, with ordinary weights of this dtype. That one can neither be
    saved nor trained; its weights go into a fresh model of the same class, with its tables tied if they were before
    they were quantised."""
    fields = {name: value for name, value in packed.config.to_dict().items() if name not in PACKED_FIELDS}
    if stored_twice(packed):
        fields["tie_word_embeddings"] = True
        packed.get_input_embeddings().weight = packed.get_output_embeddings().weight
    model: Any = AutoModelForCausalLM.from_config(type(packed.config).from_dict(fields), dtype=dtype)
    model.load_state_dict(packed.state_dict())
    model.tie_weights()
    model.generation_config = packed.generation_config
    return model.eval()


@torch.no_grad()
def stored_twice(model: Any) -> bool:
    """Whether the embedding and the head are one table of which the file has two copies, of different precision.
    Quantising tools keep the head's finer; tables that were trained apart have nothing in common."""
    table, head = (layer.weight for layer in (model.get_input_embeddings(), model.get_output_embeddings()))
    if table is head or table.shape != head.shape:
        return False
    return bool(torch.dist(table.float(), head.float()) < ROUNDING * head.float().norm())
