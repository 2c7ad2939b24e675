// Decode attention: one query a row over the row's KV positions, split over blocks.
//
// Bound by memory: 2·S·D·Hkv values of K and V a row, each read once for all query heads that share
// the KV head. A block of four or eight warps takes one (split, KV head, row). Where rows and heads alone
// give too few blocks to fill the GPU, the positions are divided in chunks; the blocks of a row and KV
// head are then a cluster and merge their results through each other's shared memory.
//
// A KV head that serves one query head gives products with one row, for which CUDA cores are as good
// (attention_rows.cuh). Several query heads run on tensor cores (attention_group.cuh), but in f32, which
// exists to check the other two.

#include "attention_group.cuh"
#include "attention_rows.cuh"
#include "params.cuh"

// A block's part of the work: some KV positions of a row, for the query heads of a KV head.
template <typename T, int D>
struct Share {
    int heads, first, end;
    // Of these heads, in q and out.
    int64_t offset;
    KvHead kv;
    const int32_t* pages;

    __device__ explicit Share(const AttentionDecodeParams<T>& p)
        : heads(p.query_heads / p.kv_heads),
          first(blockIdx.x * p.chunk),
          end(first + p.chunk),
          offset((static_cast<int64_t>(blockIdx.z) * p.query_heads + blockIdx.y * heads) * D),
          kv(blockIdx.y, p.kv_heads, p.page_size, D),
          pages(p.page_table + static_cast<int64_t>(blockIdx.z) * p.page_stride) {}
};

template <typename T, int D, int G>
__device__ void on_tensor_cores(Parts<G, D>& parts, const AttentionDecodeParams<T>& p, const Share<T, D>& share) {
    using Warp = GroupWarp<T, D>;
    Warp queries(p.kv, share.kv, share.pages, p.page_stride);
    const int stride = blockDim.x / 32 * Warp::STEP;
    int base = share.first + threadIdx.x / 32 * Warp::STEP, page[Warp::EIGHTS];
    // Looked up before the row's length is known: one wait less.
    queries.look_up(page, base);
    const int begin = max(p.kv_start[blockIdx.z], share.first), end = min(p.kv_len[blockIdx.z], share.end);
    queries.set_queries(p.q + share.offset, share.heads);
    if (base + Warp::STEP <= begin) {
        base += (begin - base) / stride * stride;
        queries.look_up(page, base);
    }
    queries.attend(page, base, stride, begin, end, p.scale * LOG2E);
    queries.leave(parts);
}

template <typename T, int D, int G>
__device__ void on_cuda_cores(Parts<G, D>& parts, const AttentionDecodeParams<T>& p, const Share<T, D>& share) {
    const int begin = max(p.kv_start[blockIdx.z], share.first), end = min(p.kv_len[blockIdx.z], share.end);
    Rows<T, D, G, false> queries;
#pragma unroll
    for (int g = 0; g < G; g++) {
        queries.set_query(g, g < share.heads ? p.q + share.offset + g * D : nullptr, p.scale);
    }
    queries.attend(p.kv, share.kv, share.pages, begin, end);
    queries.leave(parts);
}

template <typename T, int D, int G>
__device__ void attention_decode(const AttentionDecodeParams<T>& p) {
    __shared__ Parts<G, D> parts;
    const Share<T, D> share(p);
    follow_previous_kernel();
    if constexpr (G == 1 || sizeof(T) == 4) {
        on_cuda_cores(parts, p, share);
    } else {
        on_tensor_cores(parts, p, share);
    }
    __syncthreads();

    // Short code, since every launch fetches it anew: nothing here is unrolled.
    const int pieces = share.heads * D / 4, threads = blockDim.x, split = blockIdx.x, splits = gridDim.x;
    T* const out = p.out + share.offset;
#pragma unroll 1
    for (int i = threadIdx.x; i < pieces; i += threads) {
        const Part part = parts.of_block(i);
        splits > 1 ? parts.publish(i, part) : store_result(out + 4 * i, part);
    }
    if (splits == 1) return;
    cluster_barrier();
#pragma unroll 1
    for (int i = threadIdx.x * splits + split; i < pieces; i += threads * splits) {
        store_result(out + 4 * i, parts.of_cluster(i, splits));
    }
    leave_cluster();
}

// Blocks of eight warps that an SM's registers must hold: two, or as many of four warps as one of eight
// where that takes too many registers. Three of the narrow heads on CUDA cores, which ask for least.
constexpr int least_blocks(int element_bytes, int head_dim, int group) {
    if (element_bytes == 4 || (head_dim > 80 && group > 1)) return 1;
    return head_dim <= 64 && group == 1 ? 3 : 2;
}

#define ATTENTION_DECODE_SIZED(suffix, T, D, G)                                          \
    extern "C" __global__ void __launch_bounds__(256, least_blocks(sizeof(T), D, G))     \
        attention_decode_##suffix##_d##D##_g##G(const AttentionDecodeParams<T> p) {      \
        attention_decode<T, D, G>(p);                                                    \
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
    ATTENTION_DECODE_GROUPS(suffix, T, 128)
FOR_EACH_DTYPE(ATTENTION_DECODE)
