#!/usr/bin/env bash
# compute-sanitizer over the GPU tests: memcheck and initcheck on all of them, racecheck and synccheck on
# the kernel tests.
#
#   bundle/sanitize-gpu.sh OUTPUT [TOOL ...]      (scripts/bundle.sh puts it into the bundle)
#
# TOOLs: memcheck, racecheck, synccheck, initcheck; all of them where none is named. They are slow: one process a test, as many at a time as there are cores, and BATCHLAB_QUICK_TESTS for fewer repetitions. Correctness only, so all may share
# the GPU.
set -uo pipefail

(($#)) || { echo "usage: sanitize-gpu.sh OUTPUT [memcheck|racecheck|synccheck|initcheck ...]" >&2; exit 2; }
tools=("${@:2}")
((${#tools[@]})) || tools=(racecheck memcheck synccheck initcheck)
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

# The programs that a tool goes over, the longest first.
programs() {
  case "$1" in
    racecheck | synccheck) echo kernel_parity ;;
    memcheck | initcheck) echo cuda_model kernel_parity ;;
    *) echo "there is no tool '$1'" >&2; return 1 ;;
  esac
}

groups=()
for tool in "${tools[@]}"; do
  found="$(programs "$tool")" || exit 2
  for program in $found; do groups+=("$tool-$program"); done
done

status=0
for group in "${groups[@]}"; do
  for test in $(tests "${group#*-}"); do echo "${group%%-*}" "${group#*-}" "$test"; done
done | xargs -P "$(nproc)" -L 1 bash -c 'check "$@"' check || status=1

for group in "${groups[@]}"; do
  cat "$logs/$group"-*.log >"$out/$group.log"
  echo "$group: $(grep -c '^\$ ' "$out/$group.log") runs, $(grep -c 'test result: ok. [1-9]' "$out/$group.log") passed," \
    "$(grep -c 'SUMMARY: 0 ' "$out/$group.log") used the GPU and were found clean"
done
exit $status
