"""Clients that go away in the middle of an answer, of the wait for it, or of their own request."""

import asyncio
import random

from client import Exchange, post

from .report import Report

REQUEST = post({"prompt": "Shall I compare thee", "max_tokens": 480, "ignore_eos": True, "stream": True,
                "temperature": 0})
AT_ONCE = 100
EVENTS_SEEN = (0, 0, 1, 1, 2, 5, 20)


async def vanish(server, long, seconds=None):
    report, rng = Report(), random.Random(6)
    places = asyncio.Semaphore(AT_ONCE)

    async def client():
        async with places:
            exchange = await Exchange.open(server.port)
            if rng.random() < 0.1:
                exchange.send(REQUEST[:rng.randrange(len(REQUEST))])
                await asyncio.sleep(0.01)
                answered = True
            else:
                exchange.send(REQUEST)
                answered = await exchange.events(rng.choice(EVENTS_SEEN), 60)
            leave = rng.choice((exchange.abort, exchange.close))
            report.sent += 1
            report.hung += not answered
            report.answers["vanished" if not exchange.whole else str(exchange.status)] += 1
            leave()

    await asyncio.gather(*(client() for _ in range(1000 if long else 150)))
    report.numbers["requests_cancelled"] = server.metrics().get(
        'requests_total{reason="cancelled"}', 0)
    await report.healthy(server)
    return report
