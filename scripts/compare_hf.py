"""batchlab beside Hugging Face transformers' generate(): same shape, same work, one machine, one run.

usage: compare_hf.py --device cpu|cuda [--model distilgpt2|smollm2-135m|llama-7b] [--bench-exe PATH]
                     [--batch-sizes 1,4,8] [--rounds 3] [--output STEM]

Both get random weights of the model's shape and random prompts, and decode greedily without an end token. Rounds
alternate between the two, so that a change of the machine's load meets both; the table shows medians over rounds.
total = a whole generation, prefill = a generation of one token, step = (total - prefill) / (new tokens - 1).
Without --bench-exe the bench is run through `cargo bench --bench decode`. --output writes STEM.json and STEM.txt.
"""
import argparse, json, os, pathlib, platform, statistics, subprocess, sys, tempfile, time
import torch, transformers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

SHAPES = {
    "distilgpt2": lambda: GPT2LMHeadModel(GPT2Config(n_layer=6, n_head=12, n_embd=768)),
    "smollm2-135m": lambda: LlamaForCausalLM(LlamaConfig(
        hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
        vocab_size=49152, tie_word_embeddings=True, max_position_embeddings=8192)),
    "llama-7b": lambda: LlamaForCausalLM(LlamaConfig(
        hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=32,
        vocab_size=32000, max_position_embeddings=2048)),
}

p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
p.add_argument("--device", choices=["cpu", "cuda"], required=True)
p.add_argument("--model", choices=list(SHAPES), default="distilgpt2")
p.add_argument("--bench-exe", help="the compiled bench `decode`, where there is no cargo")
p.add_argument("--batch-sizes", default="1,4,8")
p.add_argument("--prompt-len", type=int, default=13)
p.add_argument("--new-tokens", type=int, default=32)
p.add_argument("--repeats", type=int, default=3, help="generations in each round")
p.add_argument("--rounds", type=int, default=3)
p.add_argument("--dtype", choices=["f32", "f16", "bf16"], help="default f32 on cpu, bf16 on cuda")
p.add_argument("--threads", type=int, default=os.cpu_count(), help="of both, on cpu")
p.add_argument("--output", help="path without extension")
a = p.parse_args()
dtype = a.dtype or ("f32" if a.device == "cpu" else "bf16")
batches = [int(b) for b in a.batch_sizes.split(",")]


def hf_model():
    torch.manual_seed(0)
    torch.set_num_threads(a.threads)
    torch.set_default_dtype(dict(f32=torch.float32, f16=torch.float16, bf16=torch.bfloat16)[dtype])
    with torch.device(a.device):
        model = SHAPES[a.model]().eval()
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = None, 0
    return model


def hf_round(model, batch):
    ids = torch.randint(0, model.config.vocab_size, (batch, a.prompt_len), device=a.device)
    sync = torch.cuda.synchronize if a.device == "cuda" else lambda: None

    def generate(n):
        sync()
        start = time.perf_counter()
        with torch.inference_mode():
            out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=n, min_new_tokens=n, do_sample=False)
        sync()
        assert out.shape[1] == a.prompt_len + n
        return (time.perf_counter() - start) * 1e3

    generate(a.new_tokens), generate(1)
    total = statistics.median(generate(a.new_tokens) for _ in range(a.repeats))
    prefill = statistics.median(generate(1) for _ in range(a.repeats))
    return dict(batch=batch, total_ms=total, prefill_ms=prefill, step_ms=(total - prefill) / (a.new_tokens - 1),
                output_tok_s=batch * a.new_tokens / total * 1e3)


def batchlab_round():
    command = [a.bench_exe] if a.bench_exe else ["cargo", "bench", "--quiet", "--bench", "decode", "--"]
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "decode.json")
        command += ["--device", a.device, "--model", f"dummy:{a.model}", "--dtype", dtype, "--batch-sizes", a.batch_sizes,
                    "--prompt-len", str(a.prompt_len), "--new-tokens", str(a.new_tokens), "--repeats", str(a.repeats), "--output", out]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"RAYON_NUM_THREADS": str(a.threads)})
        with open(out) as f:
            return json.load(f)


def processor():
    if a.device == "cuda":
        return torch.cuda.get_device_name()
    try:
        with open("/proc/cpuinfo") as f:
            names = [line.split(":", 1)[1].strip() for line in f if line.startswith("model name")]
        return names[0]
    except (OSError, IndexError):
        return platform.processor()


def medians(rounds):
    """One dict a batch size, every number the median over the rounds."""
    merged = []
    for batch in batches:
        rows = [row for one in rounds for row in one if row["batch"] == batch]
        merged.append({key: statistics.median(r[key] for r in rows) for key, v in rows[0].items() if isinstance(v, (int, float))})
    return merged


load = os.getloadavg()[0]  # others on the machine, before the first round
model = hf_model()
hf_rounds, own_rounds = [], []
for _ in range(a.rounds):
    hf_rounds.append([hf_round(model, b) for b in batches])
    own_rounds.append(batchlab_round())
hf, own = medians(hf_rounds), medians(own_rounds)

bundled = pathlib.Path(__file__).with_name("COMMIT")  # scripts/bundle.sh writes it: there is no git on the GPU machine
git = ["git", "rev-parse", "--short", "HEAD"]
commit = bundled.read_text()[:7] if bundled.exists() else subprocess.run(git, capture_output=True, text=True).stdout.strip() or None
machine = dict(processor=processor(), cores=os.cpu_count(), threads=a.threads if a.device == "cpu" else None,
               python=platform.python_version(), torch=torch.__version__, transformers=transformers.__version__, commit=commit,
               load_average_before=load)
arguments = [x for i, x in enumerate(sys.argv[1:]) if x not in ("--bench-exe", "--output") and sys.argv[i] not in ("--bench-exe", "--output")]
lines = [
    f"{machine['processor']}, {machine['cores']} cores (load {load:.1f} before), {dtype}; torch {torch.__version__}, transformers {transformers.__version__}, batchlab {commit}",
    f"{a.model} shape, prompt {a.prompt_len}, {a.new_tokens} new tokens; HF / batchlab; ratio = HF step / batchlab step",
    f"{'B':>4} {'prefill ms':>19} {'decode ms/step':>19} {'output tok/s':>19} {'ratio':>7} {'host µs/step':>13}",
]
for h, o in zip(hf, own):
    pair = lambda key, digits: f"{h[key]:9.{digits}f}/{o[key]:9.{digits}f}"
    lines.append(f"{h['batch']:4.0f} {pair('prefill_ms', 2)} {pair('step_ms', 3)} {pair('output_tok_s', 1)} "
                 f"{h['step_ms'] / o['step_ms']:7.2f} {o['host_us_per_step']:13.1f}")
table = "\n".join(lines)
print(table)
if a.output:
    result = dict(command="scripts/compare_hf.py " + " ".join(arguments), machine=machine, dtype=dtype, hf=hf, batchlab=own,
                  rounds=dict(hf=hf_rounds, batchlab=own_rounds))
    with open(a.output + ".json", "w") as f:
        json.dump(result, f, indent=1)
    with open(a.output + ".txt", "w") as f:
        f.write(table + "\n")
