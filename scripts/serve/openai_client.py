#!/usr/bin/env python3
"""What OpenAI's Python package gets from `batchlab serve`: text, streams, chat, errors, cancellation.

    pip install openai
    scripts/serve/openai_client.py --batchlab target/release/batchlab   # starts servers of its own on free ports

One line a check; exits with 1 if one fails.
"""

import argparse
import asyncio
import re
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import urllib.request
from pathlib import Path

import openai

TEMPLATE = "{% for m in messages %}{{ m.role | upper }}: {{ m.content }}\n{% endfor %}HAMLET:"
MESSAGES = [{"role": "user", "content": "Who art thou?"}]
MODEL = "batchlab-shakespeare"
# Not in the package: a field of ours.
NO_END = {"ignore_eos": True}


class Server:
    """A server on a CPU and a free port, for a `with`."""

    def __init__(self, binary, *options):
        self.command = [binary, "serve", "--device=cpu", "--port=0", *options]

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if found := re.search(r"http://[\d.:]+\d", line):
                self.url = found[0]
                # A log that nobody reads would hold the server up one day.
                threading.Thread(target=self.process.stderr.read, daemon=True).start()
                return self
        raise SystemExit(f"{' '.join(self.command)} did not start")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(timeout=60)

    def client(self, kind=openai.OpenAI, **options):
        return kind(**{"base_url": f"{self.url}/v1", "api_key": "none", "max_retries": 0, **options})

    def metric(self, name):
        text = urllib.request.urlopen(f"{self.url}/metrics").read().decode()
        found = re.search(rf"^batchlab_{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def wait_for(self, name, value):
        deadline = time.monotonic() + 60
        while self.metric(name) != value:
            assert time.monotonic() < deadline, f"{name} is {self.metric(name)}, not {value}"
            time.sleep(0.01)


def raises(kind, call, **expected):
    """The error must be of this very class, with these attributes."""
    try:
        call()
    except openai.OpenAIError as error:
        assert type(error) is kind, f"{type(error).__name__}: {error}"
        for name, value in expected.items():
            assert getattr(error, name) == value, f"{name} is {getattr(error, name)!r}"
        return error
    raise AssertionError(f"no {kind.__name__}")


def models(server):
    client = server.client()
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    raises(openai.NotFoundError, lambda: client.models.retrieve("another"), code="model_not_found")


def completions(server):
    ask = dict(model=MODEL, prompt="HAMLET:", max_tokens=24, temperature=0)
    client = server.client()
    whole = client.completions.create(**ask)
    assert whole.usage.completion_tokens == 24 and whole.choices[0].finish_reason == "length"
    pieces = list(client.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.text for piece in pieces for c in piece.choices) == whole.choices[0].text
    assert pieces[-1].usage == whole.usage and not pieces[-1].choices
    stop = whole.choices[0].text[10:16]
    stopped = client.completions.create(**ask, stop=[stop]).choices[0]
    assert stopped.finish_reason == "stop"
    assert stopped.text == whole.choices[0].text.split(stop)[0]
    assert client.completions.create(**ask, echo=True).choices[0].text == "HAMLET:" + whole.choices[0].text
    several = client.completions.create(**{**ask, "prompt": ["HAMLET:", "JULIET:"]})
    assert several.choices[0].text == whole.choices[0].text and several.choices[1].index == 1


def several_answers(server):
    ask = dict(model=MODEL, prompt="HAMLET:", max_tokens=16, n=4, seed=7, temperature=1.2)
    texts = lambda: [c.text for c in server.client().completions.create(**ask).choices]
    first = texts()
    assert len(set(first)) == 4 and texts() == first


def chat(server):
    ask = dict(model=MODEL, messages=MESSAGES, max_completion_tokens=24, temperature=0)
    client = server.client()
    whole = client.chat.completions.create(**ask).choices[0]
    assert whole.message.role == "assistant" and whole.message.content
    pieces = list(client.chat.completions.create(**ask, stream=True))
    assert pieces[0].choices[0].delta.role == "assistant"
    assert pieces[-1].choices[0].finish_reason == whole.finish_reason
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == whole.message.content
    # The package's own collector of streams takes answers that end by themselves.
    stop = whole.message.content[10:16]
    with client.chat.completions.stream(**ask, stop=stop) as stream:
        said = stream.get_final_completion().choices[0].message.content
    assert said == whole.message.content.split(stop)[0]
    # An answer may be sent back as it came.
    turn = [*MESSAGES, whole.message, {"role": "user", "content": "Why?"}]
    assert client.chat.completions.create(**{**ask, "messages": turn}).choices[0].message.content


def logprobs(server):
    client = server.client()
    ask = dict(model=MODEL, max_tokens=8, seed=1, extra_body=NO_END)
    told = client.completions.create(**ask, prompt="HAMLET:", logprobs=3).choices[0]
    assert "".join(told.logprobs.tokens) == told.text
    for token, top in zip(told.logprobs.tokens, told.logprobs.top_logprobs):
        # The drawn token comes beside the best three.
        assert token in top and 3 <= len(top) <= 4
    told = client.chat.completions.create(**ask, messages=MESSAGES, logprobs=True, top_logprobs=3).choices[0]
    for token in told.logprobs.content:
        assert bytes(token.bytes).decode() == token.token and len(token.top_logprobs) == 3
        assert token.logprob <= token.top_logprobs[0].logprob <= 0


def errors(server):
    client = server.client()
    create = lambda **ask: client.completions.create(**{"model": MODEL, "prompt": "a", **ask})
    bad = openai.BadRequestError
    raises(bad, lambda: create(max_tokens=100_000), code="context_length_exceeded", param="prompt")
    raises(bad, lambda: create(temperature=9), param="temperature", status_code=400)
    raises(bad, lambda: create(logit_bias={"1": 5}), param="logit_bias", code="unsupported_parameter")
    raises(bad, lambda: create(extra_body={"nonsense": 1}), param="nonsense")
    raises(openai.NotFoundError, lambda: create(model="gpt-4"), code="model_not_found", param="model")
    tools = [{"type": "function", "function": {"name": "f"}}]
    with_tools = lambda: client.chat.completions.create(model=MODEL, messages=MESSAGES, tools=tools)
    raises(bad, with_tools, param="tools")
    raises(openai.NotFoundError, lambda: client.embeddings.create(model=MODEL, input="a"))


def cancellation(binary):
    # So many steps of it take seconds on any machine.
    with Server(binary, "--model=dummy:gpt2") as server:
        ask = dict(model="dummy:gpt2", prompt=[1], max_tokens=1000, n=8, stream=True, extra_body=NO_END)
        stream = server.client().completions.create(**ask)
        next(iter(stream))
        stream.close()
        server.wait_for('requests_total{reason="cancelled"}', 8)
        assert server.metric("requests_running") == server.metric("kv_pages_used") == 0


def client_timeout(server):
    client = server.client(timeout=0.05)
    ask = dict(model=MODEL, prompt="a", max_tokens=500, extra_body=NO_END)
    raises(openai.APITimeoutError, lambda: client.completions.create(**ask))
    server.wait_for("requests_running", 0)


def many_clients(server):
    """64 at once with mixed lengths, half of them streaming: greedy answers as each would get alone."""
    lengths = [1, 5, 17, 40]
    ask = lambda i: dict(model=MODEL, prompt=f"{'HAMLET JULIET ROMEO PUCK'.split()[i % 4]}:",
                         max_tokens=lengths[i // 4 % 4], temperature=0)
    alone = [server.client().completions.create(**ask(i)).choices[0].text for i in range(16)]

    async def one(client, i):
        if i % 2:
            stream = await client.completions.create(**ask(i), stream=True)
            return "".join([piece.choices[0].text async for piece in stream])
        return (await client.completions.create(**ask(i))).choices[0].text

    async def together():
        async with server.client(openai.AsyncOpenAI) as client:
            return await asyncio.gather(*(one(client, i) for i in range(64)))

    assert asyncio.run(together()) == alone * 4


def api_key(binary):
    with Server(binary, "--api-key=secret") as server:
        raises(openai.AuthenticationError, lambda: server.client().models.list(), code="invalid_api_key")
        assert server.client(api_key="secret").models.list().data[0].id == MODEL


def rate_limit(binary):
    # A batch leaves when three are there, and none waits beside it.
    with Server(binary, "--policy=static", "--max-batch-size=3", "--max-queue-size=0") as server:
        async def fill():
            async with server.client(openai.AsyncOpenAI) as client:
                ask = dict(model=MODEL, prompt="a", max_tokens=2)
                held = asyncio.create_task(client.completions.create(**ask, n=2))
                await asyncio.to_thread(server.wait_for, "requests_waiting", 2)
                call = lambda: server.client().completions.create(**ask, n=2)
                error = raises(openai.RateLimitError, call, code="queue_full")
                assert int(error.response.headers["retry-after"]) >= 1
                await client.completions.create(**ask)
                await held
        asyncio.run(fill())


def server_timeout(binary):
    with Server(binary, "--policy=static", "--max-batch-size=2", "--timeout-ms=100") as server:
        call = lambda: server.client().completions.create(model=MODEL, prompt="a")
        raises(openai.InternalServerError, call, status_code=504, code="timeout")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batchlab", default="target/release/batchlab", help="the binary")
    binary = parser.parse_args().batchlab
    failed = []

    def check(run, *on):
        begin = time.monotonic()
        try:
            run(*on)
            print(f"ok      {run.__name__} ({time.monotonic() - begin:.1f} s)", flush=True)
        except Exception:
            failed.append(run.__name__)
            print(f"FAILED  {run.__name__}\n{traceback.format_exc()}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        template = Path(folder, "template.jinja")
        template.write_text(TEMPLATE)
        with Server(binary, f"--chat-template={template}", "--max-num-seqs=16") as server:
            for run in [models, completions, several_answers, chat, logprobs, errors, client_timeout,
                        many_clients]:
                check(run, server)
    for run in [cancellation, api_key, rate_limit, server_timeout]:
        check(run, binary)
    print(f"openai {openai.__version__}: {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
