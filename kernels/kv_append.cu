// Splits the QKV product: adds the bias, packs the queries as [T, Hq, D] and puts K and V into their
// pages, so that attention reads nothing but q and the slab.
//
// Bound by memory: every value is read and written once, 8 at a time. kv_index −1 marks a padding
// token of a captured graph: its query is written (its row sees no key), its K and V are not.

#include "dtype.cuh"
#include "kv.cuh"
#include "launch.cuh"
#include "params.cuh"

template <typename T>
__device__ void kv_append(const KvAppendParams<T>& p) {
    follow_previous_kernel();
    const size_t token = blockIdx.x;
    const int q_width = p.query_heads * p.head_dim, kv_width = p.kv_heads * p.head_dim;
    const int width = q_width + 2 * kv_width;
    const int column = (blockIdx.y * blockDim.x + threadIdx.x) * VECTOR;
    if (column >= width) return;

    T* to;
    if (column < q_width) {
        to = p.q + token * q_width + column;
    } else {
        const int index = p.kv_index[token];
        if (index < 0) return;
        const bool value = column >= q_width + kv_width;
        const int within = column - q_width - (value ? kv_width : 0);
        const KvHead kv(within / p.head_dim, p.kv_heads, p.page_size, p.head_dim);
        const size_t row = p.token_row[token];
        const int page = p.page_table[row * p.page_stride + kv.entry(index)];
        to = p.kv + kv.key(page, index) + (value ? kv.value : 0) + within % p.head_dim;
    }

    float v[VECTOR], bias[VECTOR];
    load(v, p.qkv + token * width + column);
    load(bias, p.bias + column);
#pragma unroll
    for (int i = 0; i < VECTOR; i++) v[i] += bias[i];
    store(to, v);
}

#define KV_APPEND(suffix, T) \
    extern "C" __global__ void kv_append_##suffix(const KvAppendParams<T> p) { kv_append(p); }
FOR_EACH_DTYPE(KV_APPEND)
