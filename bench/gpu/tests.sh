#!/usr/bin/env bash
# All tests on a machine with a GPU. From the project's root; nothing is installed: torch, transformers, pytest and
# hypothesis must be there (python -m pip install --target, PYTHONPATH). Models in the tests run on the CPU and, where a
# test asks for it, on CUDA.
set -euo pipefail
python3 -c 'import torch, transformers; print(torch.__version__, transformers.__version__, torch.cuda.get_device_name())'
python3 -m pytest -q "$@"
