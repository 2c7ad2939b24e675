#!/usr/bin/env python3
"""Writes the small random models that the runners are tested against, with HF's own answers.

Each tests/fixtures/FAMILY-*/ is a model folder plus:
  fixture.json        prompts (token ids), the greedy continuations, and what made them
  logits.safetensors  per prompt `i`: `logits.i`, [steps, V]: row 0 after the prompt, row n after n greedy tokens;
                      computed in float64 (but for norms, rotations and softmax, where HF's Llama code turns to
                      float32 by itself), stored rounded to f32

The forward pass runs on exactly the values that are stored, whatever their type, and config.json is read by HF as it is
stored.

    python3 scripts/make_fixtures.py                # all
    python3 scripts/make_fixtures.py qwen2-f32      # one of them
"""

import argparse
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, LlamaConfig, MistralConfig, PreTrainedConfig, PreTrainedModel, Qwen2Config

NEW_TOKENS = 12
PROMPT_LENGTHS = (1, 2, 7, 16, 17, 40, 71)
POSITIONS = 96
# What the tiny byte-level tokenizer learns its merges from.
TOKENIZER_TEXT = ["the quick brown fox jumps over the lazy dog and the other dogs there", "Hello, hello there!"]


@dataclass
class Fixture:
    name: str
    dtype: torch.dtype
    config: PreTrainedConfig
    rope: dict = field(default_factory=dict)  # how config.json says what `config` has
    bare_names: bool = False
    shards: int = 1
    buffers: bool = False  # attention masks or rotary frequencies, and a copy of the tied head, as old files have them
    more_eos: tuple[int, ...] = ()  # tokens that generation_config.json adds


def gpt2(layers: int, heads: int, head_dim: int, vocab: int, inner: int | None = None, activation: str = "gelu_new") -> GPT2Config:
    return GPT2Config(
        vocab_size=vocab, n_positions=POSITIONS, n_embd=heads * head_dim, n_layer=layers, n_head=heads, n_inner=inner,
        activation_function=activation, bos_token_id=vocab - 1, eos_token_id=vocab - 1,
    )


def llama(kind: type, hidden: int, heads: int, kv_heads: int, inner: int, vocab: int, rope: dict, **more) -> PreTrainedConfig:
    rope = {("rope_type" if key == "type" else key): value for key, value in rope.items()}
    return kind(
        vocab_size=vocab, max_position_embeddings=POSITIONS, hidden_size=hidden, num_hidden_layers=2,
        num_attention_heads=heads, num_key_value_heads=kv_heads, intermediate_size=inner, rope_parameters=rope,
        bos_token_id=vocab - 1, eos_token_id=vocab - 1, **more,
    )


# Of 16 pairs, the turns of some take less than 32/4 positions, of some more than 32/1, of some are between.
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
LINEAR = {"type": "linear", "factor": 2.0}
NEWER = {"rope_type": "default", "rope_theta": 1e6}

FIXTURES = (
    Fixture("gpt2-f32", torch.float32, gpt2(layers=2, heads=2, head_dim=32, vocab=331), buffers=True),
    Fixture("gpt2-f16", torch.float16, gpt2(layers=2, heads=3, head_dim=32, vocab=320, inner=160, activation="gelu")),
    Fixture("gpt2-bf16", torch.bfloat16, gpt2(layers=2, heads=2, head_dim=64, vocab=384, inner=256)),
    Fixture("gpt2-sharded", torch.bfloat16, gpt2(layers=3, heads=1, head_dim=80, vocab=320, inner=160, activation="relu"), shards=3),
    Fixture("gpt2-bare-names", torch.float32, gpt2(layers=2, heads=2, head_dim=32, vocab=307, inner=64), bare_names=True),
    # Llama 3: grouped queries (4), a head of its own, several tokens that end a sequence.
    Fixture("llama-sharded", torch.bfloat16,
            llama(LlamaConfig, hidden=128, heads=4, kv_heads=1, inner=96, vocab=307, rope={"rope_theta": 5e5} | LLAMA3),
            rope={"rope_theta": 5e5, "rope_scaling": LLAMA3}, shards=2, more_eos=(3, 42)),
    # An old Llama: as many KV heads as query heads.
    Fixture("llama-linear", torch.bfloat16,
            llama(LlamaConfig, hidden=64, heads=2, kv_heads=2, inner=96, vocab=320, rope={"rope_theta": 1e4} | LINEAR,
                  rms_norm_eps=1e-5, tie_word_embeddings=True),
            rope={"rope_scaling": LINEAR}, buffers=True),
    # Every bias that the family can have.
    Fixture("llama-biases", torch.float32,
            llama(LlamaConfig, hidden=64, heads=2, kv_heads=1, inner=64, vocab=300, rope={"rope_theta": 1e4}, hidden_act="gelu",
                  attention_bias=True, mlp_bias=True, tie_word_embeddings=True)),
    # Qwen2: biases of queries, keys and values, groups of 7, the config.json of transformers 5.
    Fixture("qwen2-f32", torch.float32,
            llama(Qwen2Config, hidden=64, heads=7, kv_heads=1, inner=96, vocab=331, rope=NEWER, head_dim=32, tie_word_embeddings=True),
            rope={"rope_parameters": NEWER}),
    # Mistral: heads wider than their part of the model.
    Fixture("mistral-f16", torch.float16,
            llama(MistralConfig, hidden=96, heads=4, kv_heads=2, inner=80, vocab=320, rope={"rope_theta": 1e5}, head_dim=32, sliding_window=None),
            rope={"rope_theta": 1e5}),
)
# What config.json holds; the rest is Hugging Face's bookkeeping.
KEYS = {
    "gpt2": ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner", "activation_function", "layer_norm_epsilon"),
    "llama": ("attention_bias", "mlp_bias"), "qwen2": ("head_dim", "use_sliding_window", "sliding_window"), "mistral": ("head_dim", "sliding_window"),
}
LLAMA_KEYS = ("vocab_size", "max_position_embeddings", "hidden_size", "num_hidden_layers", "num_attention_heads",
              "num_key_value_heads", "intermediate_size", "hidden_act", "rms_norm_eps")
COMMON_KEYS = ("bos_token_id", "eos_token_id", "tie_word_embeddings")


def random_model(fixture: Fixture, seed: int) -> PreTrainedModel:
    """Weights larger than initial ones, so that every part of the pass moves the logits."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(fixture.config, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ("ln_" in name or "norm" in name) and name.endswith("weight"):
                parameter.normal_(1.0, 0.2)
            elif parameter.dim() == 1:
                parameter.normal_(0.0, 0.1)
            else:
                parameter.normal_(0.0, 1.5 / parameter.shape[-1] ** 0.5)
    return model


def old_buffers(config: PreTrainedConfig) -> dict[str, torch.Tensor]:
    if config.model_type != "gpt2":
        return {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.ones(16) for layer in range(config.num_hidden_layers)}
    mask = torch.ones(POSITIONS, POSITIONS, dtype=torch.uint8).tril()[None, None]
    masks = {f"transformer.h.{layer}.attn.bias": mask.clone() for layer in range(config.n_layer)}
    return masks | {f"transformer.h.{layer}.attn.masked_bias": torch.tensor(-1e4) for layer in range(config.n_layer)}


def store(fixture: Fixture, model: PreTrainedModel, folder: Path) -> None:
    config = fixture.config
    tensors = {
        name.removeprefix("transformer.") if fixture.bare_names else name: value.to(fixture.dtype).contiguous()
        for name, value in model.state_dict().items() if name != "lm_head.weight" or not config.tie_word_embeddings
    }
    if fixture.buffers:
        embedding = model.get_input_embeddings().weight
        tensors |= {"lm_head.weight": embedding.detach().to(fixture.dtype).clone()} | old_buffers(config)
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
    values = config.to_dict()
    keys = KEYS[config.model_type] + (() if config.model_type == "gpt2" else LLAMA_KEYS) + COMMON_KEYS
    written = {"architectures": [type(model).__name__], "model_type": config.model_type}
    written |= {key: values[key] for key in keys} | fixture.rope
    (folder / "config.json").write_text(json.dumps(written, indent=1) + "\n")
    if fixture.more_eos:
        ids = {"eos_token_id": [config.eos_token_id, *fixture.more_eos]}
        (folder / "generation_config.json").write_text(json.dumps(ids) + "\n")


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
        f"transformer.{name}" if fixture.bare_names else name: value.double()
        for name, value in stored.items() if not name.endswith((".attn.bias", ".attn.masked_bias", ".inv_freq"))
    }
    config = AutoConfig.from_pretrained(folder)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").double().eval()
    missing, unexpected = model.load_state_dict(stored, strict=False)
    assert set(missing) <= {"lm_head.weight"} and not unexpected, (missing, unexpected)
    model.tie_weights()

    generator = torch.Generator().manual_seed(seed)
    cases, logits = [], {}
    for case, length in enumerate(PROMPT_LENGTHS):
        ids = torch.randint(config.vocab_size - 1, (1, length), generator=generator)
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
    names = [fixture.name for fixture in FIXTURES]
    parser.add_argument("names", nargs="*", default=names, metavar="NAME", help=f"some of {', '.join(names)}")
    parser.add_argument("--out", type=Path, default=Path("tests/fixtures"))
    args = parser.parse_args()
    if unknown := set(args.names) - set(names):
        parser.error(f"no fixture {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    for seed, fixture in enumerate(FIXTURES, start=1):
        if fixture.name not in args.names:
            continue
        folder = args.out / fixture.name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        store(fixture, random_model(fixture, seed), folder)
        tokenizer(fixture.config.vocab_size, folder)
        answers(fixture, folder, seed)
        for file in folder.glob("*.safetensors"):
            file.chmod(0o644)
        record = json.loads((folder / "fixture.json").read_text())
        print(fixture.name, sum(f.stat().st_size for f in folder.iterdir()), "bytes; smallest argmax margin",
              min(c["smallest_margin"] for c in record["cases"]),
              "distinct greedy", len({t for c in record["cases"] for t in c["greedy"]}))


if __name__ == "__main__":
    main()
