#!/usr/bin/env python3
"""Fault runs of `batchlab serve`: each starts a server of its own on 127.0.0.1, with the bundled model on the
CPU, does one kind of harm for a bounded time, and looks at what is left. Needs Python 3.11, no packages.

    scripts/serve/faults.py all                     every fault, in seconds each
    scripts/serve/faults.py --long all              in full: some 15 minutes
    scripts/serve/faults.py --long overload --seconds 60
"""

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path

from hostile.fuzz import fuzz
from hostile.long_prompts import long_prompts
from hostile.overload import overload
from hostile.process import FEW_FILES, drain, few_files, port_in_use, stop_cont
from hostile.report import OPTIONS
from hostile.slow import CROWD_OPTIONS, READER_OPTIONS, crowd, half_closed, slow_readers, slowloris
from hostile.vanish import vanish

from client import Exchange, post
from server import Server

# Each with the options that its server needs beside those of all.
FAULTS = {
    "overload": (overload, {}),
    "vanish": (vanish, {}),
    "slow_readers": (slow_readers, {"options": READER_OPTIONS}),
    "slowloris": (slowloris, {}),
    "crowd": (crowd, {"options": CROWD_OPTIONS}),
    "half_closed": (half_closed, {}),
    "fuzz": (fuzz, {}),
    "long_prompts": (long_prompts, {}),
    "stop_cont": (stop_cont, {}),
    "drain": (drain, {}),
    "port_in_use": (port_in_use, {}),
    "few_files": (few_files, {"limit_files": FEW_FILES}),
}
SETTLE_S = 15
BINARY = Path(__file__).resolve().parents[2] / "target/release/batchlab"


async def warm_up(server):
    """So that memory which a busy server holds is there before."""
    request = post({"prompt": "Shall I", "max_tokens": 16, "ignore_eos": True, "stream": True,
                    "temperature": 0})

    async def client():
        exchange = await Exchange.open(server.port)
        await exchange.ask(request, 60)
        exchange.close()

    await asyncio.gather(*(client() for _ in range(64)))


async def attempt(name, args):
    fault, needs = FAULTS[name]
    options = [*OPTIONS, *needs.get("options", ())]
    server = Server(str(args.binary), *options, limit_files=needs.get("limit_files"))
    try:
        await warm_up(server)
        await asyncio.to_thread(server.settle, SETTLE_S)
        before = server.rss_mib()
        report = await fault(server, args.long, args.seconds)
        await report.all_places_free(server)
        await report.healthy(server)
        left = await asyncio.to_thread(server.settle, SETTLE_S)
        after, panics = server.rss_mib(), server.panics()
        status = server.stop()
    finally:
        server.stop()
    report.must(not any(left.values()), f"not all was given back: {left}")
    report.must(after - before <= report.rss_growth_mib, f"memory grew by {after - before:.0f} MiB")
    report.must(report.hung == 0, f"{report.hung} hung")
    report.must(panics == 0, f"{panics} panics")
    report.must(status == 0, f"exit status {status}")
    return {
        "fault": name, "sent": report.sent, "answers": dict(sorted(report.answers.items())),
        "hung": report.hung, "rss_mib": [round(before, 1), round(after, 1)], "left": left,
        "panics": panics, "exit_status": status, "numbers": report.numbers, "wrong": report.wrong,
    }


def show(results):
    rows = [("fault", "sent", "answers", "hung", "RSS MiB", "rows, pages left", "verdict")]
    for r in results:
        answers = ", ".join(f"{count} × {kind}" for kind, count in r["answers"].items())
        rows.append((r["fault"], str(r["sent"]), answers, str(r["hung"]),
                     "{} → {}".format(*r["rss_mib"]), "{rows}, {pages}".format(**r["left"]),
                     "; ".join(r["wrong"]) or "passed"))
    widths = [max(map(len, column)) for column in zip(*rows)]
    rows.insert(1, tuple("-" * width for width in widths))
    for row in rows:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("faults", nargs="+", choices=["all", *FAULTS], metavar="FAULT",
                        help="all, or: " + ", ".join(FAULTS))
    parser.add_argument("--long", action="store_true", help="in full, not in seconds")
    parser.add_argument("--seconds", type=float, help="of the overload")
    parser.add_argument("--binary", type=Path, default=BINARY)
    parser.add_argument("--json", type=Path, help="keep the counts here")
    args = parser.parse_args()
    names = FAULTS if "all" in args.faults else args.faults
    results = []
    for name in names:
        begin = time.monotonic()
        result = asyncio.run(attempt(name, args))
        result["seconds"] = round(time.monotonic() - begin, 1)
        results.append(result)
        print(f"{name}: {result['seconds']} s, {json.dumps(result['numbers'])}", file=sys.stderr)
        if args.json:
            args.json.write_text(json.dumps(results, indent=1) + "\n")
    show(results)
    sys.exit(any(r["wrong"] for r in results))


if __name__ == "__main__":
    main()
