#!/usr/bin/env bash
# The speed report on a GPU: random models of 1.5B and 7B, then the bundled model on held-out tasks.
# Usage: bench/gpu/speed.sh TRACES.jsonl [FOLDER FOR THE REPORTS]
set -euo pipefail
traces=${1:?give a file of annotated answers}
out=${2:-runs/gpu}
mkdir -p "$out"
nvidia-smi --query-gpu=name,driver_version --format=csv
grid=(--threads 1,2,4,8,16,32 --sequences 1,2,4,8,16,32 --contexts 256,2048,8192 --data "$traces")
python3 -m pastalm.cli bench --shape qwen2.5-1.5b "${grid[@]}" --limit 20 --out "$out/qwen2.5-1.5b"
python3 -m pastalm.cli bench --shape llama-7b "${grid[@]}" --limit 10 --out "$out/llama-7b"
python3 -m pastalm.cli eval tasks:held-out:330 --model bundled --out "$out/tasks" --max-tokens 900
