#!/usr/bin/env bash
# Everything that is claimed of a GPU, in one run on one machine: the GPU tests, compute-sanitizer,
# the sweeps, the comparison with nvidia-smi, the kernel microbenchmarks and Hugging Face beside us.
#
#   bundle/measure-gpu.sh OUTPUT      (scripts/bundle.sh puts it into the bundle)
#
# Needs compute-sanitizer for its part, and PyTorch with transformers for the comparison.
set -uo pipefail

[[ $# == 1 ]] || { echo "usage: measure-gpu.sh OUTPUT" >&2; exit 2; }
mkdir -p "$1"
out="$(cd "$1" && pwd)"
cd "$(dirname "${BASH_SOURCE[0]}")"
source ./environment.sh
export BATCHLAB_REQUIRE_GPU=1
failed=()

# Runs a command into OUTPUT/NAME.log, the command itself first.
record() {
  local name=$1
  shift
  echo "\$ $*" >"$out/$name.log"
  "$@" >>"$out/$name.log" 2>&1 || { failed+=("$name"); return 1; }
}

{
  echo "date: $(date -u +%FT%TZ)"
  echo "commit: $(cat COMMIT)"
  nvidia-smi --query-gpu=name,driver_version,memory.total,power.limit --format=csv
  lscpu | grep -E '^(Model name|CPU\(s\))'
} >"$out/machine.txt"

record tests ./run-tests.sh

record sanitizers ./sanitize-gpu.sh "$out"
record kernels ./kernels --output "$out/kernels.json"
record compare-hf python3 compare_hf.py --device cuda --bench-exe ./decode \
  --batch-sizes 1,8,64,256 --output "$out/compare-hf"
record compare-nvidia-smi ./batchlab gpu --compare-nvidia-smi --model dummy:distilgpt2 \
  --output "$out/compare-nvidia-smi.json"
record sweep-dummy-distilgpt2 ./batchlab sweep --model dummy:distilgpt2 --output "$out/sweep-dummy-distilgpt2"
record sweep-bundled ./batchlab sweep --output "$out/sweep-bundled"

if ((${#failed[@]})); then
  echo "FAILED: ${failed[*]}"
  exit 1
fi
echo "everything passed; results in $out"
