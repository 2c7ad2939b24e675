// attention_prefill on Hopper, for f16 and bf16 and heads of 64 and 128: FlashAttention-3's scheme (Shah
// et al. 2024) over the pages.
//
// A block stays on its SM and takes one tile of queries of one row and head after the other. One of its
// warpgroups only brings what is needed (attention_pipeline.cuh); the others own 64 queries each, with
// their output and online softmax in registers. wgmma reads the queries, K and V from shared memory and
// the weights from registers. The product of a tile's weights with V runs beside the next tile's scores
// and their softmax, also from one work to the next, so that the tensor cores wait for no softmax but a
// block's first.
//
// Tiles of KV positions are taken from the last to the first. Only those that the diagonal or the left
// padding crosses are masked. Query i of row b stands at KV index kv_len − query_len + i. A query with no
// key to see gives zeros.

#include "attention_pipeline.cuh"
#include "launch.cuh"
#include "softmax.cuh"

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
// Tells the compiler that a value is the same in all of the warp: what it addresses then needs no
// registers of each lane.
__device__ inline int uniform(int value) { return __shfl_sync(0xffffffffu, value, 0); }

// The descriptor of what lies some bytes further.
__device__ inline uint64_t beyond(uint64_t descriptor, uint32_t bytes) { return descriptor + bytes / 16; }

// A warpgroup's 64 queries. A lane holds parts of queries g and g + 8 of its warp (see mma.cuh), called 0
// and 1 below.
template <typename Pipeline>
struct Consumer {
    using T = typename Pipeline::Element;
    static constexpr int D = Pipeline::D, TILE = Pipeline::TILE, PLACES = Pipeline::PLACES, STAGES = Pipeline::STAGES;

    const AttentionPrefillParams<T>& p;
    Pipeline& memory;
    const int group;
    const uint64_t keys, values;
    const float scale;

    // Scores of the present tile, then their weights; the same rounded, of the tile before until its
    // product has ended.
    float s[TILE / 8][4];
    uint32_t weights[TILE / 16][4];
    float out[D / 8][4];
    float max[2], sum[2];
    // By which the new maximum multiplies older sums.
    float factor[2];
    // Tiles so far; tile n of K and of V lies in stage n % STAGES.
    uint32_t step = 0;
    // Whether weights have yet to meet their tile of V, and which; whether they are the first of theirs
    // that do. The work that they and `out` belong to.
    bool owing = false, fresh = true;
    uint32_t owed = 0, of = 0;
    // The positions of that tile that exist.
    int owed_begin = 0, owed_end = TILE;

    __device__ Consumer(const AttentionPrefillParams<T>& p, Pipeline& memory, int group)
        : p(p),
          memory(memory),
          group(group),
          keys(matrix_descriptor(memory.k)),
          values(matrix_descriptor(memory.v, TILE * 2 * ROW_ELEMENTS)),
          // Scores are in base 2.
          scale(p.scale * LOG2E) {
        max[0] = max[1] = -INFINITY;
        sum[0] = sum[1] = 0.0f;
    }

    // What the warpgroup's queries of a work are, and where they stand.
    struct View {
        uint64_t q;
        Barrier& q_free;
        // KV index of the first query, of the keys that exist, and of the first tile, which comes last.
        int index, begin, end, first;
    };

    __device__ void run() {
#pragma unroll 1
        for (uint32_t n = 0;; n++) {
            memory.q_full[n % PLACES].wait(n / PLACES & 1);
            const Work& work = memory.works[n % WORKS];
            if (uniform(work.row) < 0) break;
            const int first_query = uniform(work.first_query) + group * GROUP_QUERIES;
            const int rows = min(GROUP_QUERIES, uniform(work.query_len) - first_query);
            const View view = {matrix_descriptor(memory.q[n % PLACES][group]), memory.q_free[n % PLACES],
                               uniform(work.offset) + first_query, uniform(work.begin), uniform(work.end),
                               uniform(work.first)};
            int at = uniform(work.last);
            // Its last tile that these queries see; none before view.first.
            const int last_index = view.index + rows - 1;
            const int own_last = rows > 0 ? min(view.first + (last_index - view.first) / TILE * TILE, at) : -1;
            // What is owed holds a stage of V, and the description of its work.
            if (own_last < view.first || at - own_last >= STAGES * TILE) settle();
#pragma unroll 1
            for (; at >= view.first && at > own_last; at -= TILE) pass(view, at);
            if (at >= view.first) {
                uniform(owing) ? follow<true>(view, at) : start(view, at);
                of = n;
#pragma unroll 1
                for (at -= TILE; at >= view.first; at -= TILE) follow<false>(view, at);
            }
            done_with(view.q_free, own_last < view.first);
        }
        settle();
    }

    // A tile that none of these queries sees.
    __device__ void pass(const View& view, int first) {
        const int at = step % STAGES, parity = step / STAGES & 1;
        memory.k_full[at].wait(parity);
        done_with(memory.k_free[at]);
        memory.v_full[at].wait(parity);
        clear_missing(step, view.begin - first, view.end - first);
        done_with(memory.v_free[at]);
        step++;
    }

    // A tile with nothing beside it.
    __device__ void start(const View& view, int first) {
        start_scores(view.q);
        finish_wgmma();
        hold(s);
        done_with(memory.k_free[step % STAGES]);
        done_with(view.q_free, first == view.first);
        mask(view, first);
        softmax();
        round_weights();
        owing = true;
        owe(view, first);
    }

    // A tile, and beside it the product with V of the tile before, which may end the work before.
    template <bool NEW_WORK>
    __device__ void follow(const View& view, int first) {
        start_scores(view.q);
        start_values();
        finish_wgmma_but<1>();
        hold(s);
        done_with(memory.k_free[step % STAGES]);
        done_with(view.q_free, first == view.first);
        mask(view, first);
        float inverse[2];
        if (NEW_WORK) close_sums(inverse);
        softmax();
        finish_wgmma();
        hold(out);
        done_with(memory.v_free[owed % STAGES]);
        multiply(NEW_WORK ? inverse : factor);
        if (NEW_WORK) write();
        round_weights();
        owe(view, first);
    }

    __device__ void owe(const View& view, int first) {
        owed = step++;
        owed_begin = view.begin - first;
        owed_end = view.end - first;
    }

    // The product with V that is owed, with nothing beside it.
    __device__ void settle() {
        if (!uniform(owing)) return;
        start_values();
        finish_wgmma();
        hold(out);
        done_with(memory.v_free[owed % STAGES]);
        float inverse[2];
        close_sums(inverse);
        multiply(inverse);
        write();
        owing = false;
    }

    // When all of the warp is, if so.
    __device__ static void done_with(Barrier& place, bool so = true) {
        __syncwarp();
        if (threadIdx.x % 32 == 0 && so) place.arrive();
    }

    // s = q · Kᵀ, 64 queries × TILE positions.
    __device__ void start_scores(uint64_t q) {
        memory.k_full[step % STAGES].wait(step / STAGES & 1);
        const uint64_t k = beyond(keys, step % STAGES * sizeof(memory.k[0]));
        hold(s);
        begin_wgmma();
#pragma unroll
        for (int c = 0; c < D; c += 16) {
            const int half = c / ROW_ELEMENTS, bytes = c % ROW_ELEMENTS * sizeof(T);
            const uint64_t part = beyond(q, half * sizeof(memory.q[0][0][0]) + bytes);
            wgmma_scores<T, TILE>(s, part, beyond(k, half * sizeof(memory.k[0][0]) + bytes), c > 0);
        }
        commit_wgmma();
    }

    // out = or += weights · V.
    __device__ void start_values() {
        memory.v_full[owed % STAGES].wait(owed / STAGES & 1);
        clear_missing(owed, owed_begin, owed_end);
        if (owed_begin > 0 || owed_end < TILE) memory.v_clear[owed % STAGES].wait(owed / STAGES & 1);
        const uint64_t v = beyond(values, owed % STAGES * sizeof(memory.v[0]));
        hold(out);
        begin_wgmma();
#pragma unroll
        for (int r = 0; r < TILE; r += 16) {
            wgmma_values<T, D>(out, weights[r / 16], beyond(v, r * sizeof(memory.v[0][0][0])), r > 0 || !fresh);
        }
        commit_wgmma();
        fresh = false;
    }

    // Zeros where tile n of V has no position: a weight of zero must not meet a NaN. The first warpgroup
    // writes them, whether it multiplies the tile or passes it; who multiplies waits for them.
    __device__ void clear_missing(uint32_t n, int begin, int end) {
        constexpr int PIECES = ROW_ELEMENTS / VECTOR;
        if (group == 0 && (begin > 0 || end < TILE)) {
#pragma unroll 1
            for (int i = threadIdx.x % WARPGROUP; i < TILE * PIECES; i += WARPGROUP) {
                const int row = i / PIECES;
                if (row >= begin && row < end) continue;
#pragma unroll
                for (auto& half : memory.v[n % STAGES]) reinterpret_cast<uint4*>(half)[i] = make_uint4(0, 0, 0, 0);
            }
            publish_to_wgmma();
        }
        done_with(memory.v_clear[n % STAGES], group == 0);
    }

    // Hides the keys after each query and those before the first; `first` is the tile's first position.
    __device__ void mask(const View& view, int first) {
        const int lane = threadIdx.x % 32, warp = threadIdx.x % WARPGROUP / 32;
        if (first + TILE - 1 > view.index) {
            const int own = view.index - first + warp * 16 + lane / 4 - lane % 4 * 2;
            hide([own](int j, int r) { return j > own + r * 8; });
        }
        if (first < view.begin) {
            const int begin = view.begin - first - lane % 4 * 2;
            hide([begin](int j, int) { return j < begin; });
        }
    }
    template <typename Hidden>
    __device__ void hide(Hidden hidden) {
#pragma unroll
        for (int n = 0; n < TILE / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                if (hidden(n * 8 + i % 2, i / 2)) s[n][i] = -INFINITY;
            }
        }
    }

    // One step of the online softmax: s becomes the weights 2^((s − max)·scale).
    __device__ void softmax() {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            // Two chains, of even and of odd columns: half the latency.
            float top = max[r], odd_top = s[0][2 * r + 1];
#pragma unroll
            for (int n = 0; n < TILE / 8; n++) {
                top = fmaxf(top, s[n][2 * r]);
                odd_top = fmaxf(odd_top, s[n][2 * r + 1]);
            }
            top = fmaxf(top, odd_top);
            top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
            top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
            // All keys masked so far: 2^(−∞ − 0) is 0, where −∞ − −∞ would be NaN.
            const float from = top == -INFINITY ? 0.0f : top * scale;
            factor[r] = exp2_approx(max[r] * scale - from);
            max[r] = top;
            float even = 0.0f, odd = 0.0f;
#pragma unroll
            for (int n = 0; n < TILE / 8; n++) {
                even += s[n][2 * r] = exp2_approx(s[n][2 * r] * scale - from);
                odd += s[n][2 * r + 1] = exp2_approx(s[n][2 * r + 1] * scale - from);
            }
            sum[r] = sum[r] * factor[r] + (even + odd);
        }
    }

    // The accumulator layout of two neighbouring blocks of scores is the A layout.
    __device__ void round_weights() {
#pragma unroll
        for (int n = 0; n < TILE / 16; n++) {
            weights[n][0] = pack<T>(s[2 * n][0], s[2 * n][1]);
            weights[n][1] = pack<T>(s[2 * n][2], s[2 * n][3]);
            weights[n][2] = pack<T>(s[2 * n + 1][0], s[2 * n + 1][1]);
            weights[n][3] = pack<T>(s[2 * n + 1][2], s[2 * n + 1][3]);
        }
    }

    __device__ void multiply(const float (&by)[2]) {
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) out[n][i] *= by[i / 2];
        }
    }

    // Ends a softmax: one over its sums, and the next starts anew.
    __device__ void close_sums(float (&inverse)[2]) {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            // A lane summed its own columns; the row's four lanes make the whole.
            float total = sum[r];
            total += __shfl_xor_sync(0xffffffffu, total, 1);
            total += __shfl_xor_sync(0xffffffffu, total, 2);
            inverse[r] = total > 0.0f ? 1.0f / total : 0.0f;
            max[r] = -INFINITY;
            sum[r] = 0.0f;
        }
    }

    // The four lanes of a row exchange what they hold of four blocks of 8 columns, so that each writes
    // one block.
    __device__ void write() {
        const Work& work = memory.works[of % WORKS];
        const int lane = threadIdx.x % 32, t = lane % 4;
        const int query = work.first_query + group * GROUP_QUERIES + threadIdx.x % WARPGROUP / 32 * 16 + lane / 4;
        const int64_t stride = static_cast<int64_t>(p.query_heads) * D;
        T* const to = p.out + (work.first_token + query) * stride + work.head * D + t * 8;
#pragma unroll
        for (int r = 0; r < 2; r++) {
#pragma unroll
            for (int n = 0; n < D / 8; n += 4) {
                uint32_t w[4];
#pragma unroll
                for (int i = 0; i < 4; i++) w[i] = pack<T>(out[n + i][2 * r], out[n + i][2 * r + 1]);
                exchange<1>(w, t);
                exchange<2>(w, t);
                if (query + 8 * r < work.query_len) *reinterpret_cast<uint4*>(to + 8 * r * stride + n * 8) = make_uint4(w[0], w[1], w[2], w[3]);
            }
        }
        fresh = true;
    }

    // One of the two steps that transpose four words in each of four lanes.
    template <int BIT>
    __device__ static void exchange(uint32_t (&w)[4], int t) {
        const bool upper = t & BIT;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (i & BIT) continue;
            uint32_t &mine = w[i], &other = w[i | BIT];
            const uint32_t got = __shfl_xor_sync(0xffffffffu, upper ? mine : other, BIT);
            (upper ? mine : other) = got;
        }
    }
};
#endif

// KV positions of a tile.
constexpr int TILE_POSITIONS = 128;

// See Producer::bring_queries.
__device__ int32_t taken[2];

template <typename T, typename Pipeline, int FEW_REGISTERS, int MANY_REGISTERS>
__device__ void attention_prefill_wgmma(const AttentionPrefillWgmmaParams<T>& params) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ __align__(EIGHT_ROWS) unsigned char shared[];
    Pipeline& memory = *reinterpret_cast<Pipeline*>(shared);
    if (threadIdx.x == 0) memory.init();
    __syncthreads();
    follow_previous_kernel();
    const int warp = uniform(threadIdx.x / 32);
    if (warp < WARPGROUP / 32) {
        give_registers<FEW_REGISTERS>();
        Producer<Pipeline> producer(params, memory);
        if (warp == 0) producer.bring_queries(taken);
        if (warp == 1) producer.bring_keys();
        if (warp == 2) producer.bring_values();
        if (warp == 3) producer.write_zeros();
    } else {
        take_registers<MANY_REGISTERS>();
        Consumer<Pipeline>(params.attention, memory, warp / (WARPGROUP / 32) - 1).run();
    }
#endif
}

// `Form` in src/runner/cuda/ops/attention_prefill_wgmma.rs has the same numbers: consumers, places of
// queries and stages of K and V.
#define ATTENTION_PREFILL_WGMMA_SIZED(suffix, T, D, GROUPS, PLACES, STAGES, FEW, MANY)                      \
    extern "C" __global__ void __launch_bounds__((GROUPS + 1) * WARPGROUP, 1)                               \
        attention_prefill_wgmma_##suffix##_d##D##_g##GROUPS(                                                \
            const __grid_constant__ AttentionPrefillWgmmaParams<T> p) {                                     \
        attention_prefill_wgmma<T, Pipeline<T, D, GROUPS, TILE_POSITIONS, PLACES, STAGES>, FEW, MANY>(p);   \
    }
#define ATTENTION_PREFILL_WGMMA(suffix, T)                          \
    ATTENTION_PREFILL_WGMMA_SIZED(suffix, T, 64, 2, 2, 4, 40, 232)  \
    ATTENTION_PREFILL_WGMMA_SIZED(suffix, T, 64, 3, 1, 4, 32, 160)  \
    ATTENTION_PREFILL_WGMMA_SIZED(suffix, T, 128, 2, 2, 2, 40, 232)
ATTENTION_PREFILL_WGMMA(f16, f16)
ATTENTION_PREFILL_WGMMA(bf16, bf16)
