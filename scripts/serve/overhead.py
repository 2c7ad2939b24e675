#!/usr/bin/env python3
"""What HTTP and its scheduling cost beside the engine's own work: the bundled model on the CPU, 64 clients that
ask again as soon as they are answered, once inside `batchlab sweep` and once as streams over 127.0.0.1.

The clients share the cores with the server, so that tokens a second say too little: what counts is the
process's own CPU time for a token (user and system), of the server's engine threads and of all others, and
of the sweep the difference between a long run and a short one, which leaves its start and its report out.
Rounds alternate; medians are shown. Then the CPU time of an idle server, with and without a live page open.
Needs Python 3.11, no packages.

    scripts/serve/overhead.py --rounds 5
"""

import argparse
import asyncio
import csv
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from client import Exchange, get, post
from server import Server

CLIENTS, OUTPUT_LEN = 64, 64
PROMPT = "Shall I compare thee to a summer's day?"
REQUEST = post({"prompt": PROMPT, "max_tokens": OUTPUT_LEN, "ignore_eos": True, "temperature": 0,
                "stream": True})
BINARY = Path(__file__).resolve().parents[2] / "target/release/batchlab"


def sweep(binary, requests):
    """CPU seconds of a whole sweep of one cell, and the tokens a second of its run."""
    with tempfile.TemporaryDirectory() as folder:
        before = os.times()
        subprocess.run(
            [binary, "sweep", "--device", "cpu", "--policies", "continuous", "--batch-sizes", str(CLIENTS),
             "--load", "closed", "--max-concurrency", str(CLIENTS), "--prompt", PROMPT,
             "--output-len", str(OUTPUT_LEN), "--num-prompts", str(requests), "--min-seconds", "0.001",
             "--output", f"{folder}/sweep"],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        after = os.times()
        with open(f"{folder}/sweep/summary.csv") as summary:
            cell = next(csv.DictReader(summary))
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return cpu, float(cell["output_throughput"]), int(cell["requests"])


def offline(binary, requests):
    short_cpu, _, short_requests = sweep(binary, requests // 4)
    long_cpu, throughput, long_requests = sweep(binary, requests)
    return (long_cpu - short_cpu) / ((long_requests - short_requests) * OUTPUT_LEN), throughput


async def serve(server, requests):
    """Of one round, for a token: CPU seconds of the server's engine, of the rest of it, and of the clients;
    and tokens a second."""
    left = requests

    async def client():
        nonlocal left
        exchange = await Exchange.open(server.port)
        while left > 0:
            left -= 1
            assert await exchange.ask(REQUEST, 120) and exchange.outcome() == 200, exchange.outcome()
        exchange.close()

    cpu, engine = server.cpu_seconds(), server.engine_cpu_seconds()
    own, begin = time.process_time(), time.monotonic()
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    took, tokens = time.monotonic() - begin, requests * OUTPUT_LEN
    own, engine = time.process_time() - own, server.engine_cpu_seconds() - engine
    rest = server.cpu_seconds() - cpu - engine
    return engine / tokens, rest / tokens, own / tokens, tokens / took


async def idle(server, seconds, live):
    """CPU seconds of an idle server."""
    exchange = await Exchange.open(server.port)
    if live:
        exchange.send(get("/live"))
    await asyncio.sleep(1)
    before = server.cpu_seconds()
    await asyncio.sleep(seconds)
    cpu = server.cpu_seconds() - before
    exchange.abort()
    return cpu


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=1024, help="of a round")
    parser.add_argument("--idle-seconds", type=float, default=30)
    parser.add_argument("--binary", default=str(BINARY))
    parser.add_argument("--json", type=Path, help="keep the numbers here")
    args = parser.parse_args()
    server = Server(args.binary, "--max-batch-size", str(CLIENTS))
    try:
        asyncio.run(serve(server, 2 * CLIENTS))
        rounds = []
        for _ in range(args.rounds):
            engine = offline(args.binary, args.requests)
            rounds.append((*engine, *asyncio.run(serve(server, args.requests))))
            print("sweep {:.1f} µs/token, {:.0f} tok/s; server {:.1f} + {:.1f}, clients {:.1f}, {:.0f} tok/s"
                  .format(*(x if x > 1 else 1e6 * x for x in rounds[-1])))
        # The live page is told of what ran in the last second: nothing.
        idles = {name: asyncio.run(idle(server, args.idle_seconds, live))
                 for name, live in (("idle_cpu_s", False), ("idle_cpu_s_with_live_page", True))}
    finally:
        server.stop()
    sweeping, sweep_rate, engine, rest, client, rate = map(statistics.median, zip(*rounds))
    result = {
        "sweep_cpu_us_per_token": 1e6 * sweeping,
        "server_engine_cpu_us_per_token": 1e6 * engine,
        "server_rest_cpu_us_per_token": 1e6 * rest,
        "rest_of_engine_percent": 100 * rest / engine,
        "server_over_sweep_percent": 100 * ((engine + rest) / sweeping - 1),
        "client_cpu_us_per_token": 1e6 * client,
        "sweep_tokens_per_s": sweep_rate,
        "server_tokens_per_s": rate,
        "idle_seconds": args.idle_seconds,
        **idles,
        "load_average": os.getloadavg()[0],
    }
    print(json.dumps(result, indent=1))
    if args.json:
        args.json.write_text(json.dumps(result | {"rounds": rounds}, indent=1) + "\n")


if __name__ == "__main__":
    main()
