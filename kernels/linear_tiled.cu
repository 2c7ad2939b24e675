// Y = X·W for tens to hundreds of rows, on Hopper's warpgroup instruction: X [M, K], W [K, N]
// row-major, with what follows the product fused (linear.cuh).
//
// At these sizes a product of a small model is bound by latency and by what the SMs can read from L2,
// not by arithmetic. One warpgroup owns a tile of 64 rows and 64 columns; where tiles are few, a
// cluster of up to eight blocks divides K, and its blocks add their f32 sums through each other's
// shared memory, in the order of their ranks. That order depends on M too, by way of the number of
// tiles, but not on the rows' content.
//
// Two blocks fit an SM: the first stages of W of the next product arrive while this one ends. A thread
// runs through most of its code once, so that fetching instructions costs more than loops do: what is
// not in the inner loop is not unrolled further than its loads need.

#include "launch.cuh"
#include "linear.cuh"
#include "wgmma.cuh"

constexpr int SIDE = 64;
constexpr int THREADS = 128;
constexpr int DEPTH = ROW_ELEMENTS;
constexpr int PIECES = DEPTH / VECTOR;
constexpr int STAGES = 6;
constexpr int MOST_SPLITS = 8;
// Of a row of sums, in floats: the rows that a store of the accumulators meets lie 8 banks apart.
constexpr int PITCH = SIDE + 8;

// One step of K, in rows as wgmma.cuh wants them: 64 rows of X and 64 columns of W. A thread copies the
// same piece of every ROWS_AT_ONCE-th row.
template <typename T>
struct alignas(EIGHT_ROWS) Stage {
    static constexpr int ROWS_AT_ONCE = THREADS / PIECES;
    static_assert(ROWS_AT_ONCE % 8 == 0);

    uint4 x[SIDE][PIECES];
    uint4 w[DEPTH][PIECES];

    __device__ void fetch_x(const LinearParams<T>& p, int first_row, int step) {
        const int row = threadIdx.x / PIECES, piece = threadIdx.x % PIECES;
        const int m = first_row + row, k = step * DEPTH + piece * VECTOR;
        const T* from = p.x + static_cast<size_t>(m) * p.k + k;
#pragma unroll
        for (int i = 0; i < SIDE; i += ROWS_AT_ONCE) {
            const bool inside = m + i < p.m && k < p.k;
            copy_async(&x[row + i][piece ^ row % 8], inside ? from + static_cast<size_t>(i) * p.k : p.x, inside);
        }
    }

    __device__ void fetch_w(const LinearParams<T>& p, int first_column, int step) {
        const int row = threadIdx.x / PIECES, piece = threadIdx.x % PIECES;
        const int k = step * DEPTH + row, n = first_column + piece * VECTOR;
        const T* from = p.w + static_cast<size_t>(k) * p.n + n;
#pragma unroll
        for (int i = 0; i < DEPTH; i += ROWS_AT_ONCE) {
            const bool inside = k + i < p.k && n < p.n;
            copy_async(&w[row + i][piece ^ row % 8], inside ? from + static_cast<size_t>(i) * p.n : p.w, inside);
        }
    }

    // Only starts the product.
    __device__ void multiply(float (&acc)[SIDE / 8][4]) const {
        begin_wgmma();
#pragma unroll
        for (int k = 0; k < DEPTH; k += 16) {
            wgmma<T>(acc, matrix_descriptor(&x[0][k / VECTOR]), matrix_descriptor(w[k]));
        }
        commit_wgmma();
    }
};

// Adds this block's part of K. `meanwhile` runs when the first copies are asked for. The ring is free for
// other use after.
template <typename T, typename Meanwhile>
__device__ void accumulate(float (&acc)[SIDE / 8][4], Stage<T>* ring, const LinearParams<T>& p,
                           const Meanwhile& meanwhile) {
    const int column = blockIdx.z * SIDE, row = blockIdx.y * SIDE;
    const int steps = (p.k + DEPTH - 1) / DEPTH, part = (steps + gridDim.x - 1) / gridDim.x;
    const int first = blockIdx.x * part, count = min(part, steps - first);
#pragma unroll 1
    for (int i = 0; i < min(STAGES, count); i++) ring[i].fetch_w(p, column, first + i);
    follow_previous_kernel();
#pragma unroll 1
    for (int i = 0; i < STAGES; i++) {
        if (i < count) ring[i].fetch_x(p, row, first + i);
        commit_copies();
    }
    meanwhile();
#pragma unroll 1
    for (int i = 0; i < count; i++) {
        wait_copies_but<STAGES - 2>();
        publish_to_wgmma();
        __syncthreads();
        ring[i % STAGES].multiply(acc);
        // Every warp is done with the step before: its stage is filled again meanwhile.
        const int next = i - 1 + STAGES;
        if (i > 0 && next < count) {
            ring[next % STAGES].fetch_w(p, column, first + next);
            ring[next % STAGES].fetch_x(p, row, first + next);
        }
        commit_copies();
        finish_wgmma();
    }
    wait_copies();
    __syncthreads();
}

template <typename T>
__device__ void linear_tiled(const LinearParams<T>& p) {
    extern __shared__ __align__(EIGHT_ROWS) unsigned char memory[];
    static_assert(SIDE * PITCH * sizeof(float) <= STAGES * sizeof(Stage<T>));
    // After the product, a thread has four columns of a row, and of every ROWS_AT_ONCE-th after it.
    constexpr int WIDTH = 4, THREADS_A_ROW = SIDE / WIDTH, ROWS_AT_ONCE = THREADS / THREADS_A_ROW, FLIGHTS = 4;
    const int own_row = threadIdx.x / THREADS_A_ROW, column = threadIdx.x % THREADS_A_ROW * WIDTH;
    const Columns<T, WIDTH> columns(p, blockIdx.z * SIDE + column);
    // Each block of the cluster finishes its share of the rows; what the first of them start from is read
    // early.
    const int splits = gridDim.x, share = SIDE / splits, first = blockIdx.x * share, end = first + share;
    const int first_row = blockIdx.y * SIDE;
    typename Columns<T, WIDTH>::Row rows[FLIGHTS];
    const auto aim = [&](int base) {
#pragma unroll
        for (auto& row : rows) row = {};
        columns.template aim<ROWS_AT_ONCE>(rows, first_row + base + own_row, first_row + end);
    };
    float acc[SIDE / 8][4] = {};
    accumulate(acc, reinterpret_cast<Stage<T>*>(memory), p, [&] { aim(first); });

    auto sums = reinterpret_cast<float(*)[PITCH]>(memory);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int j = 0; j < SIDE / 8; j++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float* to = &sums[16 * warp + 8 * half + lane / 4][8 * j + lane % 4 * 2];
            *reinterpret_cast<float2*>(to) = make_float2(acc[j][2 * half], acc[j][2 * half + 1]);
        }
    }

    splits > 1 ? cluster_barrier() : __syncthreads();
#pragma unroll 1
    for (int base = first; base < end; base += ROWS_AT_ONCE * FLIGHTS) {
        if (base > first) aim(base);
        float products[FLIGHTS][WIDTH];
#pragma unroll
        for (int i = 0; i < FLIGHTS; i++) {
            const int row = base + own_row + i * ROWS_AT_ONCE;
            sum_over_cluster<MOST_SPLITS>(products[i], &sums[row][column], row < end ? splits : 0);
        }
#pragma unroll
        for (int i = 0; i < FLIGHTS; i++) columns.finish(rows[i], products[i]);
    }
    if (splits > 1) leave_cluster();
}

#define LINEAR_TILED(suffix, T)                                                                              \
    extern "C" __global__ void __launch_bounds__(THREADS, 2) linear_tiled_##suffix(const LinearParams<T> p) { \
        linear_tiled(p);                                                                                     \
    }
LINEAR_TILED(f16, f16)
LINEAR_TILED(bf16, bf16)
