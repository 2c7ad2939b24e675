"""vLLM's LLM.generate, the engine in this process (faster here than its default child process), dummy weights, greedy."""
import json, os, random, tempfile
import peer

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")


def run(job):
    import vllm
    if job["device"] != "cuda":
        raise ImportError("its CPU build is not measured")
    yield dict(version=vllm.__version__)
    dtype = dict(f32="float32", f16="float16", bf16="bfloat16")[job["dtype"]]
    shape, work = peer.SHAPES[job["model"]], job["work"]
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "config.json"), "w") as f:
            json.dump(shape, f)
        engine = vllm.LLM(
            model=folder, load_format="dummy", skip_tokenizer_init=True, dtype=dtype, enable_prefix_caching=False,
            max_model_len=max(w["prompt_len"] + w["new_tokens"] for w in work), max_num_seqs=max(w["batch"] for w in work))
    for w in work:
        def generate(new_tokens):
            # Other prompts each time.
            prompts = [{"prompt_token_ids": random.choices(range(shape["vocab_size"]), k=w["prompt_len"])} for _ in range(w["batch"])]
            exactly = vllm.SamplingParams(temperature=0, max_tokens=new_tokens, min_tokens=new_tokens, ignore_eos=True, detokenize=False)
            engine.generate(prompts, exactly, use_tqdm=False)

        yield peer.generation(w, job["repeats"], generate)


peer.main(run)
