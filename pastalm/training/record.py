"""What a run leaves beside its model: checkpoints to go on from, and ``run.json`` with its settings and figures."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pastalm.data.whole import write_whole
from pastalm.training.base import SettingsError
from pastalm.training.config import SftConfig

FIXED = (
    "model", "data", "positions", "plain", "row", "pack", "prompt_loss", "lora", "lora_alpha", "lora_targets", "seed"
)  # fmt: skip  # a run that goes on with other values of these would be two runs in one
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_STATE = "trainer_state.json"  # the Trainer writes it last


def last_checkpoint(out: str | Path) -> Path | None:
    """The newest complete checkpoint in ``out``; one that a kill left half-written is passed over."""
    return max((path for path in _checkpoints(out) if _complete(path)), key=step_of, default=None)


def drop_checkpoints(out: str | Path) -> None:
    """Remove all checkpoints and the record of an earlier run in ``out``."""
    for path in _checkpoints(out):
        shutil.rmtree(path)
    _record(out).unlink(missing_ok=True)


def read_run(out: str | Path) -> dict[str, Any]:
    """The record of an earlier run: its ``settings``, and its ``figures`` if it was finished; empty if there is none.

    Raises :class:`SettingsError` for a file that is no record.
    """
    try:
        run = json.loads(_record(out).read_text(encoding="utf-8"))
        if isinstance(run["settings"], dict):
            return run
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError):
        pass
    raise SettingsError(f"{_record(out)} is no record of a run; give another --out, or remove the file.")


def write_run(config: SftConfig, figures: dict[str, Any] | None = None) -> None:
    """Write the record of a run, all or nothing."""
    record = {"settings": asdict(config)} | ({"figures": figures} if figures else {})
    place = _record(config.out)
    place.parent.mkdir(parents=True, exist_ok=True)
    write_whole(place, json.dumps(record, indent=2) + "\n")


def require_same(config: SftConfig, run: dict[str, Any]) -> None:
    """Raise :class:`SettingsError` if the run in ``config.out`` had other settings than ``config`` that matter."""
    before = run.get("settings", {})
    for name in FIXED:
        if name in before and before[name] != getattr(config, name):
            option = "--" + name.replace("_", "-")
            raise SettingsError(
                f"{config.out} holds a run with {option} {before[name]!r}, but this one asks for "
                f"{getattr(config, name)!r}: give the same, another --out, or --no-resume to start anew."
            )


def is_finished(config: SftConfig, run: dict[str, Any]) -> bool:
    """Whether the very run that ``config`` asks for has come to its end."""
    resumable = asdict(config) | {"resume": True}
    model_there = any(Path(config.out).glob("*.safetensors"))
    return model_there and "figures" in run and run["settings"] | {"resume": True} == resumable


def _record(out: str | Path) -> Path:
    return Path(out) / "run.json"


def _checkpoints(out: str | Path) -> list[Path]:
    there = Path(out)
    return [p for p in there.iterdir() if _CHECKPOINT.fullmatch(p.name) and p.is_dir()] if there.is_dir() else []


def step_of(checkpoint: Path) -> int:
    """The optimiser step after which a checkpoint was written."""
    return int(checkpoint.name.rpartition("-")[2])


def _complete(checkpoint: Path) -> bool:
    try:
        return "global_step" in json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
