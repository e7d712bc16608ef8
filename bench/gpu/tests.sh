#!/usr/bin/env bash
# The equivalences of the runtime on CUDA, then all other tests. From the project's root; nothing is installed: torch,
# transformers, pytest, hypothesis, typer and rich must be there (python3 -m pip install --target, PYTHONPATH).
set -euo pipefail
python3 -c 'import torch, transformers; print(torch.__version__, transformers.__version__, torch.cuda.get_device_name())'
python3 -m pytest -q tests/runtime/test_families.py --device cuda
python3 -m pytest -q --ignore tests/runtime/test_families.py "$@"
