"""Linear layers that read their weights once for the few rows of a decode step on a CPU.

With our own kernels (:mod:`pastalm.runtime.kernels`) a few rows take as long as reading the weights. Without them the
CPU's matrix product first packs the whole weight, which costs as much again as the product: two threads then cost twice
what one does. With the weight as the left factor it is read as it lies. Measured in docs/log.md for float32; in
bfloat16, on a processor that multiplies it, four to sixteen rows take half to two thirds of the time. For one row, and
for many, the usual way is at least as good.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

ROWS = {torch.float32: range(2, 9), torch.bfloat16: range(2, 33)}


class NarrowLinear(nn.Linear):
    """A linear layer that takes this way where it pays, unless gradients are asked for or a compiler packs weights.
    ``kernel`` says that our own kernels do the work, in compiled code too."""

    kernel = False

    @property
    def rows(self) -> range:
        """How many rows are few."""
        return ROWS.get(self.weight.dtype, range(0))

    def forward(self, x: Tensor) -> Tensor:
        """See ``nn.Linear``."""
        if self.kernel and not torch.is_grad_enabled():
            return multiply(x, self.weight, None, self.weight, self.bias)
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or x.numel() // self.in_features not in self.rows:
            return super().forward(x)
        found = torch.mm(self.weight, x.reshape(-1, self.in_features).t()).t().contiguous()
        return (found if self.bias is None else found + self.bias).view(*x.shape[:-1], self.out_features)


def multiply(x: Tensor, weight: Tensor, scale: Tensor | None, many: Tensor, bias: Tensor | None) -> Tensor:
    """A product by our kernels: x [.., in] with a ``weight`` [out, in], or with a packed one of int8 and its float32
    ``scale`` [out]; more than a few rows are multiplied with ``many`` [out, in], of the type of x."""
    scales = [] if scale is None else [scale]
    found = torch.ops.pastalm.linears(x.reshape(-1, x.shape[-1]), [weight], scales, [many])
    return (found if bias is None else found + bias).view(*x.shape[:-1], len(many))


def narrow(model: nn.Module, *, kernel: bool = False) -> None:
    """Make the plain linear layers of a model on a CPU narrow ones; their weights stay what they are. ``kernel``: with
    our own kernels, which must be loaded."""
    for module in model.modules():
        if type(module) is nn.Linear and module.weight.device.type == "cpu" and module.weight.dtype in ROWS:
            module.__class__ = NarrowLinear
        if isinstance(module, NarrowLinear) and kernel:
            module.kernel = module.weight.is_contiguous()
