"""What a run leaves on the disk: its state, checkpoints to go on from, and the finished model.

The run state, ``run.json``, holds the run's settings, digests of its data and models, and its figures once it is
finished. The finished model is a directory that the runtime, and any program that reads Hugging Face models, can load.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase, Trainer

from pastalm.files.atomic import write_json
from pastalm.files.fingerprint import fingerprint
from pastalm.files.lock import held
from pastalm.lang.vocabulary import Vocabulary
from pastalm.runtime.adapter import note_positions
from pastalm.training.adapters import add_adapters, bare, is_adapted, merge
from pastalm.training.base import SettingsError, starting_point
from pastalm.training.config import TrainingConfig, fixed, flag
from pastalm.training.processes import leads, processes, rank

STATE = "run.json"
PATHS = frozenset({"model", "data", "baseline"})  # settings that name files of the machine where a run was
DIGESTS = {"data_sha256": "data", "model_print": "model", "baseline_print": "baseline"}  # of which settings' files
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_LAST_FILE = "trainer_state.json"  # the Trainer writes it last
_LONGEST_REASON = 200  # characters of a library's message


class SaveError(OSError):
    """A model or checkpoint that could not be written, and why."""


# The run state


def read_state(out: str | Path, option: str = "--out") -> dict[str, Any]:
    """The state of an earlier run in ``out``: its ``settings``, and its ``figures`` if it was finished; empty if there
    is none.

    Raises :class:`SettingsError` for a file that is no run state; ``option`` is the flag that named ``out``.
    """
    place = Path(out) / STATE
    try:
        state = json.loads(place.read_text(encoding="utf-8"))
        if isinstance(state["settings"], dict):
            return state
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError):
        pass
    raise SettingsError(f"{place} is no run state of `pasta train`; give another {option}, or remove the file.")


def run_state(config: TrainingConfig, data: Iterable[object]) -> dict[str, Any]:
    """The state of a run that begins: its settings, and what tells whether ``data``, as it was read, and the models are
    still the same under their names."""
    digest = sha256()
    for one in data:
        digest.update(repr(one).encode(errors="surrogatepass") + b"\n")
    baseline = getattr(config, "baseline", "")
    return {
        "stage": config.STAGE,
        "settings": asdict(config),
        "data_sha256": digest.hexdigest(),
        "model_print": fingerprint(config.model),
        "baseline_print": fingerprint(baseline) if baseline else "",
    }


def write_state(out: str | Path, state: dict[str, Any]) -> None:
    """Write the state of a run, all or nothing."""
    Path(out).mkdir(parents=True, exist_ok=True)
    write_json(Path(out) / STATE, state)


def require_same(config: TrainingConfig, now: dict[str, Any], before: dict[str, Any], instead: str) -> None:
    """Raise :class:`SettingsError` if the run with the state ``before``, in ``config.out``, had other settings than
    ``config`` that matter, other data or other models. Positions that are not settled yet are passed over. ``instead``
    says what else to give."""
    if before:
        names = [name for name in fixed(config) if name != "positions" or now["settings"][name]]
        require_equal(config.out, before, now, names, instead)


def require_equal(place: str, before: dict[str, Any], now: dict[str, Any], names: Sequence[str], instead: str) -> None:
    """Raise :class:`SettingsError` for the first of the settings ``names`` that differs between the run state
    ``before``, which lies in ``place``, and ``now``, or for another stage, other data or models under the same names.
    What the earlier state does not know is taken for equal."""
    if before.get("stage", now["stage"]) != now["stage"]:
        raise SettingsError(f"{place} holds a run of `pasta train {before['stage']}`: give {instead}.")
    for name in names:
        was, asked = before["settings"].get(name, now["settings"][name]), now["settings"][name]
        if was != asked:
            raise SettingsError(
                f"{place} holds a run with {flag(name)} {was!r}, but this one asks for {asked!r}: give the same, or "
                f"{instead}."
            )
    for key, name in DIGESTS.items():
        if before.get(key) and now.get(key) and before[key] != now[key]:
            was, asked = before["settings"].get(name, now["settings"][name]), now["settings"][name]
            differs = (
                "which has changed since: give it as it was"
                if was == asked
                else f"but this one asks for {asked!r}, which holds something else: give the same"
            )
            raise SettingsError(f"{place} holds a run with {flag(name)} {was!r}, {differs}, or {instead}.")


def is_finished(out: str | Path, state: dict[str, Any]) -> bool:
    """Whether the run in ``out``, with this state, has come to its end."""
    return "figures" in state and any(Path(out).glob("*.safetensors"))


# Where a run may write


def require_elsewhere(model: str, places: Iterable[Path]) -> None:
    """Raise :class:`SettingsError` if ``model``, from which a run starts, lies where that run writes."""
    start = Path(model).resolve()
    for place in places:
        if place.resolve() == start:
            raise SettingsError(
                f"--model {model} is also where this run writes, and would be overwritten; give another --out."
            )


def require_folder(out: str) -> None:
    """Raise :class:`SettingsError` if ``out`` is no folder, and cannot become one, in which this run may write."""
    place = Path(out).absolute()
    there = next(path for path in (place, *place.parents) if path.exists())
    if not there.is_dir():
        raise SettingsError(f"{there} is a file, so --out {out} cannot be a folder; give another --out.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise SettingsError(f"{there} may not be written to, so --out {out} is of no use; give another --out.")


def locked(out: str | Path) -> AbstractContextManager[None]:
    """Keep other runs away from the folder ``out``, which is made; each process of a run has a lock of its own. Raises
    ``DataError`` if another run is at work there."""
    Path(out).mkdir(parents=True, exist_ok=True)
    return held(Path(out) / (".lock" if leads() else f".lock{rank()}"))


# Checkpoints


def checkpoints(out: str | Path) -> list[Path]:
    """All checkpoints in ``out``, complete or not."""
    there = Path(out)
    return [p for p in there.iterdir() if _CHECKPOINT.fullmatch(p.name) and p.is_dir()] if there.is_dir() else []


def last_checkpoint(out: str | Path) -> Path | None:
    """The newest complete checkpoint in ``out``; one that a kill left half-written is passed over."""
    return max((path for path in checkpoints(out) if _complete(path)), key=step_of, default=None)


def resumed_from(out: str | Path) -> str | None:
    """The newest complete checkpoint in ``out``, for the Trainer to go on from, if there is one. Raises
    :class:`SettingsError` for one that another number of processes has written: they share the rows of a step, so these
    would see some rows again and others never."""
    checkpoint = last_checkpoint(out)
    if checkpoint is None:
        return None
    wrote = len(list(checkpoint.glob("rng_state*.pth")))  # each process keeps its own
    if wrote not in (0, processes()):
        raise SettingsError(
            f"{checkpoint} was written by a run of {wrote} processes, and this is one of {processes()}: start "
            f"{wrote}, or give another --out."
        )
    return str(checkpoint)


def drop_checkpoints(out: str | Path) -> None:
    """Remove all checkpoints in ``out``."""
    for path in checkpoints(out):
        shutil.rmtree(path)


def step_of(checkpoint: Path) -> int:
    """The optimiser step after which a checkpoint was written."""
    return int(checkpoint.name.rpartition("-")[2])


def _complete(checkpoint: Path) -> bool:
    try:
        return "global_step" in json.loads((checkpoint / _LAST_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


@contextmanager
def saving(folder: Path, part: Path | None = None) -> Iterator[None]:
    """While ``folder`` is written: an error of the disk becomes a :class:`SaveError` in one sentence, and what is there
    of the folder, or of ``part`` that will take its place, is removed, to make room. Each library that writes has an
    error of its own."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(part or folder, ignore_errors=True)
        free = shutil.disk_usage(next(path for path in folder.absolute().parents if path.exists())).free
        raise SaveError(
            f"{folder} cannot be written ({_reason(error)}; {free >> 20} MiB are free there). What was saved before is "
            "whole: make room, and the same command goes on from the last checkpoint."
        ) from error


def _reason(error: BaseException | None) -> str:
    """What the system says, where an error says it itself or was raised while another was handled that does."""
    first, found = error, error
    while found is not None:
        if isinstance(found, OSError) and found.strerror:
            return found.strerror
        found = found.__cause__ or found.__context__
    return " ".join(str(first).split())[:_LONGEST_REASON]


# The finished model


def save_trained(
    trainer: Trainer, tokenizer: PreTrainedTokenizerBase, config: TrainingConfig, dtype: torch.dtype, card: str
) -> None:
    """Write what ``trainer`` has trained to ``config.out``, adapters merged and also alone in its ``adapter``; each
    with the ``card`` as its README.md.

    All processes call it, for each may hold a part of the weights (FSDP); the first writes. The trainer's model is not
    fit for use afterwards.
    """
    sharded = trainer.is_fsdp_enabled
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped) if sharded else None
    if trainer.args.should_save:
        model = unwrapped(trainer)
        if state is not None:
            model = whole_model(model, state, Vocabulary(tokenizer), config)
        if is_adapted(model):
            model = _save_adapter(model, config, card)
        save(model, tokenizer, config.out, dtype, card)
    trainer.accelerator.wait_for_everyone()


def unwrapped(trainer: Trainer) -> Any:
    """The model that ``trainer`` trains, without what makes it run on several devices or compiled."""
    return trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_torch_compile=False)


def _save_adapter(model: Any, config: TrainingConfig, card: str) -> PreTrainedModel:
    """Write the adapter of ``model`` alone; returns the merged model."""
    place = Path(config.out) / "adapter"
    model.peft_config["default"].base_model_name_or_path = starting_point(config)[0]
    with saving(place):
        model.save_pretrained(place, save_embedding_layers=False)
        note_positions(place, getattr(bare(model).config, "pasta_positions", None))
        bare(model).generation_config.save_pretrained(place)
        (place / "README.md").write_text(card, encoding="utf-8")  # PEFT has put an empty form there
    return merge(model)


def whole_model(model: Any, state: dict[str, Tensor], vocabulary: Vocabulary, config: TrainingConfig) -> Any:
    """A model like ``model``, whose weights lie in parts on many processes, with all of them, from ``state``."""
    plain = bare(model)
    config_copy = deepcopy(plain.config)  # building a model writes to the config it is given
    built: Any = AutoModelForCausalLM.from_config(
        config_copy, dtype=torch.float32, attn_implementation=library_attention(plain)
    )
    built.generation_config = deepcopy(plain.generation_config)
    if is_adapted(model):
        built = add_adapters(built, vocabulary, config)
    missing, unexpected = built.load_state_dict(state, strict=False)
    tensors = built.state_dict()
    loaded = {tensors[name].data_ptr() for name in state if name in tensors}
    lost = [name for name in missing if tensors[name].data_ptr() not in loaded]  # a tied weight has one name there
    if lost or unexpected:
        raise RuntimeError(f"The gathered weights do not fit the model: {[*lost, *unexpected][:5]}")
    return built


def library_attention(model: PreTrainedModel) -> str:
    """The attention of transformers that ``model`` runs with: a few families, such as Gemma 2, have no SDPA."""
    return "sdpa" if model._supports_sdpa else "eager"


def save(model: Any, tokenizer: PreTrainedTokenizerBase, out: str | Path, dtype: torch.dtype, card: str) -> None:
    """Write model, tokenizer and ``card`` to ``out``.

    Weights come last and are moved into their place, so that a kill leaves no half of a model there. Raises
    :class:`SaveError`.
    """
    model.config.use_cache = True  # the Trainer turned it off
    model.set_attn_implementation(library_attention(model))  # ours is the runtime's choice, not the checkpoint's
    place = Path(out)
    place.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".saving-", dir=place) as part, saving(place, Path(part)):
        tokenizer.save_pretrained(part)
        model.to(dtype).save_pretrained(part)
        (Path(part) / "README.md").write_text(card, encoding="utf-8")
        for file in sorted(Path(part).iterdir(), key=lambda path: path.name.endswith((".safetensors", ".index.json"))):
            file.replace(place / file.name)


def model_card(config: TrainingConfig, dtype: torch.dtype, figures: dict[str, Any]) -> str:
    """The README.md of a trained model and of its adapter: what it comes from, how it was trained, what it came to."""
    base, name = Path(config.model), str(dtype).removeprefix("torch.")
    settings = {flag(one): getattr(config, one) for one in fixed(config) if one not in PATHS}
    rows = {**{key: value for key, value in settings.items() if value not in ("", None, False)}, **figures}
    head = [
        "---",
        *([] if base.exists() else [f"base_model: {config.model}"]),
        "tags: [pasta, parallel-decoding]",
        "---",
    ]
    text = (
        f"{base.name} after `pasta train {config.STAGE}` of pastalm on {Path(config.data).name}: it marks independent "
        f"parts of its answers, which pastalm decodes in parallel. {weights_trained(config)} The whole model is {name}."
    )
    if config.lora:
        text += " `adapter` holds what was trained alone; pastalm loads that folder too, if it finds the base."
    table = ["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())]
    return "\n".join([*head, "", f"# {Path(config.out).name}", "", text, "", *table, ""])


def weights_trained(config: TrainingConfig) -> str:
    """Which weights are trained, in a sentence."""
    if config.lora:
        return f"Trained: adapters of rank {config.lora} on {config.lora_targets}, and the rows of the six tags."
    return "Trained: all weights."
