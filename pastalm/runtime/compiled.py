"""A compiled forward pass: one graph for a single query, and one for any other number of them.

Attention stays outside the graphs as one operator, ``pastalm::attend``: it finds what a step sees in the attention
context when it runs, not when it is compiled. So no graph depends on how many sequences, threads or slots a step has,
and nothing needs to be padded. Where torch multiplies on a CPU, the weights are folded into the graphs in the layout
that it multiplies fastest (``fold``), which keeps them in memory twice and makes each start take longer; our own
products take them as they are.

Compiled code is kept on disk, in the folder that ``TORCHINDUCTOR_CACHE_DIR`` names, by default below ``~/.cache``: the
next start finds it there.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from time import time
from types import FunctionType, MethodType
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from pastalm.runtime.attention import AttentionContext, Scoring, attend
from pastalm.runtime.memory import is_out_of_memory
from pastalm.runtime.reason import reason

LARGEST = 64  # queries of a pass that is worth a graph; prompts are read without one
CACHE = Path("~/.cache/pastalm/compiled")
FOLDER = "TORCHINDUCTOR_CACHE_DIR"
ABANDONED = 60.0  # seconds without a byte, after which a compiler is not at work any more

_log = logging.getLogger(__name__)
_numbers = count()
# An operator takes tensors and numbers only: this is where it finds the context that a number stands for.
_contexts: WeakValueDictionary[int, AttentionContext] = WeakValueDictionary()

# Logits [1, K, V] of tokens and positions [1, N], of the queries K.
Pass = Callable[[Tensor, Tensor, Tensor], Tensor]


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sinks: Tensor | None,
    context: int,
    layer: int,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    return attend(_contexts[context], layer, query, key, value, Scoring(scaling, window, softcap, sinks))


def _attend_shape(query: Tensor, key: Tensor, value: Tensor, *_: object) -> Tensor:
    return query.new_empty(query.shape[0], query.shape[2], query.shape[1], value.shape[3])


# Not ``torch.library.custom_op``, whose checks take longer than the attention of a small model.
torch.library.define("pastalm::attend", torch.library.infer_schema(_attend, mutates_args=()))
torch.library.impl("pastalm::attend", "CompositeExplicitAutograd", _attend)
torch.library.register_fake("pastalm::attend", _attend_shape)


class CompiledPass:
    """``eager``, a method that runs a model, compiled. Where that cannot be done, now or at any later call, it says
    so once and stays eager: no request ends because of it. An error that the eager pass has too, or that there is no
    memory for a pass, is the request's own."""

    def __init__(self, eager: Pass, context: AttentionContext, *, fold: bool) -> None:
        from pastalm.runtime.side_by_side import SideBySide  # it takes seconds to import

        self.folder = choose_folder()
        self.eager, self.context = eager, context
        self.number = next(_numbers)
        _contexts[self.number] = context
        options: dict[str, Any] = {
            "freezing": fold,
            "post_grad_custom_pre_pass": SideBySide(),
            # What is left besides products and attention is so little that sharing it among threads takes longer.
            "cpp.threads": 1,
            "size_asserts": False,
            # A model that decodes stays as it is: to look at all of it takes a tenth of a step.
            "guard_filter_fn": torch.compiler.skip_guard_on_all_nn_modules_unsafe,
        }
        self._compiled: Pass | None = torch.compile(_with_own_code(eager), fullgraph=True, options=options)

    @property
    def active(self) -> bool:
        """Whether it runs compiled code."""
        return self._compiled is not None

    def __call__(self, tokens_1N: Tensor, positions_1N: Tensor, keep_K: Tensor) -> Tensor:
        """See :data:`Pass`."""
        if self._compiled is None or tokens_1N.shape[1] > LARGEST:
            return self.eager(tokens_1N, positions_1N, keep_K)
        try:
            return self._run(self._compiled, tokens_1N, positions_1N, keep_K)
        except Exception as error:
            # Memory that compiling lacks, an error of the compiler's, is no fault of a request.
            if is_out_of_memory(error) and not isinstance(error, torch._dynamo.exc.TorchDynamoException):
                raise
            fault = reason(error)
        logits = self.eager(tokens_1N, positions_1N, keep_K)
        self._compiled = None
        _log.warning(
            "The step cannot be compiled (%s); it runs without, more slowly. Compiled code is kept in %s.",
            fault,
            self.folder,
        )
        return logits

    def _run(self, compiled: Pass, tokens_1N: Tensor, positions_1N: Tensor, keep_K: Tensor) -> Tensor:
        self.context.opaque = self.number
        try:
            return compiled(*_marked(tokens_1N, positions_1N, keep_K))[:, : len(keep_K)]
        finally:
            self.context.opaque = None


def choose_folder() -> Path:
    """The folder where compiled code is kept: below the home folder, unless somebody has named another. What imports
    torch's compiler, as transformers does, has named torch's own, which may be gone tomorrow. Without a home folder
    that can be written to, it stays with that. What a compiler left empty when it was killed is removed."""
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    named = Path(os.environ.get(FOLDER) or default_cache_dir())
    if named == Path(default_cache_dir()):
        try:
            folder = CACHE.expanduser()
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK):
                named = folder
                os.environ[FOLDER] = str(folder)
        except (OSError, RuntimeError):
            pass
    _remove_unfinished(named)
    return named


def _remove_unfinished(folder: Path) -> None:
    """Remove the empty libraries in a folder, which torch would load for ever; one that is a minute old is no other
    process's work."""
    for place in folder.rglob("*.so"):
        with suppress(OSError):  # another process may be at it, too
            found = place.stat()
            if not found.st_size and found.st_mtime < time() - ABANDONED:
                place.unlink()


def _with_own_code(method: Any) -> Pass:
    """The same method with a code object of its own. By that torch keeps what it compiles, tries it in turn, and counts
    it towards a limit: one engine's graphs are none of another's."""
    function = method.__func__
    parts = (function.__globals__, function.__name__, function.__defaults__, function.__closure__)
    return MethodType(FunctionType(function.__code__.replace(), *parts), method.__self__)


def _marked(tokens_1N: Tensor, positions_1N: Tensor, keep_K: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The inputs, with the sizes that differ from step to step marked. A size of one is compiled apart, so one query
    has a graph of its own, and of several more than one is wanted. Copies, because a place in a buffer counts too."""
    keep_K = keep_K.repeat(2) if len(keep_K) == 1 < tokens_1N.shape[1] else keep_K.clone()
    tokens_1N, positions_1N = tokens_1N.clone(), positions_1N.clone()
    if tokens_1N.shape[1] > 1:
        for tensor, size in ((tokens_1N, 1), (positions_1N, 1), (keep_K, 0)):
            torch._dynamo.maybe_mark_dynamic(tensor, size)
    return tokens_1N, positions_1N, keep_K
