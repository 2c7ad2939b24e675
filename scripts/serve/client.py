"""HTTP as bytes, on asyncio: cheap enough for thousands of exchanges, and as rude as it is told to be."""

import asyncio
import json
import time

HOST = "127.0.0.1"


def post(body, path="/v1/completions", headers=()):
    """A request. `body` is bytes, or what is written as JSON."""
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", *headers,
             f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def get(path):
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


class Exchange(asyncio.Protocol):
    """One connection: `ask` sends a request, and its answer is read as it comes.

    `status` is 0 until a whole head has come. `whole`: the answer has come to its end. `first_event` is
    when the first event of a stream came."""

    def __init__(self):
        self.transport = None
        self.waiter = None
        self.closed = False
        self._reset()

    def _reset(self):
        self.head, self.body, self.status, self.length = b"", bytearray(), 0, None
        self.whole, self.sent, self.first_event = False, time.monotonic(), None

    @classmethod
    async def open(cls, port):
        _, exchange = await asyncio.get_running_loop().create_connection(cls, HOST, port)
        return exchange

    async def ask(self, request, seconds):
        """False: neither an answer nor the end of the connection within the time."""
        self._reset()
        self.send(request)
        return await self.answered(seconds)

    def send(self, data):
        if not self.closed:
            self.transport.write(data)

    async def answered(self, seconds):
        return await self._until(lambda: self.whole or self.closed, seconds)

    async def events(self, count, seconds):
        """Until so many events of a stream have come, or all."""
        enough = lambda: self.whole or self.closed or self.body.count(b"data: ") >= count
        return await self._until(enough, seconds)

    async def _until(self, holds, seconds):
        end = time.monotonic() + seconds
        while not holds():
            self.waiter = asyncio.get_running_loop().create_future()
            try:
                await asyncio.wait_for(self.waiter, end - time.monotonic())
            except TimeoutError:
                return False
        return True

    def outcome(self):
        """The status, or what there was in place of a whole answer."""
        if self.status == 0:
            return "closed" if self.closed else "nothing"
        if not self.whole:
            return "cut off"
        if b'data: {"error"' in self.body:
            return "error event"
        return self.status

    def json(self):
        return json.loads(self.body)

    def abort(self):
        """Goes away with a reset."""
        self.transport.abort()

    def close(self):
        self.transport.close()

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        if not self.status:
            self.head += data
            end = self.head.find(b"\r\n\r\n")
            if end < 0:
                return self._tell()
            data, self.head = self.head[end + 4:], self.head[:end].lower()
            self.status = int(self.head.split(b" ", 2)[1])
            if b"\r\ncontent-length: " in self.head:
                self.length = int(self.head.split(b"\r\ncontent-length: ")[1].split(b"\r\n")[0])
        self.body += data
        if self.first_event is None and b"data: " in self.body:
            self.first_event = time.monotonic()
        # Chunks are left as they are: no event ends like the last of them.
        self.whole = (b"\r\n" + self.body[-7:]).endswith(b"\r\n0\r\n\r\n") if self.length is None \
            else len(self.body) >= self.length
        self._tell()

    def connection_lost(self, error):
        self.closed = True
        self._tell()

    def _tell(self):
        if self.waiter and not self.waiter.done():
            self.waiter.set_result(None)
