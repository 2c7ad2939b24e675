// attention_prefill on Hopper: FlashAttention-3's scheme (Shah et al. 2024) over the pages, for f16
// and bf16 and heads of 64 or 128.
#include "launch.cuh"
#include "params.cuh"
#include "softmax.cuh"
#include "tma.cuh"
#include "wgmma.cuh"

constexpr int WARPGROUP = 128;
constexpr int GROUP_QUERIES = 64;

// A ring of barriers' place: which stage, and the parity of its phase.
template <int STAGES>
struct Place {
    int stage = 0;
    uint32_t parity = 0;
    __device__ void advance() {
        if (++stage == STAGES) stage = 0, parity ^= 1;
    }
};

template <typename T, int D, int GROUPS, int TILE, int STAGES>
struct alignas(EIGHT_ROWS) Shared {
    static constexpr int HALVES = D / ROW_ELEMENTS;
    // Rows of 64 columns; a head of 128 has its two halves one after the other.
    using Matrix = T[HALVES][TILE][ROW_ELEMENTS];
    T q[GROUPS][HALVES][GROUP_QUERIES][ROW_ELEMENTS];
    Matrix k[STAGES];
    Matrix v[STAGES];
    Barrier k_full[STAGES], k_free[STAGES], v_full[STAGES], v_free[STAGES], arrived;
};

// What a block works on.
struct Work {
    int head, row, first_query, query_len;
    int64_t first_token;
    // KV index of query 0 and the visible keys.
    int offset, begin, end;
};

template <typename T>
__device__ inline bool find_work(Work& w, const AttentionPrefillParams<T>& p, int queries, int index, int at_once) {
    const int tiles = (p.max_query_len + queries - 1) / queries, lines = p.rows * p.query_heads;
    const int group = index / (at_once * tiles), within = index % (at_once * tiles);
    const int width = min(at_once, lines - group * at_once);
    const int line = group * at_once + within % width;
    w.row = line / p.query_heads, w.head = line % p.query_heads;
    w.first_query = (tiles - 1 - within / width) * queries;
    w.first_token = p.query_start[w.row];
    w.query_len = p.query_start[w.row + 1] - p.query_start[w.row];
    if (w.first_query >= w.query_len) return false;
    w.begin = p.kv_start[w.row];
    w.end = p.kv_len[w.row];
    w.offset = w.end - w.query_len;
    return true;
}

__device__ inline void group_barrier(int id) { asm volatile("bar.sync %0, 128;" ::"r"(id) : "memory"); }
__device__ inline void pair_sync(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
__device__ inline void pair_arrive(int id, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
template <typename T, int D, int GROUPS, int TILE, int STAGES>
struct Producer {
    using Memory = Shared<T, D, GROUPS, TILE, STAGES>;
    const AttentionPrefillParams<T>& p;
    const TensorMap& map;
    Memory& memory;
    const Work& work;
    const int32_t* pages;
    int kv_head;

    // Starts the copy of a tile's boxes; those with no visible position are left out. By one warp.
    __device__ void fetch(typename Memory::Matrix& to, int first, int value, Barrier& done) {
        const int lane = threadIdx.x % 32, box = min(p.page_size, TILE), boxes = TILE / box;
        const int low = max(work.begin - first, 0) / box, high = (min(work.end - first, TILE) + box - 1) / box;
        if (lane == 0) done.expect((high - low) * box * D * static_cast<int>(sizeof(T)));
        __syncwarp();
        const int shift = 31 - __clz(p.page_size);
        for (int i = lane; i < boxes * Memory::HALVES; i += 32) {
            const int b = i % boxes, half = i / boxes, j = first + b * box;
            if (b < low || b >= high) continue;
            const int page = pages[j >> shift];
            const int row = (((page * 2 + value) * p.kv_heads + kv_head) << shift) + (j & (p.page_size - 1));
            copy_box(to[half][b * box], map, row, half * ROW_ELEMENTS, done);
        }
    }

    // Zeros where no visible position lies, so that a weight of zero never meets a NaN.
    __device__ void clear(typename Memory::Matrix& v, int first) {
        constexpr int PIECES = ROW_ELEMENTS / 8;
        const int lane = threadIdx.x % 32;
        for (int i = lane; i < TILE * PIECES; i += 32) {
            const int r = i / PIECES, j = first + r;
            if (j >= work.begin && j < work.end) continue;
            for (int half = 0; half < Memory::HALVES; half++) reinterpret_cast<uint4*>(v[half][r])[i % PIECES] = make_uint4(0, 0, 0, 0);
        }
    }

    __device__ void run(int first_tile, int last_tile) {
        Place<STAGES> k, v;
        uint32_t cleared = 0;
        auto keys = [&](int tile) {
            memory.k_free[k.stage].wait(k.parity ^ 1);
            fetch(memory.k[k.stage], tile * TILE, 0, memory.k_full[k.stage]);
            k.advance();
        };
        keys(last_tile);
        for (int tile = last_tile; tile >= first_tile; tile--) {
            if (tile > first_tile) keys(tile - 1);
            const int first = tile * TILE;
            memory.v_free[v.stage].wait(v.parity ^ 1);
            if (first >= work.begin && first + TILE <= work.end) {
                fetch(memory.v[v.stage], first, 1, memory.v_full[v.stage]);
            } else {
                fetch(memory.v[v.stage], first, 1, memory.arrived);
                memory.arrived.wait(cleared);
                cleared ^= 1;
                clear(memory.v[v.stage], first);
                publish_to_wgmma();
                __syncwarp();
                if (threadIdx.x % 32 == 0) memory.v_full[v.stage].arrive();
            }
            v.advance();
        }
    }
};

template <typename T, int D, int GROUPS, int TILE, int STAGES, bool TURNS>
struct Consumer {
    using Memory = Shared<T, D, GROUPS, TILE, STAGES>;
    float s[TILE / 8][4];
    uint32_t weights[TILE / 16][4];
    float out[D / 8][4];
    float max[2], sum[2];
    float factor[2];

    // Brings the warpgroup's queries; rows past the last become zeros.
    __device__ static void fetch_queries(T (&q)[Memory::HALVES][GROUP_QUERIES][ROW_ELEMENTS], const T* first, int64_t stride, int rows) {
        constexpr int PIECES = D / 8;
        const int thread = threadIdx.x % WARPGROUP;
#pragma unroll
        for (int i = 0; i < GROUP_QUERIES * PIECES; i += WARPGROUP) {
            const int r = (i + thread) / PIECES, piece = (i + thread) % PIECES;
            T* to = &q[piece / 8][r][(piece % 8 ^ r % 8) * 8];
            copy_async(to, first + (r < rows ? r * stride : 0) + piece * 8, r < rows);
        }
        wait_copies();
        publish_to_wgmma();
    }

    __device__ void scores(const T (&q)[Memory::HALVES][GROUP_QUERIES][ROW_ELEMENTS], const typename Memory::Matrix& k) {
        hold(s);
        begin_wgmma();
#pragma unroll
        for (int c = 0; c < D; c += 16) {
            const int half = c / ROW_ELEMENTS, column = c % ROW_ELEMENTS;
            wgmma_scores<T, TILE>(s, matrix_descriptor(&q[half][0][column]), matrix_descriptor(&k[half][0][column]), c > 0);
        }
        commit_wgmma();
    }

    __device__ void values(const typename Memory::Matrix& v) {
        hold(out);
        begin_wgmma();
#pragma unroll
        for (int r = 0; r < TILE; r += 16) {
            wgmma_values<T, D>(out, weights[r / 16], matrix_descriptor(v[0][r], sizeof(v[0])));
        }
        commit_wgmma();
    }

    __device__ void mask(int first, int query_index, int begin) {
        const int lane = threadIdx.x % 32;
        const int own = query_index + lane / 4 - first - lane % 4 * 2, low = begin - first - lane % 4 * 2;
#pragma unroll
        for (int n = 0; n < TILE / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int j = n * 8 + i % 2;
                if (j < low || j > own + i / 2 * 8) s[n][i] = -INFINITY;
            }
        }
    }

    __device__ void softmax(float scale) {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float top = max[r];
#pragma unroll
            for (int n = 0; n < TILE / 8; n++) top = fmaxf(top, fmaxf(s[n][2 * r], s[n][2 * r + 1]));
            top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
            top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
            const float from = top == -INFINITY ? 0.0f : top * scale;
            factor[r] = exp2_approx(max[r] * scale - from);
            max[r] = top;
            float part = 0.0f;
#pragma unroll
            for (int n = 0; n < TILE / 8; n++) {
#pragma unroll
                for (int i = 2 * r; i < 2 * r + 2; i++) {
                    s[n][i] = exp2_approx(s[n][i] * scale - from);
                    part += s[n][i];
                }
            }
            sum[r] = sum[r] * factor[r] + part;
        }
    }

    __device__ void round_weights() {
#pragma unroll
        for (int n = 0; n < TILE / 16; n++) {
            weights[n][0] = pack<T>(s[2 * n][0], s[2 * n][1]);
            weights[n][1] = pack<T>(s[2 * n][2], s[2 * n][3]);
            weights[n][2] = pack<T>(s[2 * n + 1][0], s[2 * n + 1][1]);
            weights[n][3] = pack<T>(s[2 * n + 1][2], s[2 * n + 1][3]);
        }
    }

    __device__ void rescale() {
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) out[n][i] *= factor[i / 2];
        }
    }

    __device__ void run(const AttentionPrefillParams<T>& p, Memory& memory, const Work& work, int first_tile, int last_tile) {
        const int group = threadIdx.x / WARPGROUP - 1, lane = threadIdx.x % 32, warp = threadIdx.x % WARPGROUP / 32;
        const int group_first = work.first_query + group * GROUP_QUERIES;
        const int rows = min(GROUP_QUERIES, work.query_len - group_first);
        const int64_t stride = static_cast<int64_t>(p.query_heads) * D;
        const int64_t at = (work.first_token + group_first) * stride + work.head * D;
        auto& q = memory.q[group];
        const bool turns = TURNS && GROUPS > 1;
        const int own_turn = 8 + group, next_turn = 8 + (group + 1) % GROUPS;
        if (turns && group == GROUPS - 1) pair_arrive(8, 2 * WARPGROUP);

        fetch_queries(q, p.q + at, stride, rows);
        group_barrier(1 + group);
#pragma unroll
        for (int n = 0; n < D / 8; n++) out[n][0] = out[n][1] = out[n][2] = out[n][3] = 0.0f;
        max[0] = max[1] = -INFINITY;
        sum[0] = sum[1] = 0.0f;

        const float scale = p.scale * LOG2E;
        const int group_index = work.offset + group_first, own_last = rows > 0 ? (group_index + rows - 1) / TILE : -1;
        const int warp_index = group_index + warp * 16;
        auto free_stage = [&](Barrier& barrier) {
            if (lane == 0) barrier.arrive();
        };
        Place<STAGES> k, v;
        int tile = last_tile;
        // Tiles that none of these queries sees.
        for (; tile >= first_tile && tile > own_last; tile--) {
            memory.k_full[k.stage].wait(k.parity);
            free_stage(memory.k_free[k.stage]);
            k.advance();
            memory.v_full[v.stage].wait(v.parity);
            free_stage(memory.v_free[v.stage]);
            v.advance();
            if (turns && tile > first_tile) {
                pair_sync(own_turn, 2 * WARPGROUP);
                pair_arrive(next_turn, 2 * WARPGROUP);
            }
        }
        if (tile >= first_tile) {
            memory.k_full[k.stage].wait(k.parity);
            scores(q, memory.k[k.stage]);
            finish_wgmma();
            hold(s);
            free_stage(memory.k_free[k.stage]);
            k.advance();
            if (tile * TILE + TILE - 1 > group_index || tile * TILE < work.begin) mask(tile * TILE, warp_index, work.begin);
            softmax(scale);
            round_weights();
#pragma unroll 1
            for (tile--; tile >= first_tile; tile--) {
                memory.k_full[k.stage].wait(k.parity);
                if (turns) pair_sync(own_turn, 2 * WARPGROUP);
                scores(q, memory.k[k.stage]);
                memory.v_full[v.stage].wait(v.parity);
                values(memory.v[v.stage]);
                if (turns) pair_arrive(next_turn, 2 * WARPGROUP);
                finish_wgmma_but<1>();
                hold(s);
                free_stage(memory.k_free[k.stage]);
                k.advance();
                if (tile * TILE + TILE - 1 > group_index || tile * TILE < work.begin) mask(tile * TILE, warp_index, work.begin);
                softmax(scale);
                finish_wgmma();
                hold(out);
                free_stage(memory.v_free[v.stage]);
                v.advance();
                rescale();
                round_weights();
            }
            memory.v_full[v.stage].wait(v.parity);
            values(memory.v[v.stage]);
            finish_wgmma();
            hold(out);
            free_stage(memory.v_free[v.stage]);
        }
        write(q, p.out + at, stride, rows, 1 + group);
    }

    // Through the queries' place in shared memory, so that whole rows are written.
    __device__ void write(T (&q)[Memory::HALVES][GROUP_QUERIES][ROW_ELEMENTS], T* first, int64_t stride, int rows, int barrier) {
        const int lane = threadIdx.x % 32, warp = threadIdx.x % WARPGROUP / 32, g = lane / 4, t = lane % 4;
        group_barrier(barrier);
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float total = sum[r];
            total += __shfl_xor_sync(0xffffffffu, total, 1);
            total += __shfl_xor_sync(0xffffffffu, total, 2);
            const float inverse = total > 0.0f ? 1.0f / total : 0.0f;
            const int row = warp * 16 + g + 8 * r;
#pragma unroll
            for (int n = 0; n < D / 8; n++) {
                T* to = &q[n / 8][row][(n % 8 ^ row % 8) * 8 + 2 * t];
                *reinterpret_cast<uint32_t*>(to) = pack<T>(out[n][2 * r] * inverse, out[n][2 * r + 1] * inverse);
            }
        }
        __syncwarp();
        constexpr int PIECES = D / 8;
#pragma unroll
        for (int i = 0; i < 16 * PIECES; i += 32) {
            const int row = warp * 16 + (i + lane) / PIECES, piece = (i + lane) % PIECES;
            if (row < rows) {
                *reinterpret_cast<uint4*>(first + row * stride + piece * 8) =
                    *reinterpret_cast<const uint4*>(&q[piece / 8][row][(piece % 8 ^ row % 8) * 8]);
            }
        }
    }
};
#endif

template <int REGISTERS>
__device__ inline void take_registers() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
#endif
}
template <int REGISTERS>
__device__ inline void give_registers() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
#endif
}

template <typename T, int D, int GROUPS, int TILE, int STAGES, bool TURNS, int LESS, int MORE>
__device__ void attention_prefill_wgmma(const TensorMap& map, const AttentionPrefillParams<T>& p, int at_once) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    using Memory = Shared<T, D, GROUPS, TILE, STAGES>;
    extern __shared__ __align__(EIGHT_ROWS) unsigned char bytes[];
    Memory& memory = *reinterpret_cast<Memory*>(bytes);
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            memory.k_full[i].init(1), memory.v_full[i].init(1);
            memory.k_free[i].init(GROUPS * 4), memory.v_free[i].init(GROUPS * 4);
        }
        memory.arrived.init(1);
        Barrier::publish();
    }
    follow_previous_kernel();
    Work work;
    if (!find_work(work, p, GROUPS * GROUP_QUERIES, blockIdx.x, at_once)) return;
    __syncthreads();
    const int last_index = work.offset + min(work.first_query + GROUPS * GROUP_QUERIES, work.query_len) - 1;
    // An empty range where no query sees a key.
    const int first_tile = work.begin / TILE, last_tile = last_index < work.begin ? first_tile - 1 : last_index / TILE;
    if (threadIdx.x < WARPGROUP) {
        give_registers<LESS>();
        if (threadIdx.x < 32 && last_tile >= first_tile) {
            const int32_t* pages = p.page_table + static_cast<int64_t>(work.row) * p.page_stride;
            Producer<T, D, GROUPS, TILE, STAGES> producer{p, map, memory, work, pages, work.head * p.kv_heads / p.query_heads};
            producer.run(first_tile, last_tile);
        }
    } else {
        take_registers<MORE>();
        Consumer<T, D, GROUPS, TILE, STAGES, TURNS> consumer;
        consumer.run(p, memory, work, first_tile, last_tile);
    }
#endif
}
