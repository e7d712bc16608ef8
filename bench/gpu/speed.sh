#!/usr/bin/env bash
# The speed report on a GPU: replay of known answers through random models, and the bundled model on held-out tasks.
# Usage: bench/gpu/speed.sh TRACES.jsonl [FOLDER FOR THE FIGURES]
set -euo pipefail
traces=${1:?give a file of annotated answers}
out=${2:-runs/gpu}
mkdir -p "$out"
nvidia-smi --query-gpu=name,driver_version --format=csv
python3 -m bench.replay "$traces" --number 40 --out "$out/replay-100m.json"
python3 -m bench.replay "$traces" --number 10 --layers 24 --width 2048 --out "$out/replay-1b.json"
python3 -m pastalm.cli eval bundled tasks:held-out:330 --out "$out/tasks" --max-tokens 900
