// Y = X·W for few rows: X [M, K], W [K, N] row-major, M up to 32, with what follows the product
// fused (linear.cuh).
//
// Bound by reading W once. A block owns 32 or 64 columns and its four warps divide K; where columns give
// fewer blocks than there are SMs, a cluster of up to eight blocks divides K further and its blocks add
// their sums through each other's shared memory. 64 columns are whole lines of 128 bytes of each row of
// W, which memory delivers faster; of a small W, 32 make more blocks. All sums are f32, in an order that
// depends on N, K and the GPU alone: not on M, nor on the other rows.
//
// W's tile is the A operand of mma.m16n8k16 and X the B operand, so that 8 rows cost what one does.
// Each warp streams through its own ring of 32-deep stages by cp.async and meets the others only at
// the end. The stages of W that fit the ring are asked for before the previous kernel has ended.

#include "launch.cuh"
#include "linear.cuh"
#include "mma.cuh"

constexpr int DEPTH = 32;
constexpr int WARPS = 4;
constexpr int THREADS = 32 * WARPS;
constexpr int STAGES = 4;
constexpr int MOST_SPLITS = 8;

// One step of a warp: 32 rows of W, 32 columns of X.
//
// The sum over K may run in any order, so K is permuted within a stage such that a lane's B operands
// of two mma, X[g] at 8t … 8t + 7 (g = lane / 4, t = lane % 4), are 16 neighbouring bytes: the first
// mma takes 8t … 8t + 3 and the second 8t + 4 … 8t + 7. `ldmatrix` permutes W to match, for free:
// its lanes name the rows.
template <typename T, int ROWS, int COLUMNS>
struct Stage {
    static constexpr int PIECES = COLUMNS / VECTOR;

    uint4 w[DEPTH][PIECES];
    uint4 x[ROWS][DEPTH / VECTOR];

    // Where a 16-byte piece of row r of W lies: without bank conflicts for the rows 0, 1, 8, 9, 16, 17,
    // 24, 25 that one ldmatrix meets. Of 64-byte rows, an even and an odd one fill the banks by themselves.
    static __device__ int place(int r, int piece) { return piece ^ (PIECES == 4 ? r / 8 : r / 8 * 2 + r % 2); }

    __device__ void fetch_w(const LinearParams<T>& p, int column, int step) {
        constexpr int ROWS_AT_ONCE = 32 / PIECES;
        const int row = threadIdx.x % 32 / PIECES, piece = threadIdx.x % PIECES;
        const int k = step * DEPTH + row, n = column + piece * VECTOR;
        const T* from = p.w + static_cast<size_t>(k) * p.n + n;
#pragma unroll
        for (int i = 0; i < DEPTH; i += ROWS_AT_ONCE) {
            const bool inside = k + i < p.k && n < p.n;
            copy_async(&w[i + row][place(i + row, piece)], inside ? from + static_cast<size_t>(i) * p.n : p.w, inside);
        }
    }

    __device__ void fetch_x(const LinearParams<T>& p, int step) {
        const int lane = threadIdx.x % 32, m = lane / 4, k = step * DEPTH + lane % 4 * VECTOR;
        const T* from = p.x + static_cast<size_t>(m) * p.k + k;
#pragma unroll
        for (int i = 0; i < ROWS / 8; i++) {
            const bool inside = m + 8 * i < p.m && k < p.k;
            copy_async(&x[m + 8 * i][lane % 4], inside ? from + static_cast<size_t>(8 * i) * p.k : p.x, inside);
        }
    }

    __device__ void multiply(float (&acc)[COLUMNS / 16][ROWS / 8][4]) const {
        const int lane = threadIdx.x % 32, matrix = lane / 8, i = lane % 8;
        uint32_t a[2][COLUMNS / 16][4];
#pragma unroll
        for (int half = 0; half < 2; half++) {
#pragma unroll
            for (int tile = 0; tile < COLUMNS / 16; tile++) {
                const int row = i / 2 * 8 + i % 2 + matrix / 2 * 2 + half * 4;
                const int piece = tile * 2 + matrix % 2;
                load_matrices_transposed(a[half][tile], &w[row][place(row, piece)]);
            }
        }
        uint4 b[ROWS / 8];
#pragma unroll
        for (int j = 0; j < ROWS / 8; j++) b[j] = x[8 * j + lane / 4][lane % 4];
        // A sum's two products far apart: the second waits for the first.
#pragma unroll
        for (int half = 0; half < 2; half++) {
#pragma unroll
            for (int j = 0; j < ROWS / 8; j++) {
                const uint32_t b0 = half ? b[j].z : b[j].x, b1 = half ? b[j].w : b[j].y;
#pragma unroll
                for (int tile = 0; tile < COLUMNS / 16; tile++) mma<T>(acc[tile][j], a[half][tile], b0, b1);
            }
        }
    }
};

// The steps of K that one warp takes: every WARPS-th of its block's part.
struct Steps {
    int first, count;

    __device__ explicit Steps(int k) {
        const int steps = (k + DEPTH - 1) / DEPTH, part = (steps + gridDim.x - 1) / gridDim.x;
        const int begin = blockIdx.x * part, end = min(begin + part, steps);
        first = begin + threadIdx.x / 32;
        count = (end - first + WARPS - 1) / WARPS;
    }

    __device__ int operator[](int i) const { return first + i * WARPS; }
};

template <typename T, int ROWS, int COLUMNS>
__device__ void accumulate(float (&acc)[COLUMNS / 16][ROWS / 8][4], Stage<T, ROWS, COLUMNS>* ring, const LinearParams<T>& p) {
    const int column = blockIdx.y * COLUMNS;
    const Steps steps(p.k);
#pragma unroll 1
    for (int i = 0; i < min(STAGES, steps.count); i++) ring[i].fetch_w(p, column, steps[i]);
    follow_previous_kernel();
#pragma unroll 1
    for (int i = 0; i < STAGES; i++) {
        if (i < steps.count) ring[i].fetch_x(p, steps[i]);
        commit_copies();
    }
#pragma unroll 1
    for (int i = 0; i < steps.count; i++) {
        wait_copies_but<STAGES - 1>();
        __syncwarp();
        Stage<T, ROWS, COLUMNS>& stage = ring[i % STAGES];
        stage.multiply(acc);
        // Every lane has read the stage before it is filled again.
        __syncwarp();
        if (i + STAGES < steps.count) {
            stage.fetch_w(p, column, steps[i + STAGES]);
            stage.fetch_x(p, steps[i + STAGES]);
        }
        commit_copies();
    }
}

template <typename T, int ROWS, int COLUMNS>
__device__ void linear_small(const LinearParams<T>& p) {
    extern __shared__ uint4 memory[];
    // Of a row of partial sums, in floats: the four pairs of rows that a store of the accumulators meets
    // lie 8 banks apart.
    constexpr int PITCH = COLUMNS + 4;
    static_assert(WARPS * ROWS * PITCH * sizeof(float) <= WARPS * STAGES * sizeof(Stage<T, ROWS, COLUMNS>));
    // After the product, a thread has neighbouring columns of a row, and of every ROWS_AT_ONCE-th after it.
    constexpr int WIDTH = COLUMNS / 16, THREADS_A_ROW = COLUMNS / WIDTH, ROWS_AT_ONCE = THREADS / THREADS_A_ROW;
    constexpr int FLIGHTS = ROWS / ROWS_AT_ONCE;
    static_assert(ROWS % ROWS_AT_ONCE == 0 && ROWS % MOST_SPLITS == 0);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int row = threadIdx.x / THREADS_A_ROW, column = threadIdx.x % THREADS_A_ROW * WIDTH;
    const Columns<T, WIDTH> columns(p, blockIdx.y * COLUMNS + column);
    float acc[COLUMNS / 16][ROWS / 8][4] = {};
    accumulate(acc, reinterpret_cast<Stage<T, ROWS, COLUMNS>*>(memory) + warp * STAGES, p);

    // Each block of the cluster finishes its share of the rows; what they start from is read while the
    // sums meet.
    const int splits = gridDim.x, first = ROWS / splits * blockIdx.x + row, end = ROWS / splits * (blockIdx.x + 1);
    typename Columns<T, WIDTH>::Row rows[FLIGHTS];
    columns.template aim<ROWS_AT_ONCE>(rows, first, end);

    // The rings are done with: their memory holds the sums of each warp, then of the block.
    wait_copies();
    __syncthreads();
    auto sums = reinterpret_cast<float(*)[ROWS][PITCH]>(memory);
#pragma unroll
    for (int tile = 0; tile < COLUMNS / 16; tile++) {
#pragma unroll
        for (int j = 0; j < ROWS / 8; j++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                sums[warp][8 * j + lane % 4 * 2 + i % 2][16 * tile + lane / 4 + i / 2 * 8] = acc[tile][j][i];
            }
        }
    }
    __syncthreads();
#pragma unroll
    for (int m = row; m < ROWS; m += ROWS_AT_ONCE) {
        float sum[WIDTH] = {};
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
#pragma unroll
            for (int i = 0; i < WIDTH; i++) sum[i] += sums[w][m][column + i];
        }
        store(&sums[0][m][column], sum);
    }

    splits > 1 ? cluster_barrier() : __syncthreads();
    float products[FLIGHTS][WIDTH];
#pragma unroll
    for (int i = 0; i < FLIGHTS; i++) {
        const int m = first + i * ROWS_AT_ONCE;
        sum_over_cluster<MOST_SPLITS>(products[i], &sums[0][m][column], m < end ? splits : 0);
    }
#pragma unroll
    for (int i = 0; i < FLIGHTS; i++) columns.finish(rows[i], products[i]);
    if (splits > 1) leave_cluster();
}

#define LINEAR_SMALL_SIZED(suffix, T, ROWS, COLUMNS)                             \
    extern "C" __global__ void __launch_bounds__(THREADS)                        \
        linear_small_##suffix##_m##ROWS##_n##COLUMNS(const LinearParams<T> p) {  \
        linear_small<T, ROWS, COLUMNS>(p);                                       \
    }
#define LINEAR_SMALL_ROWS(suffix, T, ROWS)     \
    LINEAR_SMALL_SIZED(suffix, T, ROWS, 32)    \
    LINEAR_SMALL_SIZED(suffix, T, ROWS, 64)
#define LINEAR_SMALL(suffix, T)      \
    LINEAR_SMALL_ROWS(suffix, T, 8)  \
    LINEAR_SMALL_ROWS(suffix, T, 16) \
    LINEAR_SMALL_ROWS(suffix, T, 32)
LINEAR_SMALL(f16, f16)
LINEAR_SMALL(bf16, bf16)
