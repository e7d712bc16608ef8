"""Where a model runs and in which numbers."""

from __future__ import annotations

from pathlib import Path

import torch

from pastalm.runtime.checkpoint import LoadError

FAST_BFLOAT16 = ("avx512_bf16", "amx_bf16")  # the processor's instructions for products of bfloat16 numbers


def choose_device(device: str) -> torch.device:
    """The device of this name; "auto" takes a GPU if there is one. Raises :class:`LoadError`."""
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


def choose_dtype(dtype: str | torch.dtype, device: torch.device, own: torch.dtype | None) -> torch.dtype:
    """The dtype of this name. "auto" takes the checkpoint's ``own`` on a GPU (bfloat16 if it names none); on a CPU
    bfloat16 if the processor multiplies such numbers itself, which halves the time of a step, else float32.

    Raises :class:`LoadError`.
    """
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        if device.type != "cpu":
            return own or torch.bfloat16
        return torch.bfloat16 if multiplies_bfloat16() else torch.float32
    chosen = getattr(torch, dtype, None)
    if not isinstance(chosen, torch.dtype) or not chosen.is_floating_point:
        raise LoadError(f"Unknown dtype {dtype!r}; give 'auto', 'float32', 'bfloat16' or 'float16'.")
    return chosen


def multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for products of bfloat16 numbers; without, float32 is faster."""
    known: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(known.get(name, False) for name in FAST_BFLOAT16) if known else _in_cpuinfo(Path("/proc/cpuinfo"))


def _in_cpuinfo(path: Path) -> bool:
    """The same from the kernel's list, for a torch that cannot tell."""
    try:
        flags = path.read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return False
    return any(name in flags for name in FAST_BFLOAT16)
