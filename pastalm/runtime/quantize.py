"""Weight-only int8 for a CPU: each row of a weight as whole numbers from -127 to 127 and one scale.

A pass over a few rows of inputs is bound by the bytes of the weights, and reads half of what bfloat16 has. For more
rows (without our own kernels, :mod:`pastalm.runtime.kernels`, from two on) the same rounded weights are multiplied as
numbers of the model's own type, kept beside: quantising makes decoding faster, not the memory smaller (1.5 times that
of bfloat16). Int4 does not pay: unpacking takes longer than reading saves (docs/log.md).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pastalm.runtime.kernels import load_kernels
from pastalm.runtime.narrow import NarrowLinear, multiply

KINDS = ("int8",)
LEVELS = 127
LANES = 32  # torch's kernel takes whole vectors of inputs
OUTPUTS, DEEP = 16, 64  # of a tile of a packed weight


class Int8Linear(nn.Module):
    """A linear layer with int8 numbers, ``rounded`` [out, in], and a ``scale`` [out]; ``many`` has the same weight in
    the type of the layer it was made from. ``kernel``: multiplied by our kernels, which take them :func:`packed`."""

    rounded: Tensor
    scale: Tensor

    def __init__(self, layer: nn.Linear, *, kernel: bool = False) -> None:
        super().__init__()
        self.kernel = kernel
        self.in_features, self.out_features = layer.in_features, layer.out_features
        exact = layer.weight.detach().float().contiguous()
        scale = (exact.abs().amax(1) / LEVELS).clamp_(min=torch.finfo(torch.float32).tiny).to(layer.weight.dtype)
        rounded = (exact / scale.float()[:, None]).round().clamp_(-LEVELS, LEVELS).to(torch.int8)
        self.register_buffer("rounded", packed(rounded) if kernel else rounded)
        self.register_buffer("scale", scale.float() if kernel else scale)
        self.bias = layer.bias
        self.many = nn.Linear(layer.in_features, layer.out_features, bias=False, dtype=layer.weight.dtype)
        self.many.weight = nn.Parameter((rounded.float() * scale.float()[:, None]).to(scale.dtype), False)

    @property
    def weight(self) -> Tensor:
        """The rounded weight [out, in] in the type of the layer it was made from."""
        return self.many.weight

    def forward(self, x: Tensor) -> Tensor:
        """See ``nn.Linear``."""
        if self.kernel:
            return multiply(x, self.rounded, self.scale, self.many.weight, self.bias)
        if x.numel() // self.in_features == 1:
            row = torch.ops.aten._weight_int8pack_mm(x.reshape(1, -1), self.rounded, self.scale)
            found = row.view(*x.shape[:-1], self.out_features)
        else:
            found = self.many(x)
        return found if self.bias is None else found + self.bias


def packed(weight: Tensor) -> Tensor:
    """An int8 weight [out, in] in the order in which our kernels read it: [out / 16, in / 64, 16, 16, 4], four inputs
    of an output side by side; with zeros where an output or an input is missing."""
    size, inputs = weight.shape
    blocks = nn.functional.pad(weight, (0, -inputs % DEEP, 0, -size % OUTPUTS))
    return blocks.view(-(-size // OUTPUTS), OUTPUTS, -1, DEEP // 4, 4).permute(0, 2, 3, 1, 4).contiguous()


def quantize(model: nn.Module, kind: str) -> None:
    """Quantise the linear layers of a model on a CPU, in place: it can then only be decoded with.

    Raises ``ValueError`` for another kind than int8, for a model elsewhere than on a CPU, and for one without linear
    layers that can be quantised.
    """
    if kind not in KINDS:
        raise ValueError(f"Unknown quantisation {kind!r}; choose {' or '.join(KINDS)}, or leave it out.")
    places = [(parent, name) for parent in model.modules() for name, child in parent.named_children() if _fits(child)]
    if not places:
        raise ValueError(
            f"{type(model).__name__} has no linear layers on a CPU that can be quantised to {kind}; decode without."
        )
    kernel = load_kernels()
    for parent, name in places:
        setattr(parent, name, Int8Linear(getattr(parent, name), kernel=kernel))


def _fits(layer: nn.Module) -> bool:
    if type(layer) not in (nn.Linear, NarrowLinear):  # somebody's own kind does more than a product
        return False
    return isinstance(layer, nn.Linear) and layer.weight.device.type == "cpu" and layer.in_features % LANES == 0
