#!/usr/bin/env python3
"""Writes rendered.json beside each chat template of tests/fixtures/chat: what transformers makes of these conversations.

A conversation that the template refuses has no "text" but the "error" it raised. Needs transformers and jinja2, no torch.

    python3 scripts/render_chat_fixtures.py
"""

import datetime
import json
import shutil
import tempfile
from pathlib import Path

import jinja2
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

FIXTURES = Path(__file__).parent.parent / "tests" / "fixtures"
NOW = datetime.datetime(2026, 11, 24, 9, 5)


def message(role, content):
    return {"role": role, "content": content}


CONVERSATIONS = (
    [message("user", "What is AI?")],
    [message("system", "  Answer in one word.\n"), message("user", "¿Qué hora es? 日本 🤖 <b>&'\"")],
    [message("user", " Hi "), message("assistant", "<think>greet</think>\n\nHello!"), message("user", "Bye")],
    [message("user", '{"a": "<é>"}'), message("assistant", "one"), message("user", "two"), message("assistant", "three"), message("user", "four")],
    [message("user", "one"), message("user", "two")],
)


class FixedDatetime(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


def render(tokenizer, messages):
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return {"messages": messages, "text": text}
    except jinja2.TemplateError as error:
        return {"messages": messages, "error": str(error)}


def main():
    chat_template_utils.datetime = FixedDatetime
    for folder in sorted((FIXTURES / "chat").iterdir()):
        with tempfile.TemporaryDirectory() as model:
            shutil.copytree(folder, model, dirs_exist_ok=True)
            shutil.copy(FIXTURES / "gpt2-f32" / "tokenizer.json", model)
            tokenizer = PreTrainedTokenizerFast.from_pretrained(model)
        rendered = {"now": NOW.isoformat(), "conversations": [render(tokenizer, messages) for messages in CONVERSATIONS]}
        (folder / "rendered.json").write_text(json.dumps(rendered, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
