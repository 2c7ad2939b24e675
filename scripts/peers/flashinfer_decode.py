"""FlashInfer's decode attention over a paged cache, pages of 16, bf16."""
import peer

PAGE = 16


def run(job):
    import flashinfer, torch
    if not torch.cuda.is_available():
        raise ImportError("torch sees no GPU")
    yield dict(version=flashinfer.__version__)
    workspace = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")

    def call_of(w):
        rows, keys, heads, kv_heads, d = (w[k] for k in ("rows", "kv_len", "heads", "kv_heads", "head_dim"))
        pages = -(-keys // PAGE)
        of_int = lambda values: torch.tensor(values, dtype=torch.int32, device="cuda")
        wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(workspace, "NHD", use_tensor_cores=heads // kv_heads >= 4)
        wrapper.plan(of_int(range(0, (rows + 1) * pages, pages)), torch.randperm(rows * pages, device="cuda").int(),
                     of_int([(keys - 1) % PAGE + 1] * rows), heads, kv_heads, d, PAGE, q_data_type=torch.bfloat16, kv_data_type=torch.bfloat16)

        def make_call():
            kv = torch.randn(rows * pages, 2, PAGE, kv_heads, d, device="cuda", dtype=torch.bfloat16)
            q = torch.randn(rows, heads, d, device="cuda", dtype=torch.bfloat16)
            return lambda: wrapper.run(q, kv)

        return make_call, 2 * rows * d * (2 * heads + 2 * kv_heads * keys)

    yield from peer.attention_rows(job["work"], call_of)


peer.main(run)
