#!/usr/bin/env bash
# The study of stage 2 on a GPU; run it again after a kill and it goes on.
# Usage: bench/gpu/study.sh MODEL [FOLDER] [OPTIONS OF bench.study]
set -euo pipefail
model=${1:?give the stage-1 model}
out=${2:-runs/study}
shift $(($# < 2 ? $# : 2))
python3 -m bench.bundled --plain 1 --out "$out/base" --bf16 --number 110000 --steps 4000 --batch 4
python3 -m bench.study --base "$out/base/model" --model "$model" --out "$out" "$@"
