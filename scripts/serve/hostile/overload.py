"""Ten times as many requests as can be served: each is answered whole or refused at once, and who is
accepted waits as long as the queue in front of it takes."""

import asyncio
import time

from client import Exchange, post

from .report import QUEUE, Report

FACTOR = 10
REQUEST = post({"prompt": "Shall I compare thee to a summer's day?", "max_tokens": 96,
                "ignore_eos": True, "stream": True,
                "temperature": 0})
CLOSED_LOOP_CLIENTS = 64
LONGEST_ANSWER_S = 120
SAMPLE_S = 0.5
TICK_S = 0.01


async def overload(server, long, seconds=None):
    seconds = seconds or (60 if long else 6)
    report = Report()
    calm = await closed_loop(server, 6 if long else 3)
    log_begin, begin, cpu = server.log_end(), time.monotonic(), server.cpu_seconds()
    watch = asyncio.create_task(rss(server))
    ttfts, ends, tasks, started = [], [], set(), 0
    while (now := time.monotonic() - begin) < seconds:
        while started < now * calm * FACTOR:
            task = asyncio.create_task(one(server, report, ttfts, ends))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            started += 1
        await asyncio.sleep(TICK_S)
    offered = started / seconds
    await asyncio.gather(*tasks)
    took, cpu = time.monotonic() - begin, server.cpu_seconds() - cpu
    watch.cancel()
    judge(report, server, log_begin, calm, offered, took, cpu, ttfts, ends, watch.samples)
    if long:
        judge_wait(report)
    return report


async def closed_loop(server, seconds):
    """Requests a second of clients that ask again as soon as they are answered."""
    end = time.monotonic() + seconds
    done = 0

    async def client():
        nonlocal done
        exchange = await Exchange.open(server.port)
        while time.monotonic() < end:
            await exchange.ask(REQUEST, LONGEST_ANSWER_S)
            done += 1
        exchange.close()

    begin = time.monotonic()
    await asyncio.gather(*(client() for _ in range(CLOSED_LOOP_CLIENTS)))
    return done / (time.monotonic() - begin)


async def one(server, report, ttfts, ends):
    exchange = await Exchange.open(server.port)
    answered = await exchange.ask(REQUEST, LONGEST_ANSWER_S)
    report.count(exchange, answered)
    if exchange.outcome() == 200:
        ttfts.append(exchange.first_event - exchange.sent)
        ends.append(time.monotonic())
    exchange.close()


async def rss(server):
    samples = asyncio.current_task().samples = []
    while True:
        samples.append(server.rss_mib())
        await asyncio.sleep(SAMPLE_S)


def judge(report, server, log_begin, calm, offered, took, cpu, ttfts, ends, memory):
    served = [line["ttft_ms"] / 1e3 for line in server.requests(log_begin)
              if line["outcome"] == "complete"]
    # By Little's law: the last of a full queue waits until all of it has been served.
    predicted = QUEUE / (len(served) / took)
    # Where the machine is shared, some queues take longer than others.
    slowest = max(b - a for a, b in zip(ends, ends[QUEUE:]))
    half = len(memory) // 2
    report.numbers |= {
        "calm_requests_per_s": calm,
        "offered_requests_per_s": offered,
        "served_requests_per_s": len(served) / took,
        "server_cores": cpu / took,
        "predicted_p99_ttft_s": predicted,
        "slowest_queue_s": slowest,
        "server_p99_ttft_s": percentile(served, 99),
        "client_p99_ttft_s": percentile(ttfts, 99),
        "rss_peak_first_half_mib": max(memory[:half]),
        "rss_peak_second_half_mib": max(memory[half:]),
    }
    n = report.numbers
    report.must(set(report.answers) <= {"200", "429", "503", "504"}, "answers of other kinds")
    report.must(n["rss_peak_second_half_mib"] - n["rss_peak_first_half_mib"] <= 16,
                "memory grows as it goes on")


def judge_wait(report):
    """Means something only on a machine that does nothing else."""
    n = report.numbers
    report.must(n["server_p99_ttft_s"] <= 1.1 * n["slowest_queue_s"] + 0.25,
                "accepted requests wait longer than the queue explains")


def percentile(values, p):
    return sorted(values)[min(len(values) - 1, len(values) * p // 100)] if values else float("inf")
