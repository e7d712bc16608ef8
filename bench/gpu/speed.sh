#!/usr/bin/env bash
# The speed report on a GPU: random models of known shapes in bfloat16, their weights made on the device; each shape as
# it is, and with compiled steps. What runs out of its time leaves the other reports whole.
# Usage: bench/gpu/speed.sh [FOLDER] [SHAPE ..]; TINY=1 runs the smallest shape on a CPU instead. Writes the reports to
# FOLDER and, as one file, to FOLDER.tar.gz.
set -euo pipefail
out=${1:-runs/gpu/speed}
shift || true
shapes=("$@")
[ $# -gt 0 ] || shapes=(llama-7b qwen2.5-1.5b)
grid=(--device cuda --dtype bfloat16 --threads 1,2,4,8,16,32 --sequences 1,4,8,16,32 --contexts 256,2048,8192 --limit 6)
if [ -n "${TINY:-}" ]; then
    shapes=(tiny)
    grid=(--device cpu --dtype float32 --threads 1,2 --sequences 1,2 --contexts 32 --limit 1 --repeats 3)
fi
mkdir -p "$out"
[ -n "${TINY:-}" ] || nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv | tee "$out/gpu.csv"
bench() { timeout "${SECONDS_EACH:-150}" python3 -m pastalm.cli bench "${grid[@]}" "$@" || echo "pasta bench $* ended early"; }
for shape in "${shapes[@]}"; do
    bench --shape "$shape" --compile --only steps,breakdown,replay --out "$out/$shape-compiled"
    bench --shape "$shape" --out "$out/$shape"
done
tar -czf "$out.tar.gz" -C "$out" .
ls -l "$out.tar.gz"
