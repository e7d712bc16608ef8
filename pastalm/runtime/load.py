"""Loading a model and its tokenizer by name, with one clear sentence for everything that can be wrong."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from huggingface_hub.utils import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
    get_session,
)
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    GgufConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from pastalm.lang.tokenizer import add_tags
from pastalm.runtime.adapter import adapter_generation_config, apply_adapter, read_positions
from pastalm.runtime.bases import BASES
from pastalm.runtime.checkpoint import Checkpoint, LoadError, find_checkpoint
from pastalm.runtime.device import choose_device, choose_dtype
from pastalm.runtime.gguf import read_once, require_reader, unpacked

LONGEST_REASON = 300  # characters of a library's advice
HUB_SECONDS = 5.0  # how long the hub may take to answer at all


def load(
    name_or_path: str,
    device: str = "auto",
    dtype: str | torch.dtype = "auto",
    *,
    trust_remote_code: bool = False,
    trainable: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model and its fast tokenizer by any name that
    :func:`pastalm.runtime.checkpoint.find_checkpoint` knows. An adapter is merged into its base.

    ``device`` "auto" takes a GPU if there is one; ``dtype`` "auto" is explained at
    :func:`pastalm.runtime.device.choose_dtype`. ``trust_remote_code`` runs the code that comes with a checkpoint.
    ``trainable`` refuses quantised weights, except a GGUF file's, which are unpacked. Raises :class:`LoadError`.
    """
    checkpoint, chosen = find_checkpoint(name_or_path), choose_device(device)
    choose_dtype(dtype, chosen, None)  # an unknown name is refused before anything is read
    with _sentences("model", name_or_path, checkpoint), read_once(checkpoint), _without_bar():
        options = {**_options(checkpoint), "trust_remote_code": trust_remote_code}
        config = AutoConfig.from_pretrained(checkpoint.where, **options)
        _require_causal(config, name_or_path)
        if trainable:
            require_trainable(config, name_or_path)
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.where, **options)
        number = choose_dtype(dtype, chosen, getattr(config, "dtype", None))
        model = _model(checkpoint, config, chosen, number, options)
        return (apply_adapter(model, tokenizer, checkpoint.adapter) if checkpoint.adapter else model), tokenizer


def load_tokenizer(name_or_path: str, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer alone, by the same names. Raises :class:`LoadError`."""
    checkpoint = find_checkpoint(name_or_path)
    with _sentences("tokenizer", name_or_path, checkpoint), read_once(checkpoint):
        tokenizer = AutoTokenizer.from_pretrained(
            checkpoint.where, trust_remote_code=trust_remote_code, **_options(checkpoint)
        )
        if checkpoint.adapter:
            add_tags(tokenizer)
        return tokenizer


def load_generation_config(name_or_path: str) -> GenerationConfig | None:
    """What a model's files, or those of an adapter, say about its answers, by the same names; None where they say
    nothing."""
    checkpoint = find_checkpoint(name_or_path)
    if checkpoint.adapter and (found := adapter_generation_config(checkpoint.adapter)):
        return found
    try:
        return GenerationConfig.from_pretrained(checkpoint.where, local_files_only=_is_offline(checkpoint))
    except OSError:
        return None


def trained_positions(name_or_path: str) -> str | None:
    """The position policy that a model's files, or those of an adapter, say it was trained with, if they do."""
    checkpoint = find_checkpoint(name_or_path)
    if checkpoint.adapter:
        return read_positions(checkpoint.adapter)
    try:
        fields, _ = PretrainedConfig.get_config_dict(checkpoint.where, local_files_only=_is_offline(checkpoint))
    except OSError:
        return None
    return fields.get("pasta_positions")


def quantisation(config: Any) -> str | None:
    """How the weights of a checkpoint with this config are quantised, None if they are not. A GGUF file's are unpacked
    when they are loaded."""
    own = getattr(config, "quantization_config", None)
    method = own.get("quant_method") if isinstance(own, dict) else getattr(own, "quant_method", None)
    return None if own is None else str(getattr(method, "value", method) or "in some way")


def require_trainable(config: Any, name: str) -> None:
    """Raise :class:`LoadError` for a checkpoint that can only be decoded with."""
    if method := quantisation(config):
        raise LoadError(
            f"The weights of {name!r} are quantised ({method}): such a model can answer, but it cannot be trained. "
            "Start from the checkpoint that it was made from."
        )


def _model(
    checkpoint: Checkpoint, config: Any, device: torch.device, dtype: torch.dtype, options: dict[str, Any]
) -> Any:
    if quantisation(config) and not checkpoint.gguf_file:
        # Such weights lie where they are loaded, in the numbers they were made for. Some ways of quantising store them
        # under other names, so that what is missing says nothing.
        return AutoModelForCausalLM.from_pretrained(checkpoint.where, config=config, device_map={"": device}, **options)
    if checkpoint.gguf_file:
        options = {**options, "quantization_config": GgufConfig(dequantize=True)}
    found: Any = AutoModelForCausalLM.from_pretrained(
        checkpoint.where, config=config, dtype=dtype, output_loading_info=True, **options
    )
    model, info = found
    _require_complete(model, info["missing_keys"], checkpoint)
    return (unpacked(model, dtype) if checkpoint.gguf_file else model).to(device)


def _require_complete(model: Any, missing: Iterable[str], checkpoint: Checkpoint) -> None:
    """Raise :class:`LoadError` for weights that the files lack: the library makes them up. A tied head is not among
    these, nor a buffer, which the model fills by itself."""
    weights = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    lost = sorted(weights.intersection(missing))
    if lost:
        place = Path(checkpoint.where, checkpoint.gguf_file or "") if checkpoint.is_local else checkpoint.where
        raise LoadError(
            f"{place} lacks {len(lost)} of the model's {len(weights)} weights, the first {lost[0]}: its files are "
            "damaged, or belong to another model than its config says; get them again."
        )


def _options(checkpoint: Checkpoint) -> dict[str, Any]:
    """What the library must be told: the GGUF file; not to ask a hub that does not answer, five times a file."""
    if checkpoint.gguf_file:
        require_reader(checkpoint)
        return {"gguf_file": checkpoint.gguf_file}
    return {} if checkpoint.is_local else {"local_files_only": _is_offline(checkpoint)}


def _is_offline(checkpoint: Checkpoint) -> bool:
    return checkpoint.is_local or not hub_answers()


def hub_answers() -> bool:
    """Whether the hub can be reached; asked once, in a few seconds."""
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS)
    except Exception:  # each client and each fault of a network has an error of its own
        return False
    return True


@contextmanager
def _without_bar() -> Iterator[None]:
    """Reading weights that are here takes a moment and needs no bar; a download keeps its own."""
    shown, downloads = logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    logging.disable_progress_bar()
    if downloads:
        enable_progress_bars()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
            if not downloads:
                disable_progress_bars()


@contextmanager
def _sentences(what: str, name: str, checkpoint: Checkpoint) -> Iterator[None]:
    """Turn what the library raises, of many kinds and most with pages of advice, into one sentence."""
    try:
        yield
    except LoadError:
        raise
    except Exception as error:
        raise LoadError(_unreached(checkpoint, error) or unloadable(what, name, error)) from (
            error if checkpoint.is_local else None
        )


def _unreached(checkpoint: Checkpoint, error: Exception) -> str:
    """What to do about a base with a short name whose weights are neither here nor to be had; else nothing."""
    short = next((short for short, base in BASES.items() if base.hub_id == checkpoint.where), None)
    return BASES[short].advice(short) if short and "connect" in str(error) else ""


def unloadable(what: str, name: str, error: Exception) -> str:
    """One sentence of why the ``what`` of this name could not be loaded."""
    place = Path(name).expanduser()
    reason = " ".join(str(error).split())
    if "trust_remote_code" in reason:
        return (
            f"The {what} {name!r} brings code of its own, which is not run unless you allow it: read that code, then "
            "give --trust-remote-code (trust_remote_code=True)."
        )
    if "connect" in reason and not place.exists():
        return f"There is no directory {name}, and the hub, which may know that name, cannot be reached."
    return f"Cannot load the {what} {name!r} from a directory or the hub: {reason[:LONGEST_REASON]}"


def _require_causal(config: Any, name: str) -> None:
    kind = getattr(config, "model_type", "?")
    if getattr(config, "is_encoder_decoder", False):
        raise LoadError(f"{name!r} ({kind}) has an encoder; PASTA decodes with decoder-only models.")
    own_code = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    if type(config) not in AutoModelForCausalLM._model_mapping and not own_code:
        raise LoadError(f"{name!r} ({kind}) is not a causal language model; PASTA decodes with decoder-only models.")
