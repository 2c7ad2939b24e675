"""Hugging Face transformers' generate(), random weights, greedy, no end token."""
import peer


def run(job):
    import torch, transformers
    from transformers import AutoConfig, AutoModelForCausalLM
    yield dict(version=f"{transformers.__version__}, torch {torch.__version__}")
    on_gpu = job["device"] == "cuda"
    if not on_gpu:
        torch.set_num_threads(job["threads"])
    dtype = dict(f32=torch.float32, f16=torch.float16, bf16=torch.bfloat16)[job["dtype"]]
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    shape = dict(peer.SHAPES[job["model"]])
    with torch.device(job["device"]):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(shape.pop("model_type"), **shape)).eval()
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = None, 0
    for w in job["work"]:
        ids = torch.randint(0, model.config.vocab_size, (w["batch"], w["prompt_len"]), device=job["device"])
        mask = torch.ones_like(ids)

        def generate(new_tokens):
            with torch.inference_mode():
                out = model.generate(ids, attention_mask=mask, max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False)
            if on_gpu:
                torch.cuda.synchronize()
            assert out.shape[1] == w["prompt_len"] + new_tokens

        yield peer.generation(w, job["repeats"], generate)


peer.main(run)
