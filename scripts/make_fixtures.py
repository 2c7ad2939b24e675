#!/usr/bin/env python3
"""Writes the small random GPT-2 models that the runners are tested against, with HF's own answers.

Each tests/fixtures/gpt2-*/ is a model folder plus:
  fixture.json        prompts (token ids), the greedy continuations, and what made them
  logits.safetensors  per prompt `i`: `logits.i`, [steps, V]: row 0 after the prompt, row n after n greedy tokens;
                      computed in float64, stored rounded to f32

The forward pass runs on exactly the values that are stored, whatever their type.

    python3 scripts/make_fixtures.py --out tests/fixtures
"""

import argparse
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel

NEW_TOKENS = 12
PROMPT_LENGTHS = (1, 2, 7, 16, 17, 40, 71)
# What the tiny byte-level tokenizer learns its merges from.
TOKENIZER_TEXT = ["the quick brown fox jumps over the lazy dog and the other dogs there", "Hello, hello there!"]


@dataclass
class Fixture:
    name: str
    dtype: torch.dtype
    layers: int
    heads: int
    head_dim: int
    vocab: int
    inner: int | None = None
    activation: str = "gelu_new"
    prefix: str = "transformer."
    shards: int = 1
    buffers: bool = False  # attention masks and a copy of the tied head, as old files have them


FIXTURES = (
    Fixture("gpt2-f32", torch.float32, layers=2, heads=2, head_dim=32, vocab=331, buffers=True),
    Fixture("gpt2-f16", torch.float16, layers=2, heads=3, head_dim=32, vocab=320, inner=160, activation="gelu"),
    Fixture("gpt2-bf16", torch.bfloat16, layers=2, heads=2, head_dim=64, vocab=384, inner=256),
    Fixture("gpt2-sharded", torch.bfloat16, layers=3, heads=1, head_dim=80, vocab=320, inner=160, activation="relu", shards=3),
    Fixture("gpt2-bare-names", torch.float32, layers=2, heads=2, head_dim=32, vocab=307, inner=64, prefix=""),
)


def random_model(fixture: Fixture, seed: int) -> GPT2LMHeadModel:
    """Weights larger than GPT-2's initial ones, so that every part of the pass moves the logits."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=fixture.vocab, n_positions=96, n_embd=fixture.heads * fixture.head_dim, n_layer=fixture.layers,
        n_head=fixture.heads, n_inner=fixture.inner, activation_function=fixture.activation,
        bos_token_id=fixture.vocab - 1, eos_token_id=fixture.vocab - 1, attn_implementation="eager",
    )
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "ln_" in name and name.endswith("weight"):
                parameter.normal_(1.0, 0.2)
            elif parameter.dim() == 1:
                parameter.normal_(0.0, 0.1)
            else:
                parameter.normal_(0.0, 1.5 / parameter.shape[-1] ** 0.5)
    return model


def store(fixture: Fixture, model: GPT2LMHeadModel, folder: Path) -> None:
    tensors = {
        fixture.prefix + name.removeprefix("transformer."): value.to(fixture.dtype).contiguous()
        for name, value in model.state_dict().items() if name != "lm_head.weight"
    }
    if fixture.buffers:
        tensors["lm_head.weight"] = tensors["transformer.wte.weight"].clone()
        for layer in range(fixture.layers):
            mask = torch.ones(96, 96, dtype=torch.uint8).tril()[None, None]
            tensors[f"transformer.h.{layer}.attn.bias"] = mask
            tensors[f"transformer.h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    names = sorted(tensors)
    if fixture.shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        weight_map = {}
        for shard in range(fixture.shards):
            file = f"model-{shard + 1:05d}-of-{fixture.shards:05d}.safetensors"
            part = {name: tensors[name] for name in names[shard :: fixture.shards]}
            save_file(part, folder / file, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(part, file)
        size = sum(t.numel() * t.element_size() for t in tensors.values())
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
    config = model.config.to_dict() | {"architectures": ["GPT2LMHeadModel"]}
    keep = ("architectures", "model_type", "vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner",
            "activation_function", "layer_norm_epsilon", "bos_token_id", "eos_token_id", "tie_word_embeddings")
    (folder / "config.json").write_text(json.dumps({k: config[k] for k in keep}, indent=1) + "\n")


def tokenizer(vocab: int, folder: Path) -> None:
    """A byte-level BPE of exactly `vocab` tokens, the last of them the end of text."""
    tiny = Tokenizer(models.BPE())
    tiny.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tiny.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab - 1, show_progress=False, min_frequency=1,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tiny.train_from_iterator(TOKENIZER_TEXT, trainer)
    learnt = tiny.get_vocab_size()
    tiny.add_special_tokens([f"<|unused{i}|>" for i in range(vocab - 1 - learnt)] + ["<|endoftext|>"])
    assert tiny.get_vocab_size() == vocab and tiny.token_to_id("<|endoftext|>") == vocab - 1
    tiny.save(str(folder / "tokenizer.json"), pretty=False)


def answers(fixture: Fixture, folder: Path, seed: int) -> None:
    """HF's float64 logits and greedy tokens, on the stored values."""
    stored = {}
    for file in sorted(folder.glob("model*.safetensors")):
        stored |= load_file(file)
    stored = {
        name if name.startswith(("transformer.", "lm_head.")) else f"transformer.{name}": value.double()
        for name, value in stored.items() if not name.endswith((".attn.bias", ".attn.masked_bias"))
    }
    config = GPT2Config.from_pretrained(folder, attn_implementation="eager")
    model = GPT2LMHeadModel(config).double().eval()
    missing, unexpected = model.load_state_dict(stored, strict=False)
    assert set(missing) <= {"lm_head.weight"} and not unexpected, (missing, unexpected)
    model.tie_weights()

    generator = torch.Generator().manual_seed(seed)
    cases, logits = [], {}
    for case, length in enumerate(PROMPT_LENGTHS):
        ids = torch.randint(fixture.vocab - 1, (1, length), generator=generator)
        prompt, rows, greedy = ids[0].tolist(), [], []
        for _ in range(NEW_TOKENS):
            with torch.no_grad():
                # The whole sequence again each time: no cache whose handling could be at fault.
                last = model(ids, use_cache=False).logits[0, -1]
            assert last.dtype == torch.float64
            rows.append(last)
            greedy.append(int(last.argmax()))
            ids = torch.cat([ids, last.argmax()[None, None]], dim=1)
        margins = [float(r.topk(2).values.diff().abs()) for r in rows]
        cases.append({"prompt": prompt, "greedy": greedy, "smallest_margin": min(margins)})
        logits[f"logits.{case}"] = torch.stack(rows).float()
    save_file(logits, folder / "logits.safetensors")
    record = {
        "made_by": "scripts/make_fixtures.py", "torch": torch.__version__, "transformers": transformers.__version__,
        "seed": seed, "new_tokens": NEW_TOKENS, "cases": cases,
    }
    (folder / "fixture.json").write_text(json.dumps(record) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("tests/fixtures"))
    args = parser.parse_args()
    for seed, fixture in enumerate(FIXTURES, start=1):
        folder = args.out / fixture.name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        store(fixture, random_model(fixture, seed), folder)
        tokenizer(fixture.vocab, folder)
        answers(fixture, folder, seed)
        for file in folder.glob("*.safetensors"):
            file.chmod(0o644)
        record = json.loads((folder / "fixture.json").read_text())
        print(fixture.name, sum(f.stat().st_size for f in folder.iterdir()), "bytes; smallest argmax margin",
              min(c["smallest_margin"] for c in record["cases"]),
              "distinct greedy", len({t for c in record["cases"] for t in c["greedy"]}))


if __name__ == "__main__":
    main()
