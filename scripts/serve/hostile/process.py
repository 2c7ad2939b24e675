"""What happens to the process itself: it is stopped, for a while or for good, its port is taken, it has few files."""

import asyncio
import signal
import subprocess
import time

from client import Exchange, get, post
from server import Server

from .report import Report


async def stop_cont(server, long, seconds=None):
    """kill -STOP in the middle of 32 answers, and -CONT: all of them come to their end."""
    report = Report()
    request = post({"prompt": "Shall I", "max_tokens": 200, "ignore_eos": True, "stream": True,
                "temperature": 0})
    exchanges = [await Exchange.open(server.port) for _ in range(32)]
    for exchange in exchanges:
        exchange.send(request)
    await asyncio.gather(*(exchange.events(2, 60) for exchange in exchanges))
    server.signal(signal.SIGSTOP)
    # Who comes now waits in the system's queue.
    late = asyncio.create_task(report.healthy(server, 60))
    await asyncio.sleep(5 if long else 2)
    server.signal(signal.SIGCONT)
    for exchange in exchanges:
        report.count(exchange, await exchange.answered(60))
        exchange.close()
    await late
    report.must(set(report.answers) == {"200"}, "not all answers came whole")
    return report


async def port_in_use(server, long, seconds=None):
    """A second server on the same port says so and ends; the first goes on."""
    report = Report(sent=1)
    begin = time.monotonic()
    second = subprocess.run(
        [server.process.args[0], "serve", "--device", "cpu", "--port", str(server.port)],
        capture_output=True, text=True, timeout=30)
    report.answers[f"exit {second.returncode}"] = 1
    report.numbers["seconds"] = time.monotonic() - begin
    report.must(second.returncode not in (0, 101) and "give another --port" in second.stderr,
                f"the second server: {second.stderr[-300:]}")
    await report.healthy(server)
    return report


async def drain(server, long, seconds=None):
    """SIGTERM while answers are under way, and heads and bodies that never end: the answers come whole, nobody
    else is waited for."""
    report = Report()
    second = Server(server.process.args[0], "--drain-timeout", "300")
    request = post({"prompt": "Shall I", "max_tokens": 100, "ignore_eos": True, "stream": True,
                    "temperature": 0})
    try:
        kinds = [b"", request[:30], request[:-5], get("/live")] * 5 + [request] * 16
        exchanges = [await Exchange.open(second.port) for _ in kinds]
        for exchange, data in zip(exchanges, kinds):
            exchange.send(data)
        streams = exchanges[-16:]
        await asyncio.gather(*(exchange.events(1, 60) for exchange in streams))
        begin = time.monotonic()
        second.signal(signal.SIGTERM)
        status = await asyncio.to_thread(second.process.wait, 300)
        report.numbers["seconds"] = time.monotonic() - begin
        for exchange in exchanges:
            report.count(exchange, await exchange.answered(5))
        report.must(status == 0, f"exit status {status}: {second.text()[-300:]}")
        report.must(all(exchange.outcome() == 200 for exchange in streams), "an answer was cut off")
    finally:
        second.stop()
    return report


FEW_FILES = 160


async def few_files(server, long, seconds=None):
    """More connections than the process may have files: the rest waits, and is served once others go."""
    report = Report()
    held = [await Exchange.open(server.port) for _ in range(FEW_FILES + 40)]
    await asyncio.sleep(2)
    waiting = asyncio.create_task(report.healthy(server))
    await asyncio.sleep(1)
    for exchange in held:
        exchange.abort()
    await waiting
    report.sent, report.answers["left"] = len(held), len(held)
    report.must("was not accepted" not in server.text(), "connections were accepted in vain")
    return report
