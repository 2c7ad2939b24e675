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
// on the SM has run it lately. The copy engine therefore brings X and W, a box each for a step of K, and
// all four products of a layer had better run through the same code.

#include "launch.cuh"
#include "linear.cuh"
#include "tma.cuh"
#include "wgmma_rows.cuh"

constexpr int SIDE = 64;
constexpr int THREADS = 128;
constexpr int DEPTH = ROW_ELEMENTS;
constexpr int PIECES = DEPTH / VECTOR;
static_assert(SIDE == PIECES * VECTOR, "a step of W is as wide as it is deep");

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

// Adds this block's part of K. `meanwhile` runs when all copies are asked for. The stages are free for
// other use after.
template <typename T, int ROWS, typename Meanwhile>
__device__ void accumulate(float (&acc)[ROWS / 8][4], Stage<T, ROWS>* stages, const BoxedLinearParams<T>& p,
                           const Meanwhile& meanwhile) {
    const int steps = (p.linear.k + DEPTH - 1) / DEPTH, part = (steps + gridDim.x - 1) / gridDim.x;
    const int first = blockIdx.x * part, count = max(0, min(part, steps - first));
    Barrier* arrived = reinterpret_cast<Barrier*>(stages + part);
    // A thread for each step brings all of it.
    const int step = threadIdx.x, k = (first + step) * DEPTH;
    const bool brings = step < count;
    if (brings) {
        arrived[step].init(1);
        Barrier::publish();
        arrived[step].expect(sizeof(Stage<T, ROWS>));
        copy_box(stages[step].w, p.w, k, blockIdx.z * SIDE, arrived[step]);
        fetch_map(p.x);
    }
    __syncthreads();
    follow_previous_kernel();
    if (brings) copy_box(stages[step].x, p.x, blockIdx.y * ROWS, k, arrived[step]);
    meanwhile();
#pragma unroll 1
    for (int i = 0; i < count; i++) {
        arrived[i].wait(0);
        stages[i].multiply(acc);
    }
    finish_wgmma();
    __syncthreads();
}

template <typename T, int ROWS>
__device__ void linear_slim(const BoxedLinearParams<T>& p) {
    constexpr int MOST_SPLITS = 8;
    // Of a row of sums, in floats: the rows that a store of the accumulators meets lie 8 banks apart.
    constexpr int PITCH = SIDE + 4;
    extern __shared__ __align__(EIGHT_ROWS) unsigned char memory[];
    static_assert(ROWS * PITCH * sizeof(float) <= sizeof(Stage<T, ROWS>));
    // After the product, a thread has four columns of a row, and of every ROWS_AT_ONCE-th after it.
    constexpr int WIDTH = 4, THREADS_A_ROW = SIDE / WIDTH, ROWS_AT_ONCE = THREADS / THREADS_A_ROW;
    constexpr int FLIGHTS = ROWS / ROWS_AT_ONCE;
    const int own_row = threadIdx.x / THREADS_A_ROW, column = threadIdx.x % THREADS_A_ROW * WIDTH;
    const Columns<T, WIDTH> columns(p.linear, blockIdx.z * SIDE + column);
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

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define RUN(T, ROWS) linear_slim<T, ROWS>(p)
#else
#define RUN(T, ROWS) __trap()
#endif
#define LINEAR_SLIM(suffix, T, ROWS)                                                     \
    extern "C" __global__ void __launch_bounds__(THREADS, 2)                             \
        linear_slim_##suffix##_m##ROWS(const __grid_constant__ BoxedLinearParams<T> p) { \
        RUN(T, ROWS);                                                                    \
    }
LINEAR_SLIM(f16, f16, 16)
LINEAR_SLIM(f16, f16, 32)
LINEAR_SLIM(bf16, bf16, 16)
LINEAR_SLIM(bf16, bf16, 32)
