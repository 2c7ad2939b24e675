// Causal attention of packed queries over the pages: prompts, chunks of prompts, mixed steps.
//
// f16 and bf16 follow FlashAttention-2 (Dao 2023) on tensor cores: a warp owns 16 queries of one head
// and keeps them, their output and their online softmax in registers; the block's warps share tiles
// of 64 KV positions, which cp.async brings from the pages two stages deep. Nothing of size S×S
// exists. Only tiles that the diagonal or the left padding crosses are masked, tiles above the
// diagonal are never read, and blocks with the most tiles start first.
//
// f32 has no tensor-core product of f32 accuracy; it runs the CUDA-core rows of
// attention_rows.cuh over 8 consecutive queries of a head. It exists to check the other two.
//
// Query i of row b stands at KV index kv_len − query_len + i. A query with no key to see gives zeros.

#include "attention_rows.cuh"
#include "launch.cuh"
#include "mma.cuh"
#include "params.cuh"

constexpr int WARP_QUERIES = 16;
constexpr int TILE = 64;
constexpr int STAGES = 2;
constexpr int F32_QUERIES = 8;
constexpr int F32_THREADS = 128;

// One row's part of the step.
struct RowSpan {
    int64_t first_token;
    int query_len, kv_start;
    // KV index of query 0; negative for a padding row of a captured graph.
    int offset;

    template <typename T>
    __device__ RowSpan(const AttentionPrefillParams<T>& p, int row)
        : first_token(p.query_start[row]),
          query_len(p.query_start[row + 1] - p.query_start[row]),
          kv_start(p.kv_start[row]),
          offset(p.kv_len[row] - query_len) {}
};

// The first query of this block; the last tile of queries, which has the most keys, comes first.
__device__ inline int first_query(int block_queries) { return (gridDim.x - 1 - blockIdx.x) * block_queries; }

// K and V of one tile of KV positions. Rows are padded by 16 bytes: an odd number of 16-byte pieces,
// so that the eight rows of an ldmatrix lie in different banks for every D.
template <typename T, int D>
struct Tile {
    static constexpr int PITCH = D + 8;
    T k[TILE][PITCH];
    T v[TILE][PITCH];

    // Starts copying positions first .. first + TILE; those outside [begin, end) become zeros, so
    // that a masked weight of zero never meets a NaN.
    __device__ void fetch(const AttentionPrefillParams<T>& p, const KvHead& kv, const int32_t* pages, int first, int begin, int end) {
        constexpr int PIECES = D / 8;
#pragma unroll 4
        for (int i = threadIdx.x; i < TILE * PIECES; i += blockDim.x) {
            const int r = i / PIECES, column = i % PIECES * 8, j = first + r;
            const bool visible = j >= begin && j < end;
            const T* from = p.kv + (visible ? kv.key(pages[kv.entry(j)], j) : 0) + column;
            copy_async(&k[r][column], from, visible);
            copy_async(&v[r][column], from + (visible ? kv.value : 0), visible);
        }
    }
};

// A warp's 16 queries. A lane holds parts of queries g and g + 8 (see mma.cuh), called 0 and 1 below.
template <typename T, int D>
struct WarpQueries {
    uint32_t q[D / 16][4];
    float out[D / 8][4];
    float max[2], sum[2];

    // `first` is the lane's token of query g; `rows` how many of the 16 queries exist.
    __device__ WarpQueries(const T* first, int64_t token_stride, int rows) {
        const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
        for (int kk = 0; kk < D / 16; kk++) {
#pragma unroll
            for (int part = 0; part < 4; part++) {
                const int row = g + part % 2 * 8, column = kk * 16 + part / 2 * 8 + 2 * t;
                q[kk][part] = row < rows ? *reinterpret_cast<const uint32_t*>(first + row * token_stride + column) : 0;
            }
        }
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) out[n][i] = 0.0f;
        }
        max[0] = max[1] = -INFINITY;
        sum[0] = sum[1] = 0.0f;
    }

    // s = q · Kᵀ, 16 queries × TILE positions.
    __device__ void scores(float (&s)[TILE / 8][4], const Tile<T, D>& tile) const {
        const int lane = threadIdx.x % 32;
        const int row = lane / 16 * 8 + lane % 8, column = lane / 8 % 2 * 8;
#pragma unroll
        for (int n = 0; n < TILE / 8; n++) s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0.0f;
#pragma unroll
        for (int kk = 0; kk < D / 16; kk++) {
#pragma unroll
            for (int n = 0; n < TILE / 16; n++) {
                uint32_t k[4];
                load_matrices(k, &tile.k[n * 16 + row][kk * 16 + column]);
                mma<T>(s[2 * n], q[kk], k[0], k[1]);
                mma<T>(s[2 * n + 1], q[kk], k[2], k[3]);
            }
        }
    }

    // Hides the keys outside [begin, KV index of the query]; `tile_first` and `query_index` are KV
    // indices of the tile's first position and of the warp's first query.
    __device__ static void mask(float (&s)[TILE / 8][4], int tile_first, int query_index, int begin) {
        const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
        for (int n = 0; n < TILE / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int j = tile_first + n * 8 + 2 * t + i % 2;
                if (j < begin || j > query_index + g + i / 2 * 8) s[n][i] = -INFINITY;
            }
        }
    }

    // One step of the online softmax: s becomes the weights 2^((s − max)·scale), `scale` with log₂e.
    __device__ void softmax(float (&s)[TILE / 8][4], float scale) {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float top = max[r];
#pragma unroll
            for (int n = 0; n < TILE / 8; n++) top = fmaxf(top, fmaxf(s[n][2 * r], s[n][2 * r + 1]));
            top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
            top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
            // All keys masked so far: 2^(−∞ − 0) is 0, where −∞ − −∞ would be NaN.
            const float from = top == -INFINITY ? 0.0f : top * scale;
            const float factor = exp2_approx(max[r] * scale - from);
            max[r] = top;
            sum[r] *= factor;
#pragma unroll
            for (int n = 0; n < TILE / 8; n++) {
#pragma unroll
                for (int i = 2 * r; i < 2 * r + 2; i++) {
                    s[n][i] = exp2_approx(s[n][i] * scale - from);
                    sum[r] += s[n][i];
                }
            }
#pragma unroll
            for (int n = 0; n < D / 8; n++) {
                out[n][2 * r] *= factor;
                out[n][2 * r + 1] *= factor;
            }
        }
    }

    // out += weights · V. The accumulator layout of two neighbouring score blocks is the A layout.
    __device__ void accumulate(const float (&s)[TILE / 8][4], const Tile<T, D>& tile) {
        const int lane = threadIdx.x % 32;
        const int row = lane / 8 % 2 * 8 + lane % 8, column = lane / 16 * 8;
#pragma unroll
        for (int kk = 0; kk < TILE / 16; kk++) {
            const uint32_t weights[4] = {
                pack<T>(s[2 * kk][0], s[2 * kk][1]), pack<T>(s[2 * kk][2], s[2 * kk][3]),
                pack<T>(s[2 * kk + 1][0], s[2 * kk + 1][1]), pack<T>(s[2 * kk + 1][2], s[2 * kk + 1][3])};
#pragma unroll
            for (int n = 0; n < D / 16; n++) {
                uint32_t v[4];
                load_matrices_transposed(v, &tile.v[kk * 16 + row][n * 16 + column]);
                mma<T>(out[2 * n], weights, v[0], v[1]);
                mma<T>(out[2 * n + 1], weights, v[2], v[3]);
            }
        }
    }

    __device__ void write(T* first, int64_t token_stride, int rows) {
        const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            // A lane summed its own columns; the row's four lanes make the whole.
            float total = sum[r];
            total += __shfl_xor_sync(0xffffffffu, total, 1);
            total += __shfl_xor_sync(0xffffffffu, total, 2);
            const float inverse = total > 0.0f ? 1.0f / total : 0.0f;
            if (g + 8 * r >= rows) continue;
            T* to = first + (g + 8 * r) * token_stride + 2 * t;
#pragma unroll
            for (int n = 0; n < D / 8; n++) {
                *reinterpret_cast<uint32_t*>(to + n * 8) = pack<T>(out[n][2 * r] * inverse, out[n][2 * r + 1] * inverse);
            }
        }
    }
};

template <typename T, int D>
__device__ void attention_prefill(const AttentionPrefillParams<T>& p) {
    follow_previous_kernel();
    extern __shared__ __align__(16) unsigned char shared[];
    Tile<T, D>* const tiles = reinterpret_cast<Tile<T, D>*>(shared);

    const int head = blockIdx.y, row = blockIdx.z;
    const RowSpan span(p, row);
    const int block_queries = blockDim.x / 32 * WARP_QUERIES;
    const int block_first = first_query(block_queries);
    if (block_first >= span.query_len) return;

    const int warp_first = block_first + threadIdx.x / 32 * WARP_QUERIES;
    const int warp_rows = min(WARP_QUERIES, span.query_len - warp_first);
    const int64_t token_stride = static_cast<int64_t>(p.query_heads) * D;
    const int64_t at = (span.first_token + warp_first) * token_stride + head * D;
    WarpQueries<T, D> queries(p.q + at, token_stride, warp_rows);

    const KvHead kv(head * p.kv_heads / p.query_heads, p.kv_heads, p.page_size, D);
    const int32_t* const pages = p.page_table + static_cast<int64_t>(row) * p.page_stride;
    const int begin = span.kv_start;
    const int end = span.offset + min(block_first + block_queries, span.query_len);
    const int warp_index = span.offset + warp_first;

    int first = begin / TILE * TILE;
    if (begin < end) tiles[0].fetch(p, kv, pages, first, begin, end);
    for (int stage = 0; begin < end && first < end; first += TILE, stage = (stage + 1) % STAGES) {
        wait_copies();
        // Also: every warp is done with the stage that is filled next.
        __syncthreads();
        if (first + TILE < end) tiles[(stage + 1) % STAGES].fetch(p, kv, pages, first + TILE, begin, end);
        // No query of this warp reaches the tile, or there is no query.
        if (warp_rows <= 0 || first > warp_index + warp_rows - 1) continue;
        float s[TILE / 8][4];
        queries.scores(s, tiles[stage]);
        if (first < begin || first + TILE - 1 > warp_index) queries.mask(s, first, warp_index, begin);
        queries.softmax(s, p.scale * LOG2E);
        queries.accumulate(s, tiles[stage]);
    }
    queries.write(p.out + at, token_stride, warp_rows);
}

template <int D>
__device__ void attention_prefill_f32(const AttentionPrefillParams<float>& p) {
    follow_previous_kernel();
    using Queries = Rows<float, D, F32_QUERIES, true>;
    __shared__ Parts<F32_QUERIES, D> parts;
    const int head = blockIdx.y, row = blockIdx.z;
    const RowSpan span(p, row);
    const int first = first_query(F32_QUERIES);
    if (first >= span.query_len) return;
    const int64_t token_stride = static_cast<int64_t>(p.query_heads) * D;
    const int64_t at = (span.first_token + first) * token_stride + head * D;

    Queries queries;
#pragma unroll
    for (int g = 0; g < F32_QUERIES; g++) {
        queries.set_query(g, first + g < span.query_len ? p.q + at + g * token_stride : nullptr, p.scale);
    }
    const KvHead kv(head * p.kv_heads / p.query_heads, p.kv_heads, p.page_size, D);
    const int32_t* const pages = p.page_table + static_cast<int64_t>(row) * p.page_stride;
    const int end = span.offset + min(first + F32_QUERIES, span.query_len);
    queries.attend(p.kv, kv, pages, span.kv_start, end, span.offset + first);
    queries.leave(parts);
    __syncthreads();
    for (int i = threadIdx.x; i < F32_QUERIES * D / 4; i += F32_THREADS) {
        const int g = i / (D / 4), d = i % (D / 4) * 4;
        if (first + g < span.query_len) store_result(p.out + at + g * token_stride + d, parts.of_block(i));
    }
}

// Two blocks an SM: 8 warps a block up to D = 64, 4 above, where the registers hold no more.
#define ATTENTION_PREFILL_SIZED(suffix, T, D)                                  \
    extern "C" __global__ void __launch_bounds__((D) <= 64 ? 256 : 128, 2)     \
        attention_prefill_##suffix##_d##D(const AttentionPrefillParams<T> p) { \
        attention_prefill<T, D>(p);                                            \
    }
#define ATTENTION_PREFILL(suffix, T)        \
    ATTENTION_PREFILL_SIZED(suffix, T, 32)  \
    ATTENTION_PREFILL_SIZED(suffix, T, 64)  \
    ATTENTION_PREFILL_SIZED(suffix, T, 80)  \
    ATTENTION_PREFILL_SIZED(suffix, T, 128)
ATTENTION_PREFILL(f16, f16)
ATTENTION_PREFILL(bf16, bf16)

#define ATTENTION_PREFILL_F32(D)                                               \
    extern "C" __global__ void __launch_bounds__(F32_THREADS)                 \
        attention_prefill_f32_d##D(const AttentionPrefillParams<float> p) {    \
        attention_prefill_f32<D>(p);                                           \
    }
ATTENTION_PREFILL_F32(32)
ATTENTION_PREFILL_F32(64)
ATTENTION_PREFILL_F32(80)
ATTENTION_PREFILL_F32(128)
