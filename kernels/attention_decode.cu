// Decode attention: one query a row over the row's KV positions, split over blocks.
//
// Bound by memory: 2·S·D·Hkv values of K and V a row, each read once for all query heads that share
// the KV head. A block takes one (split, KV head, row). Where rows and heads alone give too few
// blocks to fill the GPU, the positions are divided in chunks; the blocks then leave partial results
// in f32 with the log of their softmax sum, and a second kernel weighs them.
//
// Tensor cores have no use here while a KV head serves one query head: a product with one row.

#include "attention_rows.cuh"
#include "launch.cuh"
#include "params.cuh"

template <typename T, int D, int G>
__device__ void attention_decode(const AttentionDecodeParams<T>& p) {
    using Query = Rows<T, D, G, false>;
    __shared__ typename Query::Shared shared;
    const int split = blockIdx.x, kv_head = blockIdx.y, row = blockIdx.z;
    const int group = p.query_heads / p.kv_heads;
    follow_previous_kernel();
    const int64_t first_head = static_cast<int64_t>(row) * p.query_heads + kv_head * group;

    Query query;
#pragma unroll
    for (int g = 0; g < G; g++) query.set_query(g, g < group ? p.q + (first_head + g) * D : nullptr, p.scale);

    const int begin = max(p.kv_start[row], split * p.chunk);
    const int end = min(p.kv_len[row], (split + 1) * p.chunk);
    const KvHead kv(kv_head, p.kv_heads, p.page_size, D);
    query.attend(p.kv, kv, p.page_table + static_cast<int64_t>(row) * p.page_stride, begin, end);

    query.finish(shared, [&](int g, int d, float value, float log_sum) {
        if (g >= group) return;
        if (p.splits == 1) {
            store_one(p.out + (first_head + g) * D + d, value);
            return;
        }
        const int64_t partial = static_cast<int64_t>(split) * p.rows * p.query_heads + first_head + g;
        p.partial_out[partial * D + d] = value;
        if (d == 0) p.partial_lse[partial] = log_sum;
    });
}

// out = Σ weight·partial / Σ weight with weight = 2^lse: one block a query, one thread an element.
template <typename T>
__device__ void attention_decode_combine(const AttentionDecodeParams<T>& p) {
    follow_previous_kernel();
    const int d = threadIdx.x;
    const int64_t head = static_cast<int64_t>(blockIdx.y) * p.query_heads + blockIdx.x;
    const int64_t stride = static_cast<int64_t>(p.rows) * p.query_heads;
    if (d >= p.head_dim) return;

    float top = -INFINITY;
#pragma unroll 8
    for (int s = 0; s < p.splits; s++) top = fmaxf(top, p.partial_lse[s * stride + head]);
    const float from = top == -INFINITY ? 0.0f : top;

    float total = 0.0f, value = 0.0f;
#pragma unroll 8
    for (int s = 0; s < p.splits; s++) {
        const float weight = exp2_approx(p.partial_lse[s * stride + head] - from);
        total += weight;
        value += weight * p.partial_out[(s * stride + head) * p.head_dim + d];
    }
    store_one(p.out + head * p.head_dim + d, total > 0.0f ? value / total : 0.0f);
}

#define ATTENTION_DECODE_SIZED(suffix, T, D, G)                             \
    extern "C" __global__ void __launch_bounds__(ROWS_THREADS)              \
        attention_decode_##suffix##_d##D##_g##G(const AttentionDecodeParams<T> p) { \
        attention_decode<T, D, G>(p);                                       \
    }
#define ATTENTION_DECODE_GROUPS(suffix, T, D) \
    ATTENTION_DECODE_SIZED(suffix, T, D, 1)   \
    ATTENTION_DECODE_SIZED(suffix, T, D, 2)   \
    ATTENTION_DECODE_SIZED(suffix, T, D, 4)   \
    ATTENTION_DECODE_SIZED(suffix, T, D, 8)
#define ATTENTION_DECODE(suffix, T)         \
    ATTENTION_DECODE_GROUPS(suffix, T, 32)  \
    ATTENTION_DECODE_GROUPS(suffix, T, 64)  \
    ATTENTION_DECODE_GROUPS(suffix, T, 80)  \
    ATTENTION_DECODE_GROUPS(suffix, T, 128) \
    extern "C" __global__ void attention_decode_combine_##suffix(const AttentionDecodeParams<T> p) { \
        attention_decode_combine(p);        \
    }
FOR_EACH_DTYPE(ATTENTION_DECODE)
