"""Loading a model and its tokenizer by name, with one clear sentence for everything that can be wrong."""

from __future__ import annotations

from importlib.resources import files
from os.path import expanduser
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

BUNDLED = "bundled"
LONGEST_REASON = 300  # characters of a library's advice


class LoadError(ValueError):
    """A model or tokenizer that cannot be loaded, and why."""


def load(
    name_or_path: str, device: str = "auto", dtype: str | torch.dtype = "auto"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model and its fast tokenizer from a directory, a hub id or ``"bundled"``.

    ``device`` "auto" takes a GPU if there is one. ``dtype`` "auto" takes the checkpoint's on a GPU and float32 on a
    CPU, where half precision is slow without hardware for it. Raises :class:`LoadError`.
    """
    where = str(files("pastalm") / "bundled") if name_or_path == BUNDLED else expanduser(name_or_path)
    if name_or_path == BUNDLED and not (Path(where) / "config.json").is_file():
        raise LoadError("This installation has no bundled model; give a directory or a hub id.")
    if is_missing(where):
        raise LoadError(f"There is no directory {where}; give a directory with a model, a hub id or 'bundled'.")
    chosen = _device(device)
    number = _dtype(dtype, chosen)
    try:
        config = AutoConfig.from_pretrained(where)
        _require_causal(config, name_or_path)
        tokenizer = AutoTokenizer.from_pretrained(where)
        model = AutoModelForCausalLM.from_pretrained(where, config=config, dtype=number)
    except LoadError:
        raise
    except Exception as error:  # the library raises many kinds, most with pages of advice
        raise LoadError(unloadable("model", name_or_path, error)) from error
    return model.to(chosen), tokenizer


def is_missing(where: str) -> bool:
    """Whether this can be the name of a directory only, and there is none."""
    local = where.startswith((".", "/", "~")) or where.endswith("/") or where.count("/") > 1
    return local and not Path(where).is_dir()


def unloadable(what: str, name: str, error: Exception) -> str:
    """One sentence of why the ``what`` of this name could not be loaded."""
    place = Path(name).expanduser()
    if (place / "adapter_config.json").is_file():
        return f"{name} holds an adapter alone; name the folder of the merged model."
    reason = " ".join(str(error).split())
    if "connect" in reason and not place.exists():
        return f"There is no directory {name}, and the hub, which may know that name, cannot be reached."
    return f"Cannot load the {what} {name!r} from a directory or the hub: {reason[:LONGEST_REASON]}"


def _require_causal(config: Any, name: str) -> None:
    kind = getattr(config, "model_type", "?")
    if getattr(config, "is_encoder_decoder", False):
        raise LoadError(f"{name!r} ({kind}) has an encoder; PASTA decodes with decoder-only models.")
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise LoadError(f"{name!r} ({kind}) is not a causal language model; PASTA decodes with decoder-only models.")


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise LoadError(f"Unknown device {device!r}; give 'auto', 'cpu', 'cuda' or 'cuda:N'.") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise LoadError(f"Device {device!r} was asked for, but torch sees no GPU here; use 'cpu' or 'auto'.")
    try:
        torch.empty(1, device=chosen)
    except Exception as error:  # each kind of device has an error of its own
        raise LoadError(f"Device {device!r} was asked for, but it is not there; use 'auto' or 'cpu'.") from error
    return chosen


def _dtype(dtype: str | torch.dtype, device: torch.device) -> str | torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        return "auto" if device.type == "cuda" else torch.float32
    chosen = getattr(torch, dtype, None)
    if not isinstance(chosen, torch.dtype) or not chosen.is_floating_point:
        raise LoadError(f"Unknown dtype {dtype!r}; give 'auto', 'float32', 'bfloat16' or 'float16'.")
    return chosen
