#!/usr/bin/env python3
"""Writes tests/fixtures/smollm2-greedy.json: what HF transformers makes of 20 prompts with SmolLM2-135M-Instruct.

Per prompt: its token ids, the greedy continuation of 64 tokens in float32 (EOS is a token like any other, so that all
continuations are equally long), and the smallest lead of a chosen token's logit over the next best. A lead below 1e-3 is
no answer that another order of the same sums must give: such a prompt is left out and the next one of PROMPTS taken.

For bfloat16 the same sequences are followed (teacher-forced): the share of steps whose best token is that of float32,
and the largest difference of a logit. It is what rounding alone costs, and the measure for our own bfloat16.

    python3 scripts/make_smollm2.py smollm2-135m-instruct
    python3 scripts/make_smollm2_fixture.py smollm2-135m-instruct
"""

import argparse
import hashlib
import json
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

PROMPTS_WANTED = 20
NEW_TOKENS = 64
CLOSEST_LEAD = 1e-3
LONG = 500

# Texts, and lists of messages that go through the chat template.
PROMPTS: list[str | list[dict]] = [
    "The capital of France is",
    "The",
    "Once upon a time, in a village by the sea, there lived a girl who",
    "def fibonacci(n):\n    if n < 2:\n        return n\n",
    "#include <stdio.h>\n\nint main(int argc, char **argv) {\n",
    "SELECT name, COUNT(*) FROM orders WHERE",
    "1 2 3 4 5 6 7 8 9 10 11 12",
    "12 * 12 = 144\n13 * 13 = 169\n14 * 14 =",
    "Die Hauptstadt von Deutschland ist",
    "El perro corre por el parque y",
    "Il était une fois, dans un pays lointain,",
    "人工智能是",
    "Привет, как дела?",
    "🙂🙂🎉 Happy birthday to you! 🎂",
    "   \n\n\t  An oddly indented line",
    '{"name": "Alice", "age": 31, "city": "Paris"}\n{"name": "Bob", "age":',
    [{"role": "user", "content": "What is gravity? Answer in one sentence."}],
    [{"role": "user", "content": "Write a haiku about rain."}],
    [
        {"role": "system", "content": "You answer like a pirate."},
        {"role": "user", "content": "Where is the treasure?"},
        {"role": "assistant", "content": "Arr, it be buried on the island!"},
        {"role": "user", "content": "Which island?"},
    ],
    "long",
    "To be, or not to be, that is the question:",
    "Shopping list:\n- apples\n- bread\n-",
    "Water boils at 100 degrees",
    "日本の首都は",
]


def long_text() -> str:
    return " ".join(f"On day {day} the ship sailed {3 * day + 7} miles to the {'north' if day % 2 else 'south'}." for day in range(1, 60))


def token_ids(prompt: str | list[dict], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    if prompt == "long":
        return tokenizer(long_text())["input_ids"][:LONG]
    if isinstance(prompt, str):
        return tokenizer(prompt)["input_ids"]
    text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@torch.no_grad()
def greedy(model: PreTrainedModel, prompt: list[int]) -> list[int]:
    ids, cache, tokens = torch.tensor([prompt]), None, []
    for _ in range(NEW_TOKENS):
        out = model(ids, past_key_values=cache, use_cache=True)
        cache, ids = out.past_key_values, out.logits[:, -1].argmax(-1, keepdim=True)
        tokens.append(int(ids))
    return tokens


@torch.no_grad()
def followed(model: PreTrainedModel, prompt: list[int], tokens: list[int]) -> torch.Tensor:
    """[NEW_TOKENS, V] logits in float32 of every step along `tokens`, in one pass without a cache."""
    return model(torch.tensor([prompt + tokens[:-1]])).logits[0, len(prompt) - 1 :].float()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="the folder that make_smollm2.py wrote")
    parser.add_argument("--out", type=Path, default=Path("tests/fixtures/smollm2-greedy.json"))
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    f32 = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, attn_implementation="eager").eval()
    bf16 = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.bfloat16, attn_implementation="eager").eval()
    cases, equal, largest = [], 0, 0.0
    for prompt in PROMPTS:
        ids = token_ids(prompt, tokenizer)
        tokens = greedy(f32, ids)
        reference = followed(f32, ids, tokens)
        best = reference.topk(2).values
        lead = float((best[:, 0] - best[:, 1]).min())
        # Where the two ways disagree, it is a tie as well.
        if lead < CLOSEST_LEAD or reference.argmax(-1).tolist() != tokens:
            print("left out, lead", lead, repr(prompt))
            continue
        rounded = followed(bf16, ids, tokens)
        same = int((rounded.argmax(-1) == torch.tensor(tokens)).sum())
        error = float((rounded - reference).abs().max())
        equal, largest = equal + same, max(largest, error)
        cases.append({"prompt": ids, "greedy": tokens, "smallest_lead": lead, "bf16_equal": same, "bf16_largest_error": error})
        print(len(ids), "tokens, lead", lead, "bf16:", same, error, repr(tokenizer.decode(tokens[:12])))
        if len(cases) == PROMPTS_WANTED:
            break
    assert len(cases) == PROMPTS_WANTED, "too many ties: add prompts"
    record = {
        "made_by": "scripts/make_smollm2_fixture.py", "torch": torch.__version__, "transformers": transformers.__version__,
        "weights_sha256": hashlib.sha256((args.model / "model.safetensors").read_bytes()).hexdigest(),
        "new_tokens": NEW_TOKENS, "eos": "ignored", "bf16_equal_share": equal / (PROMPTS_WANTED * NEW_TOKENS), "bf16_largest_error": largest,
        "cases": cases,
    }
    args.out.write_text(json.dumps(record) + "\n")
    print("bf16: share of equal tokens", record["bf16_equal_share"], "largest error", largest)


if __name__ == "__main__":
    main()
