#!/usr/bin/env bash
# Everything that is claimed of a GPU, in one run on one machine: the GPU tests, compute-sanitizer,
# the sweeps, the policies beside each other, the comparison with nvidia-smi, the kernel
# microbenchmarks and the peers beside us.
#
#   bundle/measure-gpu.sh OUTPUT [PART ...]      (scripts/bundle.sh puts it into the bundle)
#
# Parts: tests, sanitizers, speed, sweeps, policies; all of them where none is named, about 25 minutes.
# Needs compute-sanitizer for its part. The comparison takes the peers that are installed (compare_peers.py).
# BATCHLAB_SMOLLM2 names the folder that scripts/make_smollm2.py writes; without it, its tests are
# skipped and its shape runs with random weights.
set -uo pipefail

(($#)) || { echo "usage: measure-gpu.sh OUTPUT [tests|sanitizers|speed|sweeps|policies ...]" >&2; exit 2; }
parts=("${@:2}")
((${#parts[@]})) || parts=(tests sanitizers speed sweeps policies)
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

tests() {
  record tests ./run-tests.sh
}

sanitizers() {
  record sanitizers ./sanitize-gpu.sh "$out"
}

speed() {
  record kernels ./kernels --output "$out/kernels.json"
  # Decode steps of three models, longer contexts, whole prompts, and attention: batchlab and its peers.
  record compare-peers python3 compare_peers.py --device cuda --bundle . --kernels "$out/kernels.json" \
    --output "$out/compare-peers"
  record compare-nvidia-smi ./batchlab gpu --compare-nvidia-smi --model dummy:distilgpt2 \
    --output "$out/compare-nvidia-smi.json"
  record profile ./batchlab generate --model dummy:distilgpt2 --prompt 'Shall I compare thee' \
    --ignore-eos --max-new-tokens 128 --profile
  record plan ./batchlab plan --model dummy:gpt2-xl --batch-size 8,64 --seq-len 1024 --verify
}

sweeps() {
  record sweep-experiments ./batchlab sweep --model dummy:distilgpt2 \
    --experiment day2,few-requests,padding,idle-rows --kv-cache-memory 4GiB --output "$out/sweep-experiments"
  record sweep-saturation ./batchlab sweep --model dummy:distilgpt2 \
    --experiment saturation --windows-ms 0 --output "$out/sweep-saturation"
}

# The same 512 requests under each policy; padded is what Hugging Face's generate does.
policies() {
  local load=(--experiment mixed-lengths --input-len 32-512 --output-len 16-256 --num-prompts 512 --min-seconds 0)
  record policies-smollm2 ./batchlab sweep --model "${BATCHLAB_SMOLLM2:-dummy:smollm2-135m}" "${load[@]}" \
    --padding padded,ragged --batch-sizes 64,256 --prefill-windows-ms 0,10 --output "$out/policies-smollm2"
  record policies-llama-7b ./batchlab sweep --model dummy:llama-7b "${load[@]}" \
    --padding padded,ragged --batch-sizes 64 --output "$out/policies-llama-7b"
  # In as much KV memory as 64 padded rows take: which policy fills it with more rows?
  record policies-llama-7b-memory ./batchlab sweep --model dummy:llama-7b "${load[@]}" \
    --policies static,continuous --padding padded --batch-sizes 64,128 --kv-cache-memory 24GiB \
    --output "$out/policies-llama-7b-memory"
}

for part in "${parts[@]}"; do
  case "$part" in
    tests | sanitizers | speed | sweeps | policies) "$part" ;;
    *) echo "there is no part '$part'" >&2 && exit 2 ;;
  esac
done

if ((${#failed[@]})); then
  echo "FAILED: ${failed[*]}"
  exit 1
fi
echo "everything passed; results in $out"
