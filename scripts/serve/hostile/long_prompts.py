"""Texts far beyond the context, many at once: refused before anyone counts their tokens."""

import asyncio
import time

from client import Exchange, post

from .report import Report

MIB = 1 << 20
ROUNDS = 240


async def long_prompts(server, long, seconds=None):
    requests = [post({"prompt": text * (size // len(text.encode())), "max_tokens": 1})
                for text in ("a", "Shall I compare thee ", "\u00e9") for size in (MIB, 7 * MIB)]
    requests.append(post({"prompt": ["a" * 100_000] * 64, "max_tokens": 1}))
    report = Report()
    # Beside the usual, the allocator may keep a round's bodies and the texts read from them.
    report.rss_growth_mib += 2 * 2 * sum(map(len, requests)) // MIB
    begin = time.monotonic()

    async def client(request):
        exchange = await Exchange.open(server.port)
        report.count(exchange, await exchange.ask(request, 120))
        exchange.close()

    rss = []
    for _ in range(ROUNDS if long else 2):
        await asyncio.gather(report.healthy(server), *(client(request) for request in requests * 2))
        rss.append(server.rss_mib())
    if long:
        # The allocator fills up for some 80 rounds: fewer say nothing of a leak.
        quarters = [min(rss[at:at + ROUNDS // 4]) for at in range(0, ROUNDS, ROUNDS // 4)]
        report.numbers["lowest_rss_mib_of_quarters"] = quarters
        report.must(quarters[3] - quarters[2] <= 16, "memory grows as it goes on")
    report.numbers["seconds"] = time.monotonic() - begin
    # Who still sends when 413 comes may see the connection's reset in its place.
    report.must(set(report.answers) <= {"400", "413", "429", "closed"}, "answers of other kinds")
    return report
