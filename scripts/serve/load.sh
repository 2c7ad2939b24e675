#!/usr/bin/env bash
# Load on `batchlab serve` by a public load generator, NVIDIA's AIPerf, and what both sides counted.
#
#   pip install -r scripts/serve/requirements.txt
#   scripts/serve/load.sh OUTPUT [AIPERF OPTION ...]
#
# AIPerf's options say what is sent, such as --concurrency 64 --request-count 1000; without any, a short load.
# URL names a running server and TOKENIZER its model's folder. Without URL, BATCHLAB (target/release/batchlab)
# serves the bundled model on a CPU until the load has ended. Fails if a request did, or if the counts differ.
set -euo pipefail

(($#)) || { echo "usage: load.sh OUTPUT [AIPERF OPTION ...]" >&2; exit 2; }
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
out=$1
shift
mkdir -p "$out"
short=(--concurrency 8 --request-count 64 --synthetic-input-tokens-mean 64 --output-tokens-mean 32)
(($#)) || set -- "${short[@]}"
tokenizer="${TOKENIZER:-$here/../../models/batchlab-shakespeare}"

if [[ -z ${URL:-} ]]; then
  "${BATCHLAB:-$here/../../target/release/batchlab}" serve --device cpu --port 0 2>"$out/server.log" &
  server=$!
  trap 'kill "$server"' EXIT
  until URL=$(grep -om1 'http://[0-9.:]*' "$out/server.log"); do
    kill -0 "$server"
    sleep 0.1
  done
fi

model=$(curl -sf "$URL/v1/models" | python3 -c 'import json, sys; print(json.load(sys.stdin)["data"][0]["id"])')
# Requests that got all they asked for.
complete() { curl -sf "$URL/metrics" | awk '/^batchlab_e2el_seconds_count / { print $2 }'; }

# AIPerf's many processes take their time to start on two cores.
for name in REGISTRATION_TIMEOUT REGISTRATION_MAX_ATTEMPTS START_TIMEOUT COMMAND_RESPONSE_TIMEOUT PROFILE_START_TIMEOUT; do
  export "AIPERF_SERVICE_$name=600"
done

before=$(complete)
aiperf profile --url "$URL" --model "$model" --tokenizer "$(realpath "$tokenizer")" \
  --endpoint-type completions --streaming --use-legacy-max-tokens --extra-inputs ignore_eos:true \
  --ui none --artifact-dir "$out" "$@" >"$out/aiperf.txt"
python3 - "$out/profile_export_aiperf.json" $(($(complete) - before)) <<'PYTHON'
import json
import sys

told = json.load(open(sys.argv[1]))
served, sent = int(sys.argv[2]), int(told["request_count"]["avg"])
failed = int(told.get("error_request_count", {"avg": 0})["avg"])
print(f"{sent} requests complete, {failed} failed; the server counted {served}")
for name, what in [
    ("time_to_first_token", "time to first token"),
    ("inter_token_latency", "between tokens"),
    ("request_latency", "request latency"),
]:
    print(f"{what:20} ms: p50 {told[name]['p50']:.1f}, p99 {told[name]['p99']:.1f}")
print(f"output tokens/s: {told['output_token_throughput']['avg']:.0f}")
sys.exit(failed > 0 or sent != served)
PYTHON
