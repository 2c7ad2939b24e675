"""Clients that take their time: to read, to write, or to say anything at all."""

import asyncio
import socket
import time

from client import HOST, Exchange, post

from .report import Report

READERS = 2
# More than the system buffers, some 4 MB.
LARGE = {"prompt": "a", "n": 12, "max_tokens": 450, "ignore_eos": True, "stream": True, "logprobs": 20,
         "temperature": 0}
# Of --timeout-ms, for the readers below.
READER_TIMEOUT_S = 120
READER_OPTIONS = ("--timeout-ms", str(1000 * READER_TIMEOUT_S))
# The server's own limits: headers, bodies and writes 30 s; an answer's last bytes 40 s after --timeout-ms.
PATIENCE_S, GRACE_S, SLACK_S = 30, 40, 10


def connect(port, receive_buffer):
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.connect((HOST, port))
    client.setblocking(False)
    return client


async def slow_readers(server, long, seconds=None):
    """One never reads, one reads 64 KiB a second. The engine goes on without them; the server
    lets them go."""
    report = Report()
    clients = [connect(server.port, 1 << 17) for _ in range(READERS)]
    for client in clients:
        client.sendall(post(LARGE))
    report.sent = READERS
    drip = asyncio.create_task(read_a_little(clients[::2]))
    begin = time.monotonic()
    while server.left()["rows"] < READERS * LARGE["n"] and time.monotonic() - begin < READER_TIMEOUT_S:
        await asyncio.sleep(0.01)
    await report.healthy(server)
    while server.left()["rows"] and time.monotonic() - begin < READER_TIMEOUT_S + SLACK_S:
        await asyncio.sleep(0.2)
    left = server.left()
    report.numbers["rows_end_after_s"] = time.monotonic() - begin
    report.numbers["rss_mib_with_unread_answers"] = server.rss_mib()
    report.must(left["rows"] == left["pages"] == 0, f"rows wait for their readers: {left}")
    # Not because their time was over.
    report.must(report.numbers["rows_end_after_s"] < READER_TIMEOUT_S, "rows went on until --timeout-ms")
    report.must(left["connections"] >= READERS, f"readers were let go too early: {left}")
    await report.healthy(server)
    if long:
        limit = READER_TIMEOUT_S + GRACE_S + SLACK_S
        while (left := server.left()["connections"]) and time.monotonic() - begin < limit:
            if left <= READERS // 2:
                report.numbers.setdefault("never_read_let_go_after_s", time.monotonic() - begin)
            await asyncio.sleep(0.5)
        report.numbers["all_let_go_after_s"] = time.monotonic() - begin
        report.must(server.left()["connections"] == 0, "a slow reader stays for ever")
    drip.cancel()
    report.answers["let go" if long else "left"] = READERS
    for client in clients:
        client.close()
    return report


async def read_a_little(clients):
    while True:
        await asyncio.sleep(1)
        for client in clients:
            try:
                client.recv(1 << 16)
            except OSError:
                pass


async def slowloris(server, long, seconds=None):
    """Heads and bodies that come a byte a second. Nobody waits for them but they."""
    report = Report()
    whole = post({"prompt": "Shall I", "max_tokens": 1}, headers=[f"X-Slow: {'x' * 200}"])
    head_end = whole.index(b"\r\n\r\n") + 4
    clients = []
    for i in range(200):
        exchange = await Exchange.open(server.port)
        at = 20 if i % 4 else head_end
        exchange.send(whole[:at])
        clients.append((exchange, at))
    begin = time.monotonic()
    end = PATIENCE_S + SLACK_S if long else 3
    tick = 0
    while any(not e.closed and not e.whole for e, _ in clients) and time.monotonic() - begin < end:
        for exchange, at in clients:
            # A body has few bytes: its last one never comes.
            if at + tick < len(whole) - 1 and not exchange.whole:
                exchange.send(whole[at + tick:at + tick + 1])
        tick += 1
        await report.healthy(server)
        await asyncio.sleep(1)
    report.numbers["all_let_go_after_s" if long else "seconds"] = time.monotonic() - begin
    for exchange, _ in clients:
        ended = exchange.closed or exchange.whole
        report.count(exchange, ended or not long) if long else None
        exchange.abort()
    if not long:
        report.sent, report.answers["left"] = len(clients), len(clients)
    return report


CROWD_OPTIONS = ("--max-connections", "64")


async def crowd(server, long, seconds=None):
    """More idle connections than are allowed: who comes next waits for one of them to go, no longer."""
    report = Report()
    idle = [await Exchange.open(server.port) for _ in range(64)]
    report.sent = len(idle)
    if not long:
        asyncio.get_running_loop().call_later(2, lambda: [client.abort() for client in idle])
    await report.healthy(server, PATIENCE_S + SLACK_S)
    report.answers["let go" if long else "left"] = len(idle)
    for client in idle:
        client.abort()
    return report


async def half_closed(server, long, seconds=None):
    """Clients that end their side of the connection: with half a request, a whole one, or during the answer.
    They are taken to have left; in any case their connections end."""
    report = Report()
    body = {"prompt": "Shall I", "max_tokens": 300, "ignore_eos": True, "temperature": 0}
    whole, stream = post(body), post(body | {"stream": True})

    async def client(kind):
        exchange = await Exchange.open(server.port)
        exchange.send({0: whole[:len(whole) // 2], 1: whole, 2: stream, 3: stream}[kind])
        if kind == 3:
            await exchange.events(2, 60)
        if not exchange.closed:
            exchange.transport.write_eof()
        report.count(exchange, await exchange.answered(60))
        exchange.close()

    await asyncio.gather(*(client(i % 4) for i in range(100 if long else 40)))
    await report.healthy(server)
    return report
