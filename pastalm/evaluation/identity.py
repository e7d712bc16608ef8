"""On which machine: what wall times depend on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pastalm.runtime.engine import Engine


def machine_of(engine: Engine) -> dict[str, Any]:
    """What wall times depend on."""
    import torch

    weights = next(engine.runner.model.parameters())
    device = torch.cuda.get_device_name(weights.device) if weights.is_cuda else str(weights.device)
    number = str(weights.dtype).removeprefix("torch.")
    return {"device": device, "dtype": number, "threads": torch.get_num_threads(), "torch": str(torch.__version__)}
