#!/usr/bin/env bash
# Train the bundled model on a GPU; run it again after a kill and it goes on.
# Usage: bench/gpu/train.sh [FOLDER] [OPTIONS OF bench.bundled]
set -euo pipefail
out=${1:-runs/bundled}
shift || true
python3 -m bench.bundled --out "$out" --bf16 --number 110000 --steps 8000 --batch 4 "$@"
python3 -m pastalm.cli eval "$out/model" tasks:held-out:330 --out "$out/figures" --max-tokens 900
