"""One process of `pasta train sft` under FSDP on CPUs. accelerate knows FSDP on accelerators only; this opens that one
gate, by calling gloo on CPUs an accelerator's backend. Everything behind it is the real thing."""

from __future__ import annotations

import os
import sys

import torch.distributed as dist
from accelerate.state import PartialState
from accelerate.utils import DistributedType

from pastalm.cli import app

if __name__ == "__main__":
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    PartialState._prepare_backend = lambda *_: ("gloo", DistributedType.MULTI_GPU)
    dist.init_process_group("gloo")
    app(sys.argv[1:])
