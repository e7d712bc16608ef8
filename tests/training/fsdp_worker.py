"""One process of `pasta train sft` under FSDP on CPUs. accelerate knows FSDP on accelerators only; this opens that one
gate, by calling gloo on CPUs an accelerator's backend. Everything behind it is the real thing."""

from __future__ import annotations

import os

import torch.distributed as dist
from accelerate.state import PartialState
from accelerate.utils import DistributedType

from tests.processes import pasta


def sharded(*words: str) -> None:
    """`pasta` with these words, in a process that has a share of the weights."""
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    PartialState._prepare_backend = lambda *_: ("gloo", DistributedType.MULTI_GPU)
    dist.init_process_group("gloo")
    pasta(*words)
