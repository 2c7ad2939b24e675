#!/usr/bin/env python3
"""The calls of docs/serving.md's table "Beside OpenAI and vLLM", made of one or several servers: what each answers.

    scripts/serve/conformance.py batchlab=http://127.0.0.1:8000 vllm=http://127.0.0.1:8100

Every server has to serve a model under the same name, with a chat template and a context of fewer than 4000
tokens. Prints a Markdown table.
"""

import argparse
import json
import urllib.error
import urllib.request

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
# Instead of a value: the field is left out.
LEFT_OUT = object()
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
JSON_HEADERS = {"content-type": "application/json"}


def texts(answer):
    said = [choice.get("text", choice.get("message", {}).get("content")) for choice in answer["choices"]]
    reasons = {choice["finish_reason"] for choice in answer["choices"]}
    several = f"{len(said)} answers, {len(set(said))} different, " if len(said) > 1 else ""
    return f"{several}{answer['usage']['completion_tokens']} tokens, {'/'.join(sorted(reasons))}"


def prompt_tokens(answer):
    return f"{answer['usage']['prompt_tokens']} prompt tokens"


def logprobs(answer):
    return json.dumps(answer["choices"][0]["logprobs"])


def parts(*said):
    return [{"role": "user", "content": [{"type": "text", "text": text} for text in said]}]


# What is asked, where, the fields that differ from a plain request, and what matters of an answer.
CALLS = [
    ("an unknown field", COMPLETIONS, {"nonsense": 1}, texts),
    ("`model` missing", COMPLETIONS, {"model": LEFT_OUT}, texts),
    ("another `model`", COMPLETIONS, {"model": "another"}, texts),
    ("completions without `max_tokens`", COMPLETIONS, {"max_tokens": LEFT_OUT}, texts),
    ("chat without `max_tokens`", CHAT, {"max_tokens": LEFT_OUT}, texts),
    ("`max_tokens` over the context", COMPLETIONS, {"max_tokens": 4000}, texts),
    ("prompt and `max_tokens` over the context", COMPLETIONS, {"prompt": [40] * 300, "max_tokens": 300}, texts),
    ("`max_tokens: 0`", COMPLETIONS, {"max_tokens": 0}, texts),
    ("`max_tokens: 0` with `echo`", COMPLETIONS, {"max_tokens": 0, "echo": True}, texts),
    ("`max_tokens` of a wrong type", COMPLETIONS, {"max_tokens": "x"}, texts),
    ("`temperature: 0` with `n` > 1", COMPLETIONS, {"n": 3}, texts),
    ("`temperature` above 2", COMPLETIONS, {"temperature": 2.5}, texts),
    ("`top_p: 0`", COMPLETIONS, {"temperature": 1, "top_p": 0}, texts),
    ("`echo` with `logprobs`", COMPLETIONS, {"echo": True, "logprobs": 1, "max_tokens": 1}, logprobs),
    ("`logprobs: 0`", COMPLETIONS, {"logprobs": 0, "max_tokens": 1}, logprobs),
    ("`logprobs: 1` at a high temperature", COMPLETIONS,
     {"logprobs": 1, "max_tokens": 1, "temperature": 2, "seed": 1}, logprobs),
    ("`logprobs: 20`", COMPLETIONS, {"logprobs": 20}, texts),
    ("`logprobs: 21`", COMPLETIONS, {"logprobs": 21}, texts),
    ("chat `logprobs`", CHAT, {"logprobs": True, "top_logprobs": 1, "max_tokens": 1}, logprobs),
    ("`suffix`", COMPLETIONS, {"suffix": "x"}, texts),
    ("`best_of: 2`", COMPLETIONS, {"best_of": 2, "temperature": 1}, texts),
    ("`logit_bias`", COMPLETIONS, {"logit_bias": {"40": 100}}, texts),
    ("`presence_penalty`", COMPLETIONS, {"presence_penalty": 1}, texts),
    ("`min_p`", COMPLETIONS, {"min_p": 0.1, "temperature": 1}, texts),
    ("`tools`", CHAT, {"tools": [TOOL]}, texts),
    ("`response_format`", CHAT, {"response_format": {"type": "json_object"}}, texts),
    ("`stream_options` without `stream`", COMPLETIONS, {"stream_options": {"include_usage": True}}, texts),
    ("`prompt` of token ids", COMPLETIONS, {"prompt": [39, 2390, 43, 2767, 25]}, texts),
    ("a text part of a message", CHAT, {"messages": parts("Who art thou?")}, prompt_tokens),
    ("two text parts", CHAT, {"messages": parts("Who art", "thou?")}, prompt_tokens),
    ("the same with a line end", CHAT, {"messages": parts("Who art\nthou?")}, prompt_tokens),
    ("a stream's end", COMPLETIONS, {"stream": True}, None),
    ("with `include_usage`", COMPLETIONS, {"stream": True, "stream_options": {"include_usage": True}}, None),
    ("with `continuous_usage_stats` alone", COMPLETIONS,
     {"stream": True, "stream_options": {"continuous_usage_stats": True}}, None),
    ("a chat stream's end", CHAT, {"stream": True}, None),
]


def plain(model, address):
    ask = {"model": model, "max_tokens": 4, "temperature": 0}
    if address == CHAT:
        return ask | {"messages": [{"role": "user", "content": "Who art thou?"}]}
    return ask | {"prompt": "HAMLET:"}


def post(url, body, headers):
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def answered(url, model, address, fields, of, headers=JSON_HEADERS):
    body = {name: value for name, value in (plain(model, address) | fields).items() if value is not LEFT_OUT}
    status, text = post(url + address, body, headers)
    if status != 200:
        return f"{status} {refusal(text)}"
    return f"{status} {of(json.loads(text)) if of else last_events(text)}"


def refusal(text):
    try:
        error = json.loads(text).get("error", text)
    except ValueError:
        error = text
    if not isinstance(error, dict):
        return str(error)
    words = [f"{name} {error[name]}" for name in ("type", "code", "param") if error.get(name) is not None]
    return f"{', '.join(words)}: {error.get('message')}"


def last_events(text):
    """How many events there are, how many of them tell the usage, and what the last three say."""
    events = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    with_usage = sum('"usage":{' in event for event in events)
    return f"{len(events)} events, {with_usage} with usage; {' '.join(map(essence, events[-3:]))}"


def essence(event):
    if event == "[DONE]":
        return event
    choices = json.loads(event)["choices"]
    return json.dumps([{"text": c.get("text", c.get("delta")), "finish_reason": c["finish_reason"]} for c in choices])


def cell(text):
    line = " ".join(text.split()).replace("|", "\\|")
    return line if len(line) <= 200 else line[:200] + "…"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("servers", nargs="+", metavar="NAME=URL")
    parser.add_argument("--model", default="batchlab-shakespeare", help="its name on every server")
    args = parser.parse_args()
    servers = [server.split("=", 1) for server in args.servers]
    print("| call |", " | ".join(name for name, _ in servers), "|")
    print("|---|" + "---|" * len(servers))
    bare = ("a body without a JSON `content-type`", COMPLETIONS, {}, texts, {})
    for name, *call in [*CALLS, bare]:
        print(f"| {name} |", " | ".join(cell(answered(url, args.model, *call)) for _, url in servers), "|", flush=True)


if __name__ == "__main__":
    main()
