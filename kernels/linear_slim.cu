// Y = X·W for tens of rows of a small W, on Hopper's warpgroup instruction: X [M, K], W [K, N]
// row-major, with what follows the product fused (linear.cuh).
//
// Such a product is a chain of latencies, and this kernel has the shortest: a block's whole part of K
// lies in shared memory, so that every copy is asked for at once, nothing is waited for twice, and K
// up to 768 needs no cluster. A block owns 64 columns and only 16 or 32 rows, since all that comes
// after the previous kernel has ended is X. W is the operand with the instruction's 64 rows, turned,
// and X the one with the columns. Beyond 768, a cluster divides K and adds its f32 sums as in
// linear_tiled.cu. How K is divided depends on K alone, so that a row has the same bits whatever M.
//
// Each scheduler of an SM has one warp: an instruction costs its latency, and far more where no block
// on the SM has run it lately. Addresses are therefore made once, and all four products of a layer had
// better run through the same code.

#include "launch.cuh"
#include "linear.cuh"
#include "wgmma_rows.cuh"

constexpr int SIDE = 64;
constexpr int THREADS = 128;
constexpr int DEPTH = ROW_ELEMENTS;
constexpr int PIECES = DEPTH / VECTOR;
constexpr int MOST_SPLITS = 8;
// A block's steps of K, and those that are waited for at once: their products run while others arrive.
constexpr int MOST_STEPS = 12;
constexpr int ROUND = 4;
constexpr int ROUNDS = MOST_STEPS / ROUND;
// Of a row of sums, in floats: the rows that a store of the accumulators meets lie 8 banks apart.
constexpr int PITCH = SIDE + 4;

// One step of K, in rows as wgmma.cuh wants them.
template <typename T, int ROWS>
struct alignas(EIGHT_ROWS) Stage {
    uint4 w[DEPTH][PIECES];
    uint4 x[ROWS][PIECES];

    // Only starts the product.
    __device__ void multiply(float (&acc)[ROWS / 8][4]) const {
        begin_wgmma();
#pragma unroll
        for (int k = 0; k < DEPTH; k += 16) {
            wgmma_turned<T>(acc, matrix_descriptor(w[k]), matrix_descriptor(&x[0][k / VECTOR]), 1);
        }
        commit_wgmma();
    }
};

// A block's part of K, and what one thread copies of it: the same piece of every ROWS_AT_ONCE-th row of
// each step.
template <typename T, int ROWS>
struct Part {
    static constexpr int ROWS_AT_ONCE = THREADS / PIECES;

    const int row = threadIdx.x / PIECES, piece = threadIdx.x % PIECES, place = piece ^ row % 8;
    const int m, n, pitch_x, pitch_w;
    int count, k_left;
    const T *x, *w;

    __device__ explicit Part(const LinearParams<T>& p)
        : m(p.m - blockIdx.y * ROWS - row), n(p.n - blockIdx.z * SIDE - piece * VECTOR), pitch_x(p.k), pitch_w(p.n) {
        const int steps = (p.k + DEPTH - 1) / DEPTH, part = (steps + gridDim.x - 1) / gridDim.x;
        const int first = blockIdx.x * part;
        count = max(0, min(part, steps - first));
        k_left = p.k - first * DEPTH;
        // Where nothing is inside, a copy that reads nothing still names an address.
        x = p.x + (m > 0 && piece * VECTOR < k_left ? static_cast<size_t>(p.m - m) * p.k + first * DEPTH + piece * VECTOR : 0);
        w = p.w + (n > 0 && row < k_left ? static_cast<size_t>(first * DEPTH + row) * p.n + p.n - n : 0);
    }

    __device__ void fetch_w(Stage<T, ROWS>* stages, int round) const {
#pragma unroll
        for (int step = round * ROUND; step < (round + 1) * ROUND; step++) {
            if (step >= count) break;
#pragma unroll
            for (int i = 0; i < DEPTH; i += ROWS_AT_ONCE) {
                const int k = step * DEPTH + i;
                const bool inside = k + row < k_left && n > 0;
                copy_async(&stages[step].w[row + i][place], w + (inside ? static_cast<size_t>(k) * pitch_w : 0), inside);
            }
        }
    }

    __device__ void fetch_x(Stage<T, ROWS>* stages, int round) const {
#pragma unroll
        for (int step = round * ROUND; step < (round + 1) * ROUND; step++) {
            if (step >= count) break;
#pragma unroll
            for (int i = 0; i < ROWS; i += ROWS_AT_ONCE) {
                const int k = step * DEPTH;
                const bool inside = k + piece * VECTOR < k_left && i < m;
                copy_async(&stages[step].x[row + i][place], x + (inside ? static_cast<size_t>(i) * pitch_x + k : 0), inside);
            }
        }
    }
};

// Adds this block's part of K. `meanwhile` runs when all copies are asked for. The stages are free for
// other use after.
template <typename T, int ROWS, typename Meanwhile>
__device__ void accumulate(float (&acc)[ROWS / 8][4], Stage<T, ROWS>* stages, const LinearParams<T>& p,
                           const Meanwhile& meanwhile) {
    const Part<T, ROWS> part(p);
#pragma unroll 1
    for (int round = 0; round < ROUNDS; round++) part.fetch_w(stages, round);
    follow_previous_kernel();
#pragma unroll 1
    for (int round = 0; round < ROUNDS; round++) {
        part.fetch_x(stages, round);
        commit_copies();
    }
    meanwhile();
#pragma unroll 1
    for (int round = 0; round * ROUND < part.count; round++) {
        static_assert(ROUNDS == 3);
        if (round == 0) {
            wait_copies_but<2>();
        } else if (round == 1) {
            wait_copies_but<1>();
        } else {
            wait_copies();
        }
        publish_to_wgmma();
        __syncthreads();
#pragma unroll 1
        for (int step = round * ROUND; step < min(part.count, (round + 1) * ROUND); step++) stages[step].multiply(acc);
    }
    finish_wgmma();
    __syncthreads();
}

template <typename T, int ROWS>
__device__ void linear_slim(const LinearParams<T>& p) {
    extern __shared__ __align__(EIGHT_ROWS) unsigned char memory[];
    static_assert(ROWS * PITCH * sizeof(float) <= sizeof(Stage<T, ROWS>));
    // After the product, a thread has four columns of a row, and of every ROWS_AT_ONCE-th after it.
    constexpr int WIDTH = 4, THREADS_A_ROW = SIDE / WIDTH, ROWS_AT_ONCE = THREADS / THREADS_A_ROW;
    constexpr int FLIGHTS = ROWS / ROWS_AT_ONCE;
    const int own_row = threadIdx.x / THREADS_A_ROW, column = threadIdx.x % THREADS_A_ROW * WIDTH;
    const Columns<T, WIDTH> columns(p, blockIdx.z * SIDE + column);
    // Each block of the cluster finishes its share of the rows; what they start from is read early.
    const int splits = gridDim.x, share = ROWS / splits, first = blockIdx.x * share, end = first + share;
    const int first_row = blockIdx.y * ROWS;
    typename Columns<T, WIDTH>::Row rows[FLIGHTS];
    float acc[ROWS / 8][4] = {};
    accumulate<T, ROWS>(acc, reinterpret_cast<Stage<T, ROWS>*>(memory), p, [&] {
        columns.template aim<ROWS_AT_ONCE>(rows, first_row + first + own_row, first_row + end);
    });

    auto sums = reinterpret_cast<float(*)[PITCH]>(memory);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int j = 0; j < ROWS / 8; j++) {
#pragma unroll
        for (int i = 0; i < 4; i++) sums[8 * j + lane % 4 * 2 + i % 2][16 * warp + lane / 4 + i / 2 * 8] = acc[j][i];
    }
    splits > 1 ? cluster_barrier() : __syncthreads();
    float products[FLIGHTS][WIDTH];
#pragma unroll
    for (int i = 0; i < FLIGHTS; i++) {
        const int row = first + own_row + i * ROWS_AT_ONCE;
        const float* from = &sums[min(row, ROWS - 1)][column];
        if (splits == 1) {
            load(products[i], from);
        } else {
            sum_over_cluster<MOST_SPLITS>(products[i], from, row < end ? splits : 0);
        }
    }
#pragma unroll
    for (int i = 0; i < FLIGHTS; i++) columns.finish(rows[i], products[i]);
    if (splits > 1) leave_cluster();
}

#define LINEAR_SLIM(suffix, T, ROWS)                                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS, 2) linear_slim_##suffix##_m##ROWS(const LinearParams<T> p) { \
        linear_slim<T, ROWS>(p);                                                                              \
    }
LINEAR_SLIM(f16, f16, 16)
LINEAR_SLIM(f16, f16, 32)
LINEAR_SLIM(bf16, bf16, 16)
LINEAR_SLIM(bf16, bf16, 32)
