"""The kernels compiled for a GPU, without one: what Triton's interpreter does not do."""

from __future__ import annotations

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from pastalm.runtime import triton_attention as kernels

HOPPER = GPUTarget("cuda", 90, 32)
TYPES = {"bits": "*i32", "scale": "fp32", "softcap": "fp32"}
WHOLE = ("used", "placed", "query_positions", "key_positions")
FLOATS = ("parts", "tops", "sums", "sinks")
ALIGNED = 16  # bytes, of what pointers point to and of the strides of the cache


def shared(number: str, width: int, window: int) -> int:
    """Bytes of shared memory that the largest of them takes, for heads of ``width`` numbers and the largest tile."""
    padded = kernels._padded(width)
    most = kernels.most_rows(2 * padded)
    own = {"SPLITS": kernels.MOST_SPLITS, "WIDTH": width, "PADDED": padded}
    read = {"VALUE_WIDTH": width, "VALUE_PADDED": padded, "WINDOW": window, "TILE": most, "SLOTS": most}
    join = {"SINKS": True, "SPLITS_PADDED": kernels.MOST_SPLITS}
    return max(_shared(kernels._read_part, number, own | read), _shared(kernels._join_parts, number, own | join))


def _shared(kernel: triton.JITFunction, number: str, constants: dict[str, int]) -> int:
    types = TYPES | dict.fromkeys(WHOLE, "*i64") | dict.fromkeys(FLOATS, "*fp32")
    types |= dict.fromkeys(("query", "key", "value", "out"), f"*{number}") | dict.fromkeys(constants, "constexpr")
    signature = {name: types.get(name, "i32") for name in kernel.arg_names}
    pointers = [place for place, kind in enumerate(signature.values()) if kind.startswith("*")]
    strides = [place for place, name in enumerate(signature) if name.startswith(("key_", "value_")) and name[-2] == "_"]
    aligned = {(place,): [["tt.divisibility", ALIGNED]] for place in (*pointers, *strides)}
    source = ASTSource(kernel, signature, constants, aligned)
    return triton.compile(source, target=HOPPER, options={"num_stages": kernels.STAGES}).metadata.shared
