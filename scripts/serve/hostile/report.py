"""What a fault run counts, and what every server must be able to do during and after it."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field

from client import Exchange, post

HEALTHY = post({"prompt": "Shall I compare thee", "max_tokens": 4, "temperature": 0})
# Of the servers of all faults: rows and queue together are as many as one request can ask for.
ROWS, QUEUE = 64, 64
OPTIONS = ("--max-batch-size", str(ROWS), "--max-queue-size", str(QUEUE))


@dataclass
class Report:
    sent: int = 0
    answers: Counter = field(default_factory=Counter)
    hung: int = 0
    # What allocators may keep of the memory that was in use at once.
    rss_growth_mib: int = 96
    # Other numbers worth keeping, by name.
    numbers: dict = field(default_factory=dict)
    # What is wrong, in words.
    wrong: list = field(default_factory=list)

    def count(self, exchange, answered):
        self.sent += 1
        self.hung += not answered
        self.answers[str(exchange.outcome()) if answered else "hung"] += 1

    def must(self, holds, words):
        if not holds:
            self.wrong.append(words)

    async def healthy(self, server, seconds=30):
        """An ordinary request is answered as ever."""
        begin = time.monotonic()
        exchange = await Exchange.open(server.port)
        answered = await exchange.ask(HEALTHY, seconds)
        exchange.close()
        took = time.monotonic() - begin
        self.numbers["healthy_requests"] = self.numbers.get("healthy_requests", 0) + 1
        self.numbers["slowest_healthy_s"] = max(self.numbers.get("slowest_healthy_s", 0), took)
        self.must(answered and exchange.status == 200,
                  f"a healthy request got {exchange.outcome()} in {took:.1f} s")

    async def all_places_free(self, server):
        """One request for as many answers as there are places, once those who left have been noticed."""
        end = time.monotonic() + 30
        while True:
            exchange = await Exchange.open(server.port)
            await exchange.ask(post({"prompt": "a", "max_tokens": 1, "n": ROWS + QUEUE}), 30)
            exchange.close()
            if exchange.status != 429 or time.monotonic() > end:
                break
            await asyncio.sleep(0.1)
        self.must(exchange.status == 200, f"not all places are free: {exchange.outcome()}")
