// The head in one pass: X·Eᵀ of the last tokens, X [M, K] and the vocabulary's E [V, K] row-major, and of
// each row of X the lowest index of the largest logit; or the f32 logits themselves, where they are
// wanted. For Hopper.
//
// Bound by E, which is read once; with f32 logits of 256 rows in between, writing and reading them would
// cost as much again. E's rows are the rows of the tensor core's tile and X's its columns, so that few
// rows of X cost little. One warp asks for tiles of both by tensor copies, several stages ahead, E's
// first ones before the previous kernel has ended; two warpgroups multiply. A block goes on from
// tile to tile with the best logit of each row in registers. In the end the blocks meet in one 64-bit
// maximum a row, and the last block to arrive writes the tokens. A maximum does not depend on the order
// in which it is taken.

#include "launch.cuh"
#include "logits.cuh"
#include "params.cuh"
#include "tma.cuh"
#include "wgmma_rows.cuh"

constexpr int DEPTH = ROW_ELEMENTS;
constexpr int GROUP_THREADS = 128;
constexpr int GROUP_ROWS = 64;
// Warpgroups that multiply.
constexpr int GROUPS = 2;
constexpr int TILE = GROUPS * GROUP_ROWS;
constexpr int MULTIPLYING = GROUPS * GROUP_THREADS;

// Orders as (value, lower index first) does. No value is NaN, and −0 equals 0.
__device__ inline unsigned long long key_of(const Best& best) {
    const uint32_t bits = __float_as_uint(best.value + 0.0f);
    const uint32_t ordered = bits >> 31 ? ~bits : bits | 1u << 31;
    return static_cast<unsigned long long>(ordered) << 32 | ~static_cast<uint32_t>(best.index);
}
__device__ inline int index_of(unsigned long long key) { return static_cast<int>(~static_cast<uint32_t>(key)); }

// Merges the columns that a lane and its partner hold. Each keeps one half of them, or all of one.
template <int LANES_APART, int COLUMNS, int KEPT>
__device__ inline void merge_lanes(Best (&kept)[KEPT], const Best (&best)[COLUMNS]) {
    static_assert(KEPT == (COLUMNS > 1 ? COLUMNS / 2 : 1));
    const bool upper = threadIdx.x & LANES_APART;
#pragma unroll
    for (int i = 0; i < KEPT; i++) {
        kept[i] = upper ? best[COLUMNS - KEPT + i] : best[i];
        const Best other = upper ? best[i] : best[COLUMNS - KEPT + i];
        const float value = __shfl_xor_sync(0xffffffffu, other.value, LANES_APART);
        const int index = __shfl_xor_sync(0xffffffffu, other.index, LANES_APART);
        kept[i].merge(value, index);
    }
}

// Up to ROWS of X, `p.rows`, by TILE rows of E. What a stage has after them was never written; it reaches
// only columns that no one reads.
template <typename T, int ROWS, int STAGES>
struct Head {
    // Accumulators take most of the registers that a thread can have: those that copy, then a whole
    // warpgroup, leave theirs to those that multiply.
    static constexpr bool WIDE = ROWS > 128;
    static constexpr int THREADS = MULTIPLYING + (WIDE ? GROUP_THREADS : 32);
    // Columns of a thread: of its accumulators, and after each merge with another lane.
    static constexpr int HELD = ROWS / 4;
    static constexpr int MERGED_ONCE = HELD > 1 ? HELD / 2 : 1;
    static constexpr int MERGED_TWICE = MERGED_ONCE > 1 ? MERGED_ONCE / 2 : 1;
    static constexpr int KEPT = MERGED_TWICE > 1 ? MERGED_TWICE / 2 : 1;

    // One step of K, in rows as wgmma.cuh wants them.
    struct alignas(EIGHT_ROWS) Stage {
        T e[TILE][DEPTH];
        T x[ROWS][DEPTH];
    };
    struct Shared {
        Stage ring[STAGES];
        Barrier full[STAGES], empty[STAGES];
        bool is_last;
    };
    using Accumulators = float[ROWS / 8][4];

    const HeadParams<T>& p;
    Shared& shared;
    // Steps of K, tiles of E, and the rows of X from first_row on.
    const int steps, tiles, first_row, rows;

    __device__ Head(const HeadParams<T>& p, Shared& shared)
        : p(p), shared(shared), steps((p.k + DEPTH - 1) / DEPTH), tiles((p.vocab + TILE - 1) / TILE),
          first_row(blockIdx.y * p.rows), rows(min(p.rows, p.m - first_row)) {}

    __device__ void run() {
        if (threadIdx.x == 0) {
            for (int i = 0; i < STAGES; i++) {
                shared.full[i].init(1);
                shared.empty[i].init(GROUPS);
            }
            Barrier::publish();
        }
        __syncthreads();
        if (threadIdx.x < MULTIPLYING) {
            if constexpr (WIDE) take_registers<240>();
            multiply();
        } else {
            if constexpr (WIDE) give_registers<24>();
            if (threadIdx.x == MULTIPLYING) copy();
        }
    }

    __device__ void copy() {
        const int own_tiles = (tiles - 1 - static_cast<int>(blockIdx.x)) / static_cast<int>(gridDim.x) + 1;
        const int count = own_tiles * steps, ahead = min(STAGES, count);
        const auto copy_e = [&](int i) {
            shared.full[i % STAGES].expect(sizeof(Stage::e) + p.rows * sizeof(Stage::x[0]));
            const int tile = blockIdx.x + i / steps * gridDim.x;
            copy_box(shared.ring[i % STAGES].e, p.e, tile * TILE, i % steps * DEPTH, shared.full[i % STAGES]);
        };
        const auto copy_x = [&](int i) {
            copy_box(shared.ring[i % STAGES].x, p.x, first_row, i % steps * DEPTH, shared.full[i % STAGES]);
        };
        for (int i = 0; i < ahead; i++) copy_e(i);
        follow_previous_kernel();
        for (int i = 0; i < ahead; i++) copy_x(i);
        for (int i = ahead; i < count; i++) {
            shared.empty[i % STAGES].wait(i / STAGES - 1 & 1);
            copy_e(i);
            copy_x(i);
        }
    }

    __device__ void multiply() {
        follow_previous_kernel();
        const int group = threadIdx.x / GROUP_THREADS, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        Best best[KEPT];
        int i = 0;
#pragma unroll 1
        for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
            Accumulators acc;
#pragma unroll 1
            for (int step = 0; step < steps; step++, i++) {
                const Stage& stage = shared.ring[i % STAGES];
                shared.full[i % STAGES].wait(i / STAGES & 1);
                begin_wgmma();
                const uint64_t e = matrix_descriptor(stage.e[group * GROUP_ROWS]), x = matrix_descriptor(stage.x);
                // 16 elements on in K are 32 bytes, which a descriptor counts in units of 16.
#pragma unroll
                for (int k = 0; k < DEPTH / 16; k++) wgmma_rows<T>(acc, e + 2 * k, x + 2 * k, step + k);
                commit_wgmma();
                finish_wgmma_but<1>();
                if (step > 0) release(i - 1);
            }
            finish_wgmma_but<0>();
            release(i - 1);
            const int word = tile * TILE + warp * 16 + lane / 4;
            if (p.logits) {
                write(acc, word);
            } else {
                improve(best, acc, word);
            }
        }
        if (!p.logits) finish(best);
    }

    __device__ void release(int i) {
        if (threadIdx.x % GROUP_THREADS == 0) shared.empty[i % STAGES].arrive();
    }

    // A thread has the logits of `word` and of the eighth word after it.
    __device__ void write(const Accumulators& acc, int word) const {
#pragma unroll
        for (int j = 0; j < ROWS / 8; j++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int row = 8 * j + threadIdx.x % 4 * 2 + i % 2, v = word + i / 2 * 8;
                float* to = p.logits + static_cast<size_t>(first_row + row) * p.stride + v;
                if (row < rows && v < p.vocab) *to = acc[j][i];
            }
        }
    }

    // Tiles come in ascending order, so that of equal logits the earlier stays.
    __device__ void improve(Best (&best)[KEPT], const Accumulators& acc, int word) const {
        Best held[HELD], once[MERGED_ONCE], twice[MERGED_TWICE], merged[KEPT];
#pragma unroll
        for (int c = 0; c < HELD; c++) {
            if (word < p.vocab) held[c].offer(word, acc[c / 2][c % 2]);
            if (word + 8 < p.vocab) held[c].offer(word + 8, acc[c / 2][c % 2 + 2]);
        }
        merge_lanes<16>(once, held);
        merge_lanes<8>(twice, once);
        merge_lanes<4>(merged, twice);
#pragma unroll
        for (int c = 0; c < KEPT; c++) best[c].offer(merged[c].index, merged[c].value);
    }

    // The row of the tile that best[c] is of.
    static __device__ int row_of(int c) {
        const int lane = threadIdx.x % 32;
        if (HELD > 1 && lane & 16) c += MERGED_ONCE;
        if (MERGED_ONCE > 1 && lane & 8) c += MERGED_TWICE;
        if (MERGED_TWICE > 1 && lane & 4) c += KEPT;
        return c / 2 * 8 + lane % 4 * 2 + c % 2;
    }

    // Warps meet in shared memory, where the ring was, and blocks in `p.best`, whose first word counts
    // the blocks that have arrived. The last block leaves zeros there for the next launch.
    __device__ void finish(const Best (&best)[KEPT]) {
        auto keys = reinterpret_cast<unsigned long long(*)[ROWS]>(shared.ring);
        static_assert(MULTIPLYING / 32 * ROWS * sizeof(keys[0][0]) <= sizeof(shared.ring));
        auto met = reinterpret_cast<unsigned long long*>(p.best) + 1;
        meet();
#pragma unroll
        for (int c = 0; c < KEPT; c++) keys[threadIdx.x / 32][row_of(c)] = key_of(best[c]);
        meet();
        for (int row = threadIdx.x; row < rows; row += MULTIPLYING) {
            unsigned long long key = 0;
#pragma unroll
            for (int warp = 0; warp < MULTIPLYING / 32; warp++) key = max(key, keys[warp][row]);
            atomicMax(met + first_row + row, key);
        }
        __threadfence();
        meet();
        if (threadIdx.x == 0) shared.is_last = atomicAdd(met - 1, 1ull) + 1 == gridDim.x * gridDim.y;
        meet();
        if (!shared.is_last) return;
        __threadfence();
        int32_t* const host_out = *p.host_out;
        for (int m = threadIdx.x; m < p.m; m += MULTIPLYING) {
            p.out[m] = host_out[m] = index_of(__ldcg(met + m));
            met[m] = 0;
        }
        if (threadIdx.x == 0) met[-1] = 0;
    }

    // A barrier of the threads that multiply.
    static __device__ void meet() { asm volatile("bar.sync 1, %0;" ::"n"(MULTIPLYING) : "memory"); }
};

// The sizes are those of TILES in src/runner/cuda/ops/head.rs.
template <typename T, int ROWS, int STAGES>
__device__ void head(const HeadParams<T>& p) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    using Head = ::Head<T, ROWS, STAGES>;
    extern __shared__ __align__(EIGHT_ROWS) unsigned char memory[];
    Head(p, *reinterpret_cast<typename Head::Shared*>(memory)).run();
#endif
}

#define HEAD(suffix, T, ROWS, STAGES)                                                         \
    extern "C" __global__ void __launch_bounds__((Head<T, ROWS, STAGES>::THREADS), 1)         \
        head_##suffix##_m##ROWS(const __grid_constant__ HeadParams<T> p) {                    \
        head<T, ROWS, STAGES>(p);                                                             \
    }
#define HEADS(suffix, T)    \
    HEAD(suffix, T, 8, 12)  \
    HEAD(suffix, T, 16, 11) \
    HEAD(suffix, T, 32, 10) \
    HEAD(suffix, T, 64, 8)  \
    HEAD(suffix, T, 128, 6) \
    HEAD(suffix, T, 160, 6) \
    HEAD(suffix, T, 192, 5) \
    HEAD(suffix, T, 224, 5) \
    HEAD(suffix, T, 256, 4)
HEADS(f16, f16)
HEADS(bf16, bf16)
