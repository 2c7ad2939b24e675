"""Requests that are wrong in every way that comes to mind, from a seed. The server answers each with a
status that blames the client, or closes; in between it serves healthy ones as ever."""

import asyncio
import json
import random

from client import Exchange, post

from .report import Report

WORKERS = 16
SEED = 6
ANSWER_S = 30
HEALTHY_EVERY = 250
# What a mutation may leave valid is answered; nothing may be the server's fault.
EXPECTED = {"200", "400", "404", "405", "408", "413", "414", "415", "417", "429", "431", "501", "505", "closed"}

VALID = [
    {"prompt": "Shall I", "max_tokens": 2, "temperature": 0.5, "top_p": 0.9, "seed": 1, "n": 1},
    {"prompt": ["a", "b"], "max_tokens": 1, "stop": ["x"], "stream": True, "logprobs": 2},
    {"prompt": [1, 2, 3], "max_tokens": 2, "echo": True, "stream_options": {"include_usage": True},
     "stream": True},
    {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2},
]
# As JSON writes them, and as it must not.
NUMBERS = ["0", "-1", "1e12", "1000000000000", "-0.0", "1e999", "-1e999", "NaN", "Infinity", "-Infinity",
           "18446744073709551616", "9223372036854775808", "0.1e-400", "1e308", "00", "0x10", "+1", "1.",
           "9" * 400, "1e-7", "3", "null", "true"]
STRINGS = [r'"\u0000"', r'"\ud800"', r'"\udfff\ud800"', '"\x00"', '"\x01"', r'"\u000"', '"', r'"\x"',
           '"\ufeff"', '"\u202e"', r'"\ud83d\ude00"', '"e\u0301"', '""', '"' + "a" * 5000 + '"']
BYTES = [b"\xff\xfe", b"\xc3\x28", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\xc0\x80"]
NAMES = ["logit_bias", "tools", "functions", "best_of", "suffix", "response_format", "n", "model", "audio",
         "presence_penalty", "guided_json", "__proto__", "", "prompt\u0000", "user", "top_k"]


class Mutator:
    def __init__(self, seed):
        self.rng = random.Random(seed)

    def request(self):
        """A body on a well-formed request."""
        fields = dict(self.rng.choice(VALID))
        path = "/v1/chat/completions" if "messages" in fields else "/v1/completions"
        mutate = self.rng.choice([self.number, self.string, self.type, self.nesting, self.array,
                                  self.unknown, self.flipped, self.cut, self.invalid_utf8, self.large])
        return post(mutate(fields), path)

    def _with(self, fields, raw):
        """A field of the request in place of its value, written as given."""
        name = self.rng.choice(list(fields))
        whole = json.dumps(fields | {name: "@@"})
        return whole.replace('"@@"', raw).encode("utf-8", "surrogatepass")

    def number(self, fields):
        for name in ("max_tokens", "temperature", "top_p", "n", "seed", "logprobs"):
            fields.setdefault(name, 1)
        return self._with(fields, self.rng.choice(NUMBERS))

    def string(self, fields):
        return self._with(fields, self.rng.choice(STRINGS))

    def type(self, fields):
        return self._with(fields, self.rng.choice(
            ["null", "true", "[]", "{}", '"x"', "1", "[[]]", "[null]", '{"a": 1}', "[1, \"a\"]", "[{}]"]))

    def nesting(self, fields):
        depth = self.rng.choice([10, 127, 128, 1000, 50_000])
        left, right = self.rng.choice([("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])
        closed = right * depth if self.rng.random() < 0.7 else ""
        return self._with(fields, left * depth + ("1" if ":" in left else "") + closed)

    def array(self, fields):
        item = self.rng.choice(['""', '"a"', "1", "[]", "{}", "[1]", "null", "50256", "4294967295"])
        return self._with(fields, "[" + ",".join([item] * self.rng.choice([5, 513, 1025, 20_000])) + "]")

    def unknown(self, fields):
        value = self.rng.choice([1, 0.5, "x", [1], {"a": [1]}, True, None])
        return json.dumps(fields | {self.rng.choice(NAMES): value}).encode()

    def flipped(self, fields):
        data = bytearray(json.dumps(fields).encode())
        for _ in range(self.rng.randint(1, 4)):
            data[self.rng.randrange(len(data))] ^= 1 << self.rng.randrange(8)
        return bytes(data)

    def cut(self, fields):
        data = json.dumps(fields).encode()
        return data[:self.rng.randrange(len(data))]

    def invalid_utf8(self, fields):
        data = json.dumps(fields).encode()
        at = self.rng.randrange(len(data))
        return data[:at] + self.rng.choice(BYTES) + data[at:]

    def large(self, fields):
        if self.rng.random() < 0.95:
            return json.dumps(fields | {"prompt": "a" * self.rng.randint(600, 20_000)}).encode()
        return json.dumps(fields | {"prompt": self.rng.choice(["a", "ha ", "é"]) * (1 << 20)}).encode()

    def http(self):
        """Bytes that are no proper request."""
        good = post(VALID[0])
        head, body = good.split(b"\r\n\r\n", 1)
        lines = head.split(b"\r\n")
        heads = lambda more: b"\r\n".join(lines + more) + b"\r\n\r\n" + body
        without_length = b"\r\n".join(lines[:-1])
        chunked = without_length + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
        return self.rng.choice([
            lambda: heads([b"X-%d: 1" % i for i in range(self.rng.choice([101, 5000]))]),
            lambda: heads([b"X: " + b"a" * self.rng.choice([70_000, 1 << 20])]),
            lambda: heads([b"X: a\r\n folded"]),
            lambda: heads([b"X : a"]),
            lambda: heads([b"X: \x00"]),
            lambda: heads([b"Content-Length: 5"]),
            lambda: heads([b"Transfer-Encoding: chunked"]),
            lambda: heads([b"Transfer-Encoding: gzip"]),
            lambda: heads([b"Expect: 200-ok"]),
            lambda: without_length + b"\r\nContent-Length: -1\r\n\r\n" + body,
            lambda: without_length + b"\r\nContent-Length: 99999999999999999999\r\n\r\n" + body,
            lambda: without_length + b"\r\nContent-Length: 999999999\r\n\r\n" + body,
            lambda: without_length + b"\r\nContent-Length: 3\r\n\r\n" + body,
            lambda: chunked + b"zz\r\n" + body,
            lambda: chunked + b"-5\r\n" + body,
            lambda: chunked + b"ffffffffffffffffff\r\n" + body,
            lambda: chunked + b"5\r\n{}\r\n0\r\n\r\n",
            lambda: chunked + b"2;" + b"x" * 100_000 + b"\r\n{}\r\n0\r\n\r\n",
            lambda: chunked + b"2\r\n{}\r\n0\r\n" + b"T: 1\r\n" * 5000 + b"\r\n",
            lambda: b"GET /metrics\r\n\r\n",
            lambda: b"GET / HTTP/9.9\r\n\r\n",
            lambda: b"GET /%00%ff/../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
            lambda: b"GET /v1/models/%ff HTTP/1.1\r\nHost: x\r\n\r\n",
            lambda: b"GET /" + b"a" * self.rng.choice([3000, 100_000]) + b" HTTP/1.1\r\n\r\n",
            lambda: b"BREW /v1/completions HTTP/1.1\r\nHost: x\r\n\r\n",
            lambda: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            lambda: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + self.rng.randbytes(500),
            lambda: self.rng.randbytes(self.rng.randint(1, 2000)),
            lambda: b"\r\n" * self.rng.choice([1, 1000, 100_000]),
            lambda: good[:self.rng.randrange(len(good))],
            lambda: self._flip(good),
        ])()

    def _flip(self, data):
        data = bytearray(data)
        for _ in range(self.rng.randint(1, 3)):
            data[self.rng.randrange(60)] = self.rng.randrange(256)
        return bytes(data)


async def fuzz(server, long, seconds=None):
    report = Report()
    count = (100_000 if long else 4_000) // WORKERS // 2
    mutators = [Mutator(SEED * 1000 + i) for i in range(WORKERS)]
    for half in ("rss_mib_after_half", "rss_mib_after_all"):
        await asyncio.gather(*(worker(server, report, mutator, count) for mutator in mutators))
        report.numbers[half] = server.rss_mib()
    growth = report.numbers["rss_mib_after_all"] - report.numbers["rss_mib_after_half"]
    report.must(growth <= 24, f"the second half left {growth:.0f} MiB more")
    report.must(set(report.answers) <= EXPECTED, "answers of other kinds")
    return report


async def worker(server, report, mutator, count):
    exchange = await Exchange.open(server.port)
    for i in range(count):
        if i % HEALTHY_EVERY == 0:
            await report.healthy(server)
        if mutator.rng.random() < 0.2:
            await broken(server, report, mutator.http())
            continue
        if exchange.closed:
            exchange = await Exchange.open(server.port)
        request = mutator.request()
        report.count(exchange, await exchange.ask(request, ANSWER_S))
        if exchange.outcome() not in (200, 400, 404, 429, 413):
            keep(report, exchange, request)
    exchange.abort()


async def broken(server, report, data):
    """On a connection of its own. What the server takes for a beginning it may wait for: then the client
    ends its side."""
    exchange = await Exchange.open(server.port)
    answered = await exchange.ask(data, 0.2)
    if not answered:
        try:
            exchange.transport.write_eof()
        except OSError:
            # The server has just ended the connection itself.
            pass
        answered = await exchange.answered(ANSWER_S)
    report.count(exchange, answered)
    if str(exchange.outcome()) not in EXPECTED:
        keep(report, exchange, data)
    exchange.abort()


def keep(report, exchange, request):
    """The first few that went wrong, to be tried again."""
    odd = report.numbers.setdefault("unexpected", [])
    if len(odd) < 10:
        odd.append([str(exchange.outcome()), repr(request[:300])])
