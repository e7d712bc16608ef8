#!/usr/bin/env bash
# The equivalences of the runtime on CUDA: every family against the oracle, by the kernel and with graphs; then what is
# tested of the kernel, the graphs and the sampler alone. From the project's root; nothing is installed: torch,
# transformers, triton, pytest, pytest-xdist, hypothesis, typer and rich must be there.
# Usage: bench/gpu/tests.sh [OPTIONS OF PYTEST]; TINY=1 runs one family on a CPU instead.
set -euo pipefail
where=(--device cuda)
[ -z "${TINY:-}" ] || where=(--device cpu -k "llama and dense or bucket")
python3 -c 'import torch, transformers; print(torch.__version__, transformers.__version__)'
[ -n "${TINY:-}" ] || python3 -c 'import torch, triton; print(triton.__version__, torch.cuda.get_device_name())'
python3 -m pytest -q -n "${WORKERS:-6}" "${where[@]}" "$@" tests/runtime/test_triton_attention.py \
    tests/runtime/test_kernel_metadata.py tests/runtime/test_graphs.py tests/runtime/test_ahead.py \
    tests/runtime/test_families.py
