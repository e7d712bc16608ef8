#!/usr/bin/env bash
# The training of a real model on a GPU: both stages of bench.assistant, then the held-out prompts, in batches and for
# wall times. What is done is skipped when it is started again.
# Usage: bench/gpu/train.sh BASE [FOLDER] [OPTIONS OF bench.assistant]; BASE is a model's folder or GGUF file, or a name.
# TINY=1 trains on a few records on a CPU instead. Writes the adapters, figures and logs, in pieces of 15 MB, to
# FOLDER.pieces; bench/gpu/pieces.sh joins them.
set -euo pipefail
base=${1:?give the base: a folder, a GGUF file or a name}
out=${2:-runs/gpu/train}
shift $(($# < 2 ? $# : 2))
steps=pasta-sft,baseline-sft,lambda-4,eval-baseline-sft,eval-pasta-sft,eval-lambda-4,eval-timed-lambda-4
size=(--rounds 1 --sampled 150 --samples 8 --max-batch 64 --tested 80 --timed 30)
[ -z "${TINY:-}" ] || size=(--rounds 1 --records 12 --steps 1 --sampled 3 --samples 4 --max-tokens 300 --tested 2 --timed 1)
python3 -m bench.assistant --base "$base" --out "$out" --only "$steps" "${size[@]}" "$@"
# The adapters alone, without merged weights, the baseline's, and the states that a run goes on from.
tar -czf "$out.tar.gz" -C "$out" --no-wildcards-match-slash --exclude 'model*.safetensors' \
    --exclude './baseline-sft/adapter' --exclude 'checkpoint*' --exclude '*.pt' --exclude './*.jsonl' .
"$(dirname "$0")/pieces.sh" cut "$out.tar.gz" "$out.pieces" 15M
