"""Where a model's files lie: a directory, a GGUF file, a hub id, or a short name of ours."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from pastalm.files.fingerprint import model_folder
from pastalm.runtime.bases import BASES, LoadError

BUNDLED = "bundled"
ASSISTANT = "assistant"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_NOTES = "pasta.json"  # what PEFT has no place for: the position policy that an adapter was trained with
WEIGHTS = ("*.safetensors", "*.bin")
TEXT, NUMBER, IDS = (str, "a text"), (int | float, "a number"), (int, "the number of a token, or a list of such")
# The fields of these files that are used here, and what each may be.
FIELDS: dict[str, dict[str, tuple[Any, str]]] = {
    "config.json": {"pasta_positions": TEXT, "eos_token_id": IDS},
    "generation_config.json": {"temperature": NUMBER, "top_p": NUMBER, "eos_token_id": IDS},
    ADAPTER_CONFIG: {"base_model_name_or_path": TEXT},
    ADAPTER_NOTES: {"positions": TEXT},
}


@dataclass(frozen=True)
class Checkpoint:
    """``where`` is a directory or a hub id; ``gguf_file`` the name of the file in it that holds the model, if it is a
    GGUF file; ``adapter`` the folder of the adapter that belongs on it."""

    where: str
    gguf_file: str | None = None
    adapter: Path | None = None

    @property
    def is_local(self) -> bool:
        """Whether it lies on this machine, outside the hub's cache."""
        return Path(self.where).is_dir()


def find_checkpoint(name: str) -> Checkpoint:
    """The checkpoint that a name means: ``"bundled"``, ``"assistant"``, a base of :data:`pastalm.runtime.bases.BASES`,
    a directory, a GGUF file or a directory that holds one, else a hub id. A directory with an adapter alone means the
    base that the adapter names, with it; the folder of a stage-2 run means its last model, which lies in ``model``
    there. Raises :class:`LoadError` for what can only be local and is not there."""
    if name == BUNDLED:
        return _bundled()
    if name == ASSISTANT:
        return _on_its_base(Path(str(files("pastalm") / ASSISTANT)))
    if name in BASES and not Path(name).exists():
        packaged = BASES[name].packaged()
        return Checkpoint(str(packaged.parent), packaged.name) if packaged else Checkpoint(BASES[name].hub_id)
    place = _expanded(name)
    if place.suffix == ".gguf" and not place.is_dir():
        if not place.is_file():
            raise LoadError(f"There is no GGUF file {place}.")
        return Checkpoint(str(place.parent), place.name)
    if _is_adapter(place):
        return _on_its_base(place)
    if place.is_dir():
        place = model_folder(place)
        _check_settings(place)
        return Checkpoint(str(place), _gguf_in(place))
    if name.startswith((".", "/", "~")) or name.endswith("/") or name.count("/") > 1:
        raise LoadError(f"There is no directory {name}; give a directory with a model, a hub id or 'bundled'.")
    return Checkpoint(name)


def read_settings(place: Path) -> dict[str, Any]:
    """The fields of a file of settings. Raises :class:`LoadError` for a file that holds no JSON object, and for one of
    :data:`FIELDS` that is of another kind."""
    try:
        fields = json.loads(place.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise LoadError(f"{place} is no JSON: {error}.") from error
    if not isinstance(fields, dict):
        raise LoadError(f"{place} is no JSON object with a model's settings; get the file again.")
    for name, (kind, wanted) in FIELDS.get(place.name, {}).items():
        value = fields.get(name)
        values = value if isinstance(value, list) and kind is int else [value]
        if not all(one is None or isinstance(one, kind) for one in values):
            raise LoadError(f"{place} names {value!r} as {name}, which must be {wanted}.")
    return fields


def _check_settings(folder: Path) -> None:
    """Raise :class:`LoadError` for files of settings that are damaged: libraries stumble over some and pass over
    others."""
    for name in FIELDS:
        if (folder / name).is_file():
            read_settings(folder / name)


def _bundled() -> Checkpoint:
    place = Path(str(files("pastalm") / "bundled"))
    if not (place / "config.json").is_file():
        raise LoadError("This installation has no bundled model; give a directory or a hub id.")
    return Checkpoint(str(place))


def _on_its_base(folder: Path) -> Checkpoint:
    """The base that an adapter names, with the adapter. Raises :class:`LoadError`."""
    if not _is_adapter(folder):
        raise LoadError(f"This installation has no model {folder.name!r}; give a directory or a hub id.")
    _check_settings(folder)
    base = read_settings(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    if not base or _expanded(base) == folder:
        raise LoadError(f"{folder / ADAPTER_CONFIG} names no base model; name one there as base_model_name_or_path.")
    if base == ASSISTANT or _is_adapter(_expanded(base)):
        raise LoadError(
            f"{folder} holds an adapter for {base}, which is an adapter too; name the folder of a whole model."
        )
    return replace(find_checkpoint(base), adapter=folder)


def _expanded(name: str) -> Path:
    """The path that a name is, the home folder in it written out; of nobody's it stays as it is."""
    return Path(os.path.expanduser(name))


def _is_adapter(folder: Path) -> bool:
    return (folder / ADAPTER_CONFIG).is_file() and not (folder / "config.json").exists()


def _gguf_in(folder: Path) -> str | None:
    """The GGUF file of a folder without other weights."""
    if any(True for pattern in WEIGHTS for _ in folder.glob(pattern)):
        return None
    found = sorted(path.name for path in folder.glob("*.gguf"))
    if len(found) > 1:
        raise LoadError(f"{folder} holds several GGUF files; name one of them: {', '.join(found)}.")
    return found[0] if found else None
