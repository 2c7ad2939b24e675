#!/usr/bin/env bash
# Builds everything that runs on a GPU and gathers it in bundle/, for a GPU machine with no Rust:
# the program, the GPU tests, the benches, the tests' fixtures, run-tests.sh that runs all tests,
# sanitize-gpu.sh that runs them under compute-sanitizer, and measure-gpu.sh that measures everything.
# Needs nvcc (scripts/install-nvcc.sh), strip and python3. Copy the folder over and run it there.
set -euo pipefail

tests=(kernel_parity cuda_model smollm2)

cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() {
  echo "bundle: $*" >&2
  exit 1
}

command -v strip >/dev/null || die "strip is missing; install binutils"
command -v python3 >/dev/null || die "python3 is missing"

# Prints "NAME PATH" of every executable of KIND that cargo reports on standard input.
executables() {
  python3 -c '
import json, sys
for line in sys.stdin:
    if not line.startswith("{"):
        continue
    message = json.loads(line)
    target = message.get("target", {})
    if message.get("executable") and sys.argv[1] in target["kind"]:
        print(target["name"], message["executable"])
' "$1"
}

# Runs cargo with the given arguments and puts its executables of KIND, stripped, into the bundle.
gather() {
  local kind=$1 name path
  shift
  cargo "$@" --message-format=json-render-diagnostics | executables "$kind" >bundle/built
  [[ -s bundle/built ]] || die "cargo $* built no $kind"
  while read -r name path; do
    strip -o "bundle/$name" "$path"
  done <bundle/built
  rm bundle/built
}

rm -rf bundle
mkdir bundle
gather bin build --release --bin batchlab
gather test test --release --no-run "${tests[@]/#/--test=}"
gather bench bench --no-run --bench '*'
if [[ -d tests/fixtures ]]; then
  mkdir bundle/tests
  cp -r tests/fixtures bundle/tests/
fi
cp -r scripts/{measure-gpu.sh,sanitize-gpu.sh,compare_peers.py,peers} benches/results/peers-recorded.json bundle/
rm -rf bundle/peers/__pycache__
git describe --always --dirty --abbrev=40 >bundle/COMMIT

cat >bundle/run-tests.sh <<'RUN'
#!/usr/bin/env bash
# Runs the GPU tests of this bundle; arguments go to every test program (a name to filter by, …).
# BATCHLAB_REQUIRE_GPU=1 makes a missing GPU a failure.
set -uo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"
export BATCHLAB_REQUIRE_GPU="${BATCHLAB_REQUIRE_GPU:-1}"
source ./environment.sh

echo "commit $(cat COMMIT)"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader || true
failed=()
for program in TESTS; do
  echo "== $program"
  "./$program" --test-threads=1 --nocapture "$@" || failed+=("$program")
done
if ((${#failed[@]})); then
  echo "FAILED: ${failed[*]}"
  exit 1
fi
echo "all GPU tests passed"
RUN
sed -i "s/TESTS/${tests[*]}/" bundle/run-tests.sh

cat >bundle/environment.sh <<'ENVIRONMENT'
# Source this: puts cuBLASLt, which is optional, of a Python environment (nvidia-cublas, PyTorch) on
# LD_LIBRARY_PATH when the system has none.
if ! ldconfig -p 2>/dev/null | grep -q libcublasLt.so.13; then
  cublas="$(python3 -c '
import pathlib, sys
found = [p.parent for d in sys.path for p in pathlib.Path(d or ".").glob("nvidia/*/lib/libcublasLt.so.13")]
print(found[0] if found else "")
' 2>/dev/null)"
  if [[ -n "$cublas" ]]; then
    export LD_LIBRARY_PATH="$cublas${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
  fi
fi
ENVIRONMENT
chmod +x bundle/run-tests.sh

du -ah --apparent-size bundle | sort -h | tail -12
