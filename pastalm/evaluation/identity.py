"""Which model, on which machine: what answers and their times depend on."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pastalm.runtime.engine import Engine

_SAMPLE_BYTES = 1 << 20


def machine_of(engine: Engine) -> dict[str, Any]:
    """What wall times depend on."""
    import torch

    weights = next(engine.runner.model.parameters())
    device = torch.cuda.get_device_name(weights.device) if weights.is_cuda else str(weights.device)
    number = str(weights.dtype).removeprefix("torch.")
    return {"device": device, "dtype": number, "threads": torch.get_num_threads(), "torch": str(torch.__version__)}


def fingerprint(model: str) -> str:
    """A digest of a model's directory: names and sizes of its files, and the ends of each. Empty for a hub id."""
    folder = Path(model).expanduser()
    if not folder.is_dir():
        return ""
    digest = sha256()
    for path in sorted(folder.glob("*")):
        if path.suffix in (".json", ".safetensors", ".bin", ".jinja"):
            size = path.stat().st_size
            with open(path, "rb") as file:
                digest.update(f"{path.name} {size}".encode() + file.read(_SAMPLE_BYTES))
                file.seek(max(0, size - _SAMPLE_BYTES))
                digest.update(file.read())
    return digest.hexdigest()[:16]
