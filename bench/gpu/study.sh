#!/usr/bin/env bash
# The study of stage 2 on a GPU; run it again after a kill and it goes on.
# Usage: bench/gpu/study.sh BUNDLED [FOLDER] [OPTIONS OF bench.study], BUNDLED being the folder that train.sh filled
set -euo pipefail
bundled=${1:?give the folder of bench/gpu/train.sh}
out=${2:-runs/study}
shift $(($# < 2 ? $# : 2))
python3 -m bench.study --base "$bundled/base" --model "$bundled/model" --out "$out" "$@"
