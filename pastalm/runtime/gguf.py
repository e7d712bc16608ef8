"""A GGUF file as an ordinary model: its weights unpacked, so that it trains and is saved like any other."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GgufConfig

from pastalm.runtime.checkpoint import Checkpoint, LoadError

NEEDED = ("gguf", "accelerate")  # what transformers reads such files with
PACKED_FIELDS = ("quantization_config", "_model_name_or_path")  # of a config that was read from a GGUF file


def require_reader(checkpoint: Checkpoint) -> None:
    """Raise :class:`LoadError` if the packages that read GGUF files are not installed."""
    missing = [package for package in NEEDED if find_spec(package) is None]
    if missing:
        raise LoadError(
            f"Reading {checkpoint.gguf_file} needs the packages {' and '.join(missing)}: pip install 'pastalm[gguf]'."
        )


def load_unpacked(checkpoint: Checkpoint, dtype: torch.dtype) -> Any:
    """The model of a GGUF file with ordinary weights of this dtype. What the library makes of such a file can neither
    be saved nor trained; its weights go into a fresh model of the same class, tied ones tied."""
    packed: Any = AutoModelForCausalLM.from_pretrained(
        checkpoint.where,
        gguf_file=checkpoint.gguf_file,
        dtype=dtype,
        quantization_config=GgufConfig(dequantize=True),
    )
    fields = {name: value for name, value in packed.config.to_dict().items() if name not in PACKED_FIELDS}
    model: Any = AutoModelForCausalLM.from_config(type(packed.config).from_dict(fields), dtype=dtype)
    model.load_state_dict(packed.state_dict())
    model.tie_weights()
    model.generation_config = packed.generation_config
    return model.eval()
