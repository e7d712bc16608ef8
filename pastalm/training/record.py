"""What a run leaves beside its model: checkpoints to go on from, and ``run.json`` with its settings and figures."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

from pastalm.data.examples import Record
from pastalm.files.atomic import write_text
from pastalm.training.base import SettingsError
from pastalm.training.config import SftConfig, option
from pastalm.training.fingerprint import fingerprint

# What may differ from one start of a run to the next: it changes how the work is done, not what comes out.
FREE = frozenset({"out", "resume", "eval_data", "save_every", "log_every", "gradient_checkpointing"})
# What a record knows of the files that its settings name.
CONTENTS = {"data_sha256": "data", "model_print": "model", "baseline_print": "baseline"}
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


def contents(config: SftConfig, records: Iterable[Record]) -> dict[str, str]:
    """What tells whether data and model are still the same under their names."""
    digest = sha256()
    for record in records:
        digest.update(repr(record).encode() + b"\n")
    return {"data_sha256": digest.hexdigest(), "model_print": fingerprint(config.model)}


def write_run(config: SftConfig, known: dict[str, str], figures: dict[str, Any] | None = None) -> None:
    """Write the record of a run, all or nothing. ``known`` is what :func:`contents` says."""
    record = {"settings": asdict(config), **known} | ({"figures": figures} if figures else {})
    place = _record(config.out)
    place.parent.mkdir(parents=True, exist_ok=True)
    write_text(place, json.dumps(record, indent=2) + "\n")


def require_same(config: SftConfig, known: dict[str, str], run: dict[str, Any]) -> None:
    """Raise :class:`SettingsError` if the run in ``config.out`` had other settings than ``config`` that matter, other
    data or another model. Positions that are not settled yet are passed over."""
    if run:
        now = {"settings": asdict(config), **known}
        skipped = FREE | (set() if config.positions else {"positions"})
        names = [name for name in now["settings"] if name not in skipped]
        require_equal(config.out, run, now, names, "another --out, or --no-resume to start anew")


def require_equal(place: str, before: dict[str, Any], now: dict[str, Any], names: Sequence[str], instead: str) -> None:
    """Raise :class:`SettingsError` for the first of the settings ``names`` that differs between the record ``before``,
    which lies in ``place``, and the record ``now``, or for other data or models under the same names. ``instead`` says
    what else to give. What the earlier record does not know is taken for equal."""
    for name in names:
        was, asked = before["settings"].get(name, now["settings"][name]), now["settings"][name]
        if was != asked:
            raise SettingsError(
                f"{place} holds a run with {option(name)} {was!r}, but this one asks for {asked!r}: give the same, "
                f"{instead}."
            )
    for key, name in CONTENTS.items():
        if before.get(key) and now.get(key) and before[key] != now[key]:
            raise SettingsError(
                f"{place} holds a run with {option(name)} {now['settings'][name]!r}, which has changed since: give it "
                f"as it was, {instead}."
            )


def require_elsewhere(model: str, places: Iterable[Path]) -> None:
    """Raise :class:`SettingsError` if ``model``, from which a run starts, lies where that run writes."""
    start = Path(model).expanduser().resolve()
    for place in places:
        if place.resolve() == start:
            raise SettingsError(
                f"--model {model} is also where this run writes, and would be overwritten; give another --out."
            )


def overwritten(out: str | Path) -> list[Path]:
    """Where a run that writes to ``out`` replaces or removes models: ``out`` itself, and the checkpoints in it."""
    return [Path(out), *_checkpoints(out)]


def require_folder(out: str) -> None:
    """Raise :class:`SettingsError` if ``out`` is no folder, and cannot become one, in which this run may write."""
    place = Path(out).absolute()
    there = next(path for path in (place, *place.parents) if path.exists())
    if not there.is_dir():
        raise SettingsError(f"{there} is a file, so --out {out} cannot be a folder; give another --out.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise SettingsError(f"{there} may not be written to, so --out {out} is of no use; give another --out.")


def is_finished(config: SftConfig, run: dict[str, Any]) -> bool:
    """Whether ``run``, the one that ``config`` asks for by :func:`require_same`, has come to its end."""
    return "figures" in run and any(Path(config.out).glob("*.safetensors"))


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
