"""llama.cpp's llama-batched-bench on f16 GGUF files of the shapes with random weights. Needs numpy and gguf, and the
program on PATH or named by LLAMA_BATCHED_BENCH."""
import json, os, shutil, subprocess, tempfile
import peer


def write(path, shape):
    import gguf, numpy
    some = (numpy.random.default_rng(0).standard_normal(1 << 22) * 0.02).astype(numpy.float16)
    matrix = lambda *sizes: numpy.resize(some, int(numpy.prod(sizes))).reshape(sizes)
    ones, zeros = (lambda n: numpy.ones(n, numpy.float32)), (lambda n: numpy.zeros(n, numpy.float32))
    gpt2 = shape["model_type"] == "gpt2"
    layers, width, heads, context = (shape[k] for k in (
        ("n_layer", "n_embd", "n_head", "n_positions") if gpt2
        else ("num_hidden_layers", "hidden_size", "num_attention_heads", "max_position_embeddings")))
    inner = 4 * width if gpt2 else shape["intermediate_size"]
    w = gguf.GGUFWriter(path, shape["model_type"])
    w.add_block_count(layers), w.add_context_length(context), w.add_embedding_length(width), w.add_feed_forward_length(inner)
    w.add_head_count(heads), w.add_vocab_size(shape["vocab_size"]), w.add_tokenizer_model("no_vocab"), w.add_file_type(1)
    w.add_tensor("token_embd.weight", matrix(shape["vocab_size"], width))
    w.add_tensor("output_norm.weight", ones(width))
    if gpt2:
        w.add_layer_norm_eps(1e-5)
        w.add_tensor("position_embd.weight", matrix(context, width).astype(numpy.float32))
        w.add_tensor("output_norm.bias", zeros(width))
        matrices = dict(attn_qkv=(3 * width, width), attn_output=(width, width), ffn_up=(inner, width), ffn_down=(width, inner))
    else:
        keys = shape["num_key_value_heads"] * width // heads
        w.add_layer_norm_rms_eps(1e-5), w.add_rope_dimension_count(width // heads), w.add_head_count_kv(shape["num_key_value_heads"])
        if not shape["tie_word_embeddings"]:
            w.add_tensor("output.weight", matrix(shape["vocab_size"], width))
        matrices = dict(attn_q=(width, width), attn_k=(keys, width), attn_v=(keys, width), attn_output=(width, width),
                        ffn_gate=(inner, width), ffn_up=(inner, width), ffn_down=(width, inner))
    for layer in range(layers):
        for name, sizes in matrices.items():
            w.add_tensor(f"blk.{layer}.{name}.weight", matrix(*sizes))
            if gpt2:
                w.add_tensor(f"blk.{layer}.{name}.bias", zeros(sizes[0]))
        for name in ("attn_norm", "ffn_norm"):
            w.add_tensor(f"blk.{layer}.{name}.weight", ones(width))
            if gpt2:
                w.add_tensor(f"blk.{layer}.{name}.bias", zeros(width))
    w.write_header_to_file(), w.write_kv_data_to_file(), w.write_tensors_to_file(), w.close()


def run(job):
    program = os.environ.get("LLAMA_BATCHED_BENCH") or shutil.which("llama-batched-bench")
    if not program:
        raise ImportError("no llama-batched-bench on PATH or in LLAMA_BATCHED_BENCH")
    yield dict(version="f16")
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.gguf")
        write(path, peer.SHAPES[job["model"]])
        for w in job["work"]:
            context = w["batch"] * (w["prompt_len"] + w["new_tokens"] + 3) + 256
            command = [program, "-m", path, "-npp", w["prompt_len"], "-ntg", w["new_tokens"], "-npl", w["batch"], "-fa", "on",
                       "-c", context, "-b", 4096, "-ub", 4096, "-ngl", 99 if job["device"] == "cuda" else 0,
                       "-t", job["threads"], "--output-format", "jsonl"]
            done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
            found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
            if not found:
                yield w | dict(failed=done.stderr[-200:])
                continue
            got = found[-1]
            yield w | dict(total_ms=got["t"] * 1e3, prefill_ms=got["t_pp"] * 1e3, step_ms=got["t_tg"] * 1e3 / w["new_tokens"],
                           output_tok_s=w["batch"] * w["new_tokens"] / got["t"])


peer.main(run)
