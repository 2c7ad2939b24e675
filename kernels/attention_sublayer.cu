// The attention sublayer of a small model for few rows: norm, X·W_qkv, rotary positions, K and V to their
// page, attention, and what this cluster's heads give to ·W_out (sublayer.cuh). A cluster has a KV head
// and its query heads; its eight blocks divide the channels, and each attends for one row.

#include "row_attention.cuh"

template <typename T, int D>
__device__ void attention_sublayer(const AttentionSublayerParams<T>& p) {
    using Attention = RowAttention<T, D>;
    extern __shared__ uint4 memory[];
    const int channels = p.stream.channels, part = channels / RANKS, rank = blockIdx.x, kv_head = blockIdx.y;
    const int first_row = blockIdx.z * ROWS, rows = min(ROWS, p.stream.m - first_row);
    const int group = p.query_heads / p.kv_heads, width = group * D, columns = width + 2 * D;
    const int kv_width = p.kv_heads * D, all_columns = p.query_heads * D + 2 * kv_width;
    Carver carver{reinterpret_cast<unsigned char*>(memory)};
    const Tile<T> w_qkv = carver.tile<T>(up_to(part, 16), columns);
    const Tile<T> w_out = carver.tile<T>(width, up_to(part, 16));
    const Tile<T> x = carver.tile<T>(ROWS, up_to(part, 32));
    const Tile<T> attended = carver.tile<T>(ROWS, up_to(width, 32));
    // Queries, key and value of this block's row.
    T* const own = carver.take<T>(columns);
    T* const bias = carver.take<T>(columns);
    float* const turns = carver.take<float>(D);
    float* const sums = carver.take<float>(RANKS * columns);
    float* const shared = carver.take<float>(WARPS * group * Attention::FLOATS);
    auto* const moments = reinterpret_cast<float2(*)[RANKS]>(carver.take<float2>(ROWS * RANKS));
    Barrier* const barriers = carver.take<Barrier>(5);
    const Inbox weights_in{barriers}, moments_in{barriers + 1}, sums_in{barriers + 2}, rows_in{barriers + 3};
    const Inbox turns_in{barriers + 4};

    if (threadIdx.x == 0) {
        weights_in.open_to_copies();
        turns_in.open_to_copies();
        moments_in.open(rows * RANKS * sizeof(float2));
        sums_in.open(rank < rows ? RANKS * columns * sizeof(float) : 0);
        rows_in.open(rows * width * sizeof(T));
    }
    __syncthreads();
    // Queries, keys and values.
#pragma unroll 1
    for (int i = 0; i < 3; i++) {
        const int to = i == 0 ? 0 : width + (i - 1) * D, count = i == 0 ? width : D;
        const int from = i == 0 ? kv_head * width : p.query_heads * D + (i - 1) * kv_width + kv_head * D;
        const T* const w = p.w_qkv + static_cast<size_t>(rank) * part * all_columns + from;
        w_qkv.fetch(to, w, all_columns, part, count);
        if (p.qkv_bias) fetch(bias + to, p.qkv_bias + from, count);
    }
    const T* const w = p.w_out + static_cast<size_t>(kv_head) * width * channels + rank * part;
    w_out.fetch(0, w, channels, width, part);
    weights_in.count_copies();
    StreamPart<T, 8> stream(p.stream);
    w_qkv.clear(part, up_to(part, 16));
    x.clear(0, ROWS);
    attended.clear(0, ROWS);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const Outbox moments_out(moments_in, &moments[warp][rank], lane % RANKS);
    const SumsOut sums_out(sums_in, sums, columns, rows);
    const PartOut<T> part_out(p.parts, p.stream, rows);
    const KvHead kv(kv_head, p.kv_heads, p.page_size, D);
    const int32_t* const pages = p.page_table + static_cast<int64_t>(first_row + rank) * p.page_stride;
    cluster_barrier();
    // The step's inputs and older keys and values are there when the first sublayer has waited, and no other
    // starts before.
    if (p.first) wait_for_previous_kernel();
    let_next_kernel_start();

    const int kv_start = rank < rows ? __ldcg(p.kv_start + first_row + rank) : 0;
    const int kv_len = rank < rows ? __ldcg(p.kv_len + first_row + rank) : 0;
    // A row with no KV is padding.
    Attention attention(p.kv, kv, pages, rank < rows ? p.page_stride : 0, kv_start, kv_len, group);
    const int last = max(kv_len - 1, 0);
    const int last_page = kv_len > 0 ? __ldcg(pages + kv.entry(last)) : 0;
    attention.read_ahead();
    if (p.rotary) fetch(turns, p.rotary + static_cast<size_t>(max(last - kv_start, 0)) * D, D);
    turns_in.count_copies();
    wait_for_previous_kernel();

    stream.gather();
    const float2 own_moments = stream.moments();
    if (lane < RANKS && warp < rows) moments_out.push(own_moments);
    moments_in.wait();
    stream.normalise(x.row(warp), moments[warp]);
    weights_in.wait();
    __syncthreads();
    multiply_all(x, w_qkv, columns, part, [&](int column, auto& sum) { sums_out.push(column, sum); });

    if (rank < rows) {
        T* const key = p.kv + kv.key(last_page, last);
        turns_in.wait();
        sums_in.wait();
#pragma unroll 1
        for (int column = threadIdx.x * 2; column < columns; column += THREADS * 2) {
            const float2 sum = sum_of_ranks(sums, columns, column);
            float v[2] = {sum.x, sum.y};
            if (p.qkv_bias) {
                float b[2];
                load(b, bias + column);
                v[0] += b[0], v[1] += b[1];
            }
            if (p.rotary && column < width + D) {
                float turn[2];
                load(turn, turns + column % D);
                rotate(v, turn);
            }
            store(own + column, v);
            if (column >= width && kv_len > 0) store(key + (column < width + D ? 0 : kv.value) + column % D, v);
        }
        __syncthreads();
        attention.attend(own, p.scale);
        attention.finish(shared, own);
        __syncthreads();
        push_row(rows_in, attended, own, width);
    }
    stream.write_back();
    rows_in.wait();
    multiply_all(attended, w_out, part, width, [&](int column, auto& sum) { part_out.write(column, sum); });
}

#if __CUDA_ARCH__ >= 900
#define BODY(T, D, p) attention_sublayer<T, D>(p)
#else
#define BODY(T, D, p)
#endif
// BLOCKS: at least as many find room on an SM, which costs registers.
#define ATTENTION_SUBLAYER_SIZED(suffix, T, D, BLOCKS)                                        \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)                             \
        attention_sublayer_##suffix##_d##D##_b##BLOCKS(const AttentionSublayerParams<T> p) {  \
        BODY(T, D, p);                                                                        \
    }
#define ATTENTION_SUBLAYER(suffix, T)          \
    ATTENTION_SUBLAYER_SIZED(suffix, T, 32, 2) \
    ATTENTION_SUBLAYER_SIZED(suffix, T, 64, 2) \
    ATTENTION_SUBLAYER_SIZED(suffix, T, 32, 1) \
    ATTENTION_SUBLAYER_SIZED(suffix, T, 64, 1) \
    ATTENTION_SUBLAYER_SIZED(suffix, T, 80, 1) \
    ATTENTION_SUBLAYER_SIZED(suffix, T, 128, 1)
ATTENTION_SUBLAYER(f16, f16)
ATTENTION_SUBLAYER(bf16, bf16)
