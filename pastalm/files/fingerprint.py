"""Which weights lie in a model's directory, told without reading them all."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

_SAMPLE_BYTES = 1 << 20


def fingerprint(model: str) -> str:
    """A digest of a model's directory: names and sizes of its files, and the ends of each. Empty for a hub id."""
    folder = Path(model).expanduser()
    if not folder.is_dir():
        return ""
    digest = sha256()
    for path in sorted(folder.glob("*")):
        if path.suffix in (".json", ".safetensors", ".bin", ".jinja", ".gguf"):
            size = path.stat().st_size
            with open(path, "rb") as file:
                digest.update(f"{path.name} {size}".encode() + file.read(_SAMPLE_BYTES))
                file.seek(max(0, size - _SAMPLE_BYTES))
                digest.update(file.read())
    return digest.hexdigest()[:16]
