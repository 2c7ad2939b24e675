// Y = X·W for few rows: X [M, K], W [K, N] row-major, M up to 64, with what follows the product
// fused: Y = activation(X·W + bias), or the f32 residual stream += X·W + bias.
//
// Bound by reading W once. A block owns 32 columns (64 bytes of each row of W) and its four warps
// divide K; where columns give fewer blocks than there are SMs, a cluster of up to eight blocks
// divides K further and its blocks add their sums through each other's shared memory. All sums are
// f32, in an order that depends on N, K and the GPU alone: not on M, nor on the other rows.
//
// W's tile is the A operand of mma.m16n8k16 and X the B operand, so that 8 rows cost what one does.
// Each warp streams through its own ring of 32-deep stages by cp.async and meets the others only at
// the end. The stages of W that fit the ring are asked for before the previous kernel has ended.

#include "activation.cuh"
#include "launch.cuh"
#include "mma.cuh"
#include "params.cuh"

constexpr int COLUMNS = 32;
constexpr int DEPTH = 32;
constexpr int WARPS = 4;
constexpr int THREADS = 32 * WARPS;
constexpr int STAGES = 4;
constexpr int MOST_SPLITS = 8;
// Of a row of partial sums, in floats: the four pairs of rows that a store of the accumulators meets
// lie 8 banks apart.
constexpr int PITCH = COLUMNS + 4;

// One step of a warp: 32 rows of W, 32 columns of X.
//
// The sum over K may run in any order, so K is permuted within a stage such that a lane's B operands
// of two mma, X[g] at 8t … 8t + 7 (g = lane / 4, t = lane % 4), are 16 neighbouring bytes: the first
// mma takes 8t … 8t + 3 and the second 8t + 4 … 8t + 7. `ldmatrix` permutes W to match, for free:
// its lanes name the rows.
template <typename T, int ROWS>
struct Stage {
    // The 16-byte pieces of row r are in order piece ^ (r / 8): without bank conflicts for the rows
    // 0, 1, 8, 9, 16, 17, 24, 25 that one ldmatrix meets.
    uint4 w[DEPTH][COLUMNS / VECTOR];
    uint4 x[ROWS][DEPTH / VECTOR];

    __device__ void fetch_w(const LinearSmallParams<T>& p, int column, int step) {
        const int lane = threadIdx.x % 32, piece = lane % 4, n = column + piece * VECTOR;
#pragma unroll
        for (int i = 0; i < DEPTH / 8; i++) {
            const int k = step * DEPTH + 8 * i + lane / 4;
            const bool inside = k < p.k && n < p.n;
            const T* from = p.w + (inside ? static_cast<size_t>(k) * p.n + n : 0);
            copy_async(&w[8 * i + lane / 4][piece ^ i], from, inside);
        }
    }

    __device__ void fetch_x(const LinearSmallParams<T>& p, int step) {
        const int lane = threadIdx.x % 32, k = step * DEPTH + lane % 4 * VECTOR;
#pragma unroll
        for (int i = 0; i < ROWS / 8; i++) {
            const int m = 8 * i + lane / 4;
            const bool inside = m < p.m && k < p.k;
            const T* from = p.x + (inside ? static_cast<size_t>(m) * p.k + k : 0);
            copy_async(&x[m][lane % 4], from, inside);
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
                load_matrices_transposed(a[half][tile], &w[row][piece ^ (i / 2)]);
            }
        }
#pragma unroll
        for (int j = 0; j < ROWS / 8; j++) {
            const uint4 b = x[8 * j + lane / 4][lane % 4];
#pragma unroll
            for (int tile = 0; tile < COLUMNS / 16; tile++) {
                mma<T>(acc[tile][j], a[0][tile], b.x, b.y);
                mma<T>(acc[tile][j], a[1][tile], b.z, b.w);
            }
        }
    }
};

// The steps of K that one warp takes: every WARPS-th of its block's part.
struct Steps {
    int first, count;

    __device__ explicit Steps(int k) {
        const int steps = (k + DEPTH - 1) / DEPTH, splits = gridDim.x, split = blockIdx.x;
        first = steps * split / splits + threadIdx.x / 32;
        count = (steps * (split + 1) / splits - first + WARPS - 1) / WARPS;
    }

    __device__ int operator[](int i) const { return first + i * WARPS; }
};

template <typename T, int ROWS>
__device__ void accumulate(float (&acc)[COLUMNS / 16][ROWS / 8][4], Stage<T, ROWS>* ring, const LinearSmallParams<T>& p) {
    const int column = blockIdx.y * COLUMNS;
    const Steps steps(p.k);
#pragma unroll
    for (int i = 0; i < STAGES; i++) {
        if (i < steps.count) ring[i].fetch_w(p, column, steps[i]);
    }
    follow_previous_kernel();
#pragma unroll
    for (int i = 0; i < STAGES; i++) {
        if (i < steps.count) ring[i].fetch_x(p, steps[i]);
        commit_copies();
    }
    for (int i = 0; i < steps.count; i++) {
        wait_copies_but<STAGES - 1>();
        __syncwarp();
        Stage<T, ROWS>& stage = ring[i % STAGES];
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

// Two neighbouring columns of a row of Y, what one thread finishes at a time.
template <typename T>
struct Target {
    int m, n;
    bool inside;
    // What the product is added to.
    float2 start = {0.0f, 0.0f};

    __device__ void aim(const LinearSmallParams<T>& p, int unit, int end) {
        m = unit / (COLUMNS / 2);
        n = blockIdx.y * COLUMNS + unit % (COLUMNS / 2) * 2;
        inside = unit < end && m < p.m && n < p.n;
        if (!inside) return;
        if (p.bias) start = unpack(*reinterpret_cast<const typename Pair<T>::Type*>(p.bias + n));
        if (p.residual) {
            const float2 x = *reinterpret_cast<const float2*>(p.residual + offset(p));
            start.x += x.x;
            start.y += x.y;
        }
    }

    __device__ void finish(const LinearSmallParams<T>& p, float2 product) const {
        const float a = start.x + product.x, b = start.y + product.y;
        if (p.residual) {
            *reinterpret_cast<float2*>(p.residual + offset(p)) = make_float2(a, b);
        } else {
            *reinterpret_cast<typename Pair<T>::Type*>(p.y + offset(p)) =
                Pair<T>::pack(activate(p.activation, a), activate(p.activation, b));
        }
    }

private:
    __device__ size_t offset(const LinearSmallParams<T>& p) const { return static_cast<size_t>(m) * p.n + n; }
};

template <typename T, int ROWS>
__device__ void linear_small(const LinearSmallParams<T>& p) {
    extern __shared__ uint4 memory[];
    static_assert(WARPS * ROWS * PITCH * sizeof(float) <= WARPS * STAGES * sizeof(Stage<T, ROWS>));
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float acc[COLUMNS / 16][ROWS / 8][4] = {};
    accumulate<T, ROWS>(acc, reinterpret_cast<Stage<T, ROWS>*>(memory) + warp * STAGES, p);

    // Each block of the cluster finishes its share of the outputs; what they start from is read
    // while the sums meet.
    constexpr int UNITS = ROWS * COLUMNS / 2, TARGETS = UNITS / THREADS;
    static_assert(UNITS % THREADS == 0 && UNITS % MOST_SPLITS == 0);
    const int splits = gridDim.x, share = UNITS / splits, first = blockIdx.x * share;
    Target<T> targets[TARGETS];
#pragma unroll
    for (int i = 0; i < TARGETS; i++) targets[i].aim(p, first + i * THREADS + threadIdx.x, first + share);

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
    for (int unit = threadIdx.x; unit < UNITS; unit += THREADS) {
        const int m = unit / (COLUMNS / 2), n = unit % (COLUMNS / 2) * 2;
        float2 sum = {0.0f, 0.0f};
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
            const float2 v = *reinterpret_cast<const float2*>(&sums[w][m][n]);
            sum.x += v.x;
            sum.y += v.y;
        }
        *reinterpret_cast<float2*>(&sums[0][m][n]) = sum;
    }

    splits > 1 ? cluster_barrier() : __syncthreads();
#pragma unroll
    for (int i = 0; i < TARGETS; i++) {
        if (!targets[i].inside) continue;
        const int n = targets[i].n % COLUMNS;
        float2 product = {0.0f, 0.0f};
#pragma unroll
        for (int rank = 0; rank < MOST_SPLITS; rank++) {
            if (rank >= splits) break;
            const float2 v = load_from_block(reinterpret_cast<const float2*>(&sums[0][targets[i].m][n]), rank);
            product.x += v.x;
            product.y += v.y;
        }
        targets[i].finish(p, product);
    }
    // No block leaves while another reads its sums.
    if (splits > 1) cluster_barrier();
}

#define LINEAR_SMALL_ROWS(suffix, T, ROWS)                                  \
    extern "C" __global__ void __launch_bounds__(THREADS)                   \
        linear_small_##suffix##_m##ROWS(const LinearSmallParams<T> p) {     \
        linear_small<T, ROWS>(p);                                           \
    }
#define LINEAR_SMALL(suffix, T)      \
    LINEAR_SMALL_ROWS(suffix, T, 8)  \
    LINEAR_SMALL_ROWS(suffix, T, 16) \
    LINEAR_SMALL_ROWS(suffix, T, 32) \
    LINEAR_SMALL_ROWS(suffix, T, 64)
LINEAR_SMALL(f16, f16)
LINEAR_SMALL(bf16, bf16)
