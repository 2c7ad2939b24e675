"""What every peer's script shares: a job comes as JSON on standard input, answers go as lines of JSON to standard output.

The first is {"version"}, or {"missing": WHY} where the peer is not installed. Then comes each part of the job's work with
its numbers, or with "failed", as soon as it is done: what a time limit cuts off is only the rest.
"""
import json, os, statistics, sys, time

# One place for the shapes: Hugging Face's config.json, which vLLM reads too.
SHAPES = {
    "distilgpt2": dict(model_type="gpt2", architectures=["GPT2LMHeadModel"], n_layer=6, n_head=12, n_embd=768, n_positions=1024, vocab_size=50257),
    "smollm2-135m": dict(
        model_type="llama", architectures=["LlamaForCausalLM"], hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
        num_attention_heads=9, num_key_value_heads=3, vocab_size=49152, tie_word_embeddings=True, max_position_embeddings=8192),
    "llama-7b": dict(
        model_type="llama", architectures=["LlamaForCausalLM"], hidden_size=4096, intermediate_size=11008, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=32, vocab_size=32000, tie_word_embeddings=False, max_position_embeddings=2048),
}


def main(run):
    """Writes what run(job) yields."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    try:
        for answer in run(json.load(sys.stdin)):
            print(json.dumps(answer), file=answers, flush=True)
    except ImportError as error:
        print(json.dumps(dict(missing=str(error))), file=answers)
    except Exception as error:
        print(json.dumps(dict(failed=said(error))), file=answers)
    answers.close()


def said(error):
    return f"{type(error).__name__}: {error}"[:200]


def generation(work, repeats, generate):
    """Times generate(new_tokens), which must return when all is done, by the rule of `cargo bench --bench decode`."""
    def ms(new_tokens):
        start = time.perf_counter()
        generate(new_tokens)
        return (time.perf_counter() - start) * 1e3

    new = work["new_tokens"]
    ms(new), ms(new), ms(1)
    total = statistics.median(ms(new) for _ in range(repeats))
    prefill = statistics.median(ms(1) for _ in range(repeats))
    return work | dict(total_ms=total, prefill_ms=prefill, step_ms=max(0.0, total - prefill) / (new - 1),
                       output_tok_s=work["batch"] * new / total * 1e3)


def graph_us(make_call, bytes_each):
    """Median µs of one call by replays of a CUDA graph, as `cargo bench --bench kernels` does: every call has buffers of
    its own, together more than twice the L2 cache. make_call() makes buffers and gives the call."""
    import torch
    l2 = torch.cuda.get_device_properties(0).L2_cache_size
    sets = min(256, int(2 * l2 / bytes_each) + 2)
    calls = [make_call() for _ in range(sets)]
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for call in calls[:3]:
            call()
    torch.cuda.synchronize()
    count = sets * -(-20 // sets)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(count):
            calls[i % sets]()

    def replay_ms():
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    warm = [replay_ms() for _ in range(2)][-1]
    # Slow calls need fewer samples.
    return statistics.median(replay_ms() for _ in range(max(3, min(15, int(300 / warm))))) * 1e3 / count


def attention_rows(work, call_of):
    """call_of(part of the work) gives (make_call, bytes of one call)."""
    import torch
    for w in work:
        try:
            yield w | dict(us=graph_us(*call_of(w)))
        except Exception as error:
            yield w | dict(failed=said(error))
        torch.cuda.empty_cache()
