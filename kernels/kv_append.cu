// Splits the QKV product: adds the bias, turns queries and keys by their positions where these are
// rotary, packs the queries as [T, Hq, D] and puts K and V into their pages, so that attention reads
// nothing but q and the slab.
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
    const int token = blockIdx.x;
    const int width = (p.to.query_heads + 2 * p.to.kv_heads) * p.to.head_dim;
    const int column = (blockIdx.y * blockDim.x + threadIdx.x) * VECTOR;
    if (column >= width) return;
    const QkvColumn<T> of(p.to, column);
    T* to[1];
    of.template find<1>(to, p.to, token, token + 1);
    if (!to[0]) return;

    float v[VECTOR], bias[VECTOR] = {};
    load(v, p.qkv + static_cast<size_t>(token) * width + column);
    if (p.bias) load(bias, p.bias + column);
#pragma unroll
    for (int i = 0; i < VECTOR; i++) v[i] += bias[i];
    if (of.turn) {
        float turn[1][VECTOR];
        of.template find_turns<1>(turn, p.to, token, token + 1);
        rotate(v, turn[0]);
    }
    store(to[0], v);
}

#define KV_APPEND(suffix, T) \
    extern "C" __global__ void kv_append_##suffix(const KvAppendParams<T> p) { kv_append(p); }
FOR_EACH_DTYPE(KV_APPEND)
