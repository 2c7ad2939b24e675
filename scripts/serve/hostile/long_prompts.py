"""Texts far beyond the context, many at once: refused before anyone counts their tokens."""

import asyncio
import time

from client import Exchange, post

from .report import Report

MIB = 1 << 20


async def long_prompts(server, long, seconds=None):
    report = Report()
    requests = [post({"prompt": text * (size // len(text.encode())), "max_tokens": 1})
                for text in ("a", "Shall I compare thee ", "\u00e9") for size in (MIB, 7 * MIB)]
    requests.append(post({"prompt": ["a" * 100_000] * 64, "max_tokens": 1}))
    begin = time.monotonic()

    async def client(request):
        exchange = await Exchange.open(server.port)
        report.count(exchange, await exchange.ask(request, 120))
        exchange.close()

    rss = []
    for _ in range(8 if long else 2):
        await asyncio.gather(report.healthy(server), *(client(request) for request in requests * 2))
        rss.append(server.rss_mib())
    report.numbers["rss_mib_after_rounds"] = rss
    report.must(rss[-1] - rss[len(rss) // 2] <= 24, "memory grows as it goes on")
    report.numbers["seconds"] = time.monotonic() - begin
    report.must(set(report.answers) <= {"400", "413", "429"}, "answers of other kinds")
    return report
