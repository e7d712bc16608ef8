"""The oracle: one dense forward over the flat layout, which every fast path must equal."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from pastalm.lang.positions import PositionPolicy
from pastalm.lang.script import Script
from pastalm.layout import layout
from pastalm.runtime.replay import block_paths
from pastalm.runtime.runner import Runner
from pastalm.runtime.thread import ThreadPath


def oracle(runner: Runner, prompt: Sequence[int], script: Script, policy: PositionPolicy) -> dict[ThreadPath, Tensor]:
    """The logits that each thread's choices were made from: for each path [tokens of the thread, V], in its own order.

    Row k of a thread predicts its k-th token, ``<async>`` left out; the main thread's first row comes from the prompt.
    """
    laid = layout(prompt, script, policy)
    logits = runner.dense(laid.tokens, laid.positions, laid.mask())
    found: dict[ThreadPath, Tensor] = {}
    for block, path in enumerate(block_paths(script)):
        own = [index for index, owner in enumerate(laid.block.tolist()) if owner == block]
        first = len(prompt) - 1 if block == 0 else 0
        found[path] = logits[own[first:]]
    return found
