"""Which weights lie in a model's directory, told without reading them all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

_READ = (".json", ".safetensors", ".bin", ".jinja", ".gguf")
_SAMPLE_BYTES = 1 << 20


def model_folder(place: Path) -> Path:
    """The folder that holds the model: ``place`` itself, or its ``model``, where a run of stage 2 has its last one."""
    inside = place / "model"
    return inside if inside.is_dir() and not (place / "config.json").exists() else place


def fingerprint(model: str) -> str:
    """A digest of a model's directory, or of its GGUF file: names and sizes of the files, and the ends of each. Empty
    for a hub id."""
    place = Path(os.path.expanduser(model))
    if place.is_file():
        return _digest([place])
    return _digest(sorted(model_folder(place).glob("*"))) if place.is_dir() else ""


def _digest(paths: Sequence[Path]) -> str:
    digest = sha256()
    for path in paths:
        if path.suffix in _READ:
            size = path.stat().st_size
            with open(path, "rb") as file:
                digest.update(f"{path.name} {size}".encode() + file.read(_SAMPLE_BYTES))
                file.seek(max(0, size - _SAMPLE_BYTES))
                digest.update(file.read())
    return digest.hexdigest()[:16]
