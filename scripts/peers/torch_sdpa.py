"""torch's scaled_dot_product_attention, forward, bf16: FlashAttention-2, cuDNN, and with the boolean mask that
transformers gives it for a padded batch."""
import peer


def run(job):
    import torch, torch.nn.functional as F
    from torch.nn.attention import SDPBackend, sdpa_kernel
    if not torch.cuda.is_available():
        raise ImportError("torch sees no GPU")
    yield dict(version=torch.__version__)
    backend = dict(flash=SDPBackend.FLASH_ATTENTION, cudnn=SDPBackend.CUDNN_ATTENTION).get(job["backend"])

    def call_of(w):
        rows, queries, keys, heads, kv_heads, d = (w[k] for k in ("rows", "query_len", "kv_len", "heads", "kv_heads", "head_dim"))
        random = lambda h, n: torch.randn(rows, h, n, d, device="cuda", dtype=torch.bfloat16)
        gqa = heads != kv_heads
        mask = None
        if job["backend"] == "mask":
            # Left padding: what a row sees begins at its kv_start.
            start = torch.tensor(w["kv_start"], device="cuda")
            causal = torch.ones(queries, keys, dtype=torch.bool, device="cuda").tril(keys - queries)
            mask = causal[None, None] & (torch.arange(keys, device="cuda")[None, None, None] >= start[:, None, None, None])

        def make_call():
            q, k, v = random(heads, queries), random(kv_heads, keys), random(kv_heads, keys)

            def call():
                if mask is not None:
                    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=gqa)
                with sdpa_kernel(backend):
                    return F.scaled_dot_product_attention(q, k, v, is_causal=queries > 1, enable_gqa=gqa)

            return call

        return make_call, 2 * rows * d * (2 * heads * queries + 2 * kv_heads * keys)

    yield from peer.attention_rows(job["work"], call_of)


peer.main(run)
