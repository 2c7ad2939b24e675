#!/usr/bin/env bash
# compute-sanitizer over the GPU tests: memcheck on all of them, racecheck on the kernel tests.
#
#   bundle/sanitize-gpu.sh OUTPUT      (scripts/bundle.sh puts it into the bundle)
#
# Both are slow: one process a test, as many at a time as there are cores, and BATCHLAB_QUICK_TESTS for fewer repetitions. Correctness only, so all may share
# the GPU.
set -uo pipefail

[[ $# == 1 ]] || { echo "usage: sanitize-gpu.sh OUTPUT" >&2; exit 2; }
mkdir -p "$1"
out="$(cd "$1" && pwd)"
cd "$(dirname "${BASH_SOURCE[0]}")"
source ./environment.sh
# The references on the CPU would otherwise take every core in each of the processes.
export BATCHLAB_REQUIRE_GPU=1 BATCHLAB_QUICK_TESTS=1 RAYON_NUM_THREADS=2
logs="$(mktemp -d)"
trap 'rm -rf "$logs"' EXIT
export logs

# TOOL PROGRAM [TEST]: the log, with the command first; complains when the tests did not run to their end
# or something was found.
check() {
  local test="${3:-}"
  local log="$logs/$1-$2-${test//:/_}.log"
  set -- timeout 250 compute-sanitizer --tool "$1" --error-exitcode 9 "./$2" --test-threads=1 ${test:+--exact "$test"}
  echo "\$ $*" >"$log"
  "$@" >>"$log" 2>&1
  # The last: the test never used the GPU.
  grep -q 'test result: ok. [1-9]' "$log" &&
    grep -q 'ERROR SUMMARY: 0 errors\|RACECHECK SUMMARY: 0 hazards\|before first instrumented API call' "$log" || {
    echo "FAILED: $*" | tee -a "$log"
    return 1
  }
}
export -f check

tests() {
  "./$1" --list 2>/dev/null | sed -n 's/: test$//p'
}

status=0
{
  # The longest first.
  for test in $(tests kernel_parity); do echo racecheck kernel_parity "$test"; done
  for test in $(tests cuda_model); do echo memcheck cuda_model "$test"; done
  for test in $(tests kernel_parity); do echo memcheck kernel_parity "$test"; done
} | xargs -P "$(nproc)" -L 1 bash -c 'check "$@"' check || status=1

for group in memcheck-kernel_parity memcheck-cuda_model racecheck-kernel_parity; do
  cat "$logs/$group"-*.log >"$out/$group.log"
  echo "$group: $(grep -c '^\$ ' "$out/$group.log") runs, $(grep -c 'test result: ok. [1-9]' "$out/$group.log") passed," \
    "$(grep -c 'SUMMARY: 0 ' "$out/$group.log") used the GPU and were found clean"
done
exit $status
