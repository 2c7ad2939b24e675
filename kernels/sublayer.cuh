// What the two sublayers of a small model's layer share when a step has few rows, each of them one
// kernel. Hopper alone.
//
// Such a step is a chain of latencies, not of bytes. A cluster of eight blocks owns a KV head, or a
// slice of the MLP's features, from the norm to the product that leads back to the residual stream. Its
// blocks divide K of the first product and the columns of the second, and push moments, sums and rows
// into each other's shared memory. All that a block reads of the weights is there before the previous
// kernel has ended.
//
// What the clusters add to the stream is not summed here: each leaves its part, and the next kernel adds
// the parts, in order, to what it reads of the stream.
//
// Threads run through the code once, so that instructions count twice, to fetch and to execute: loops
// are not unrolled, and addresses are computed before the wait.
#pragma once

#include "inbox.cuh"
#include "params.cuh"

constexpr int RANKS = 8;
// Of a group, which a cluster takes at once: a row for each block to finish.
constexpr int ROWS = RANKS;
constexpr int WARPS = 8;
constexpr int THREADS = 32 * WARPS;
// From 16 columns of a product that a warp computes to its next.
constexpr int STRIDE = 16 * WARPS;
static_assert(WARPS == ROWS, "a warp normalises a row");

__host__ __device__ constexpr int up_to(int n, int step) { return (n + step - 1) / step * step; }

// Rows of 16-bit values in shared memory. An odd number of 16-byte pieces a row keeps ldmatrix free of
// bank conflicts.
template <typename T>
struct Tile {
    T* at;
    int pitch;

    __device__ T* row(int r) const { return at + r * pitch; }

    // Rows from `first` to `end` become zeros.
    __device__ void clear(int first, int end) const {
#pragma unroll 1
        for (int i = first * pitch + threadIdx.x * VECTOR; i < end * pitch; i += THREADS * VECTOR) {
            *reinterpret_cast<uint4*>(at + i) = make_uint4(0, 0, 0, 0);
        }
    }

    // Asks for `width` neighbouring columns of `rows` rows of a matrix, to stand from `column` on. By 16
    // bytes a thread: the copy engine takes about 20 clocks for a row of a few hundred bytes.
    __device__ void fetch(int column, const T* from, int stride, int rows, int width) const {
        const int vectors = width / VECTOR, at_once = THREADS / vectors;
        const int first = threadIdx.x / vectors, c = threadIdx.x % vectors * VECTOR;
        if (first >= at_once) return;
        T* to = row(first) + column + c;
        from += static_cast<size_t>(first) * stride + c;
        const size_t step = static_cast<size_t>(at_once) * stride;
#pragma unroll 1
        for (int r = first; r < rows; r += at_once) {
            copy_async(to, from, true);
            to += at_once * pitch, from += step;
        }
    }
};

// Asks for `count` neighbours, at most a vector for each thread.
template <typename U>
__device__ void fetch(U* to, const U* from, int count) {
    const int i = threadIdx.x * (16 / sizeof(U));
    if (i < count) copy_async(to + i, from + i, true);
}

// Takes parts of the dynamic shared memory; `Carver` in src/runner/cuda/ops/sublayer.rs adds up the same.
struct Carver {
    unsigned char* next;

    template <typename U>
    __device__ U* take(int count) {
        U* at = reinterpret_cast<U*>(next);
        next += up_to(count * sizeof(U), 16);
        return at;
    }

    template <typename T>
    __device__ Tile<T> tile(int rows, int columns) {
        const int pitch = ((columns + VECTOR - 1) / VECTOR | 1) * VECTOR;
        return {take<T>(rows * pitch), pitch};
    }
};

// This block's channels of the residual stream: a row a warp, four channels a lane. PARTS of the parts
// that it is the sum of are on their way at once.
template <typename T, int PARTS>
struct StreamPart {
    const StreamParams<T>& p;
    const int part = p.channels / RANKS;
    const float share = 1.0f / part, whole_share = 1.0f / p.channels;
    const int row = blockIdx.z * ROWS + threadIdx.x / 32, channel = threadIdx.x % 32 * 4;
    const size_t at = static_cast<size_t>(row) * p.channels + blockIdx.x * part + channel;
    const bool inside = row < p.m && channel < part;
    float bias[4] = {}, weight[4], beta[4] = {};
    float v[4] = {};

    // Reads weights alone.
    __device__ explicit StreamPart(const StreamParams<T>& p) : p(p) {
        if (!inside) return;
        const int first = blockIdx.x * part + channel;
        if (p.bias) load(bias, p.bias + first);
        load(weight, p.weight + first);
        if (p.beta) load(beta, p.beta + first);
    }

    // The stream and the parts that the previous kernel left.
    __device__ void gather() {
        if (!inside) return;
        load(v, p.x + at);
        const size_t size = static_cast<size_t>(p.m) * p.channels;
#pragma unroll 1
        for (int first = 0; first < p.slices; first += PARTS) {
            float parts[PARTS][4] = {};
#pragma unroll
            for (int i = 0; i < PARTS; i++) {
                if (first + i < p.slices) load(parts[i], p.parts + at + (first + i) * size);
            }
#pragma unroll
            for (int i = 0; i < PARTS; i++) {
#pragma unroll
                for (int j = 0; j < 4; j++) v[j] += parts[i][j];
            }
        }
#pragma unroll
        for (int j = 0; j < 4; j++) v[j] += bias[j];
    }

    // The mean of these channels, or 0 for an RMS norm, and the sum of the squared distances from it.
    __device__ float2 moments() const {
        float mean = 0.0f, square = 0.0f;
        if (!p.rms) mean = warp_sum(v[0] + v[1] + v[2] + v[3]) * share;
#pragma unroll
        for (int j = 0; j < 4; j++) square += inside ? (v[j] - mean) * (v[j] - mean) : 0.0f;
        return make_float2(mean, warp_sum(square));
    }

    // Merges the moments of all blocks (Chan et al. 1979) and writes the norm.
    __device__ void normalise(T* to, const float2* moments) const {
        if (!inside) return;
        float mean = 0.0f, square = 0.0f;
#pragma unroll
        for (int i = 0; i < RANKS; i++) mean += moments[i].x;
        mean *= 1.0f / RANKS;
#pragma unroll
        for (int i = 0; i < RANKS; i++) {
            const float off = moments[i].x - mean;
            square += moments[i].y + part * off * off;
        }
        const float scale = rsqrtf(square * whole_share + p.eps);
        float out[4];
#pragma unroll
        for (int j = 0; j < 4; j++) out[j] = (v[j] - mean) * scale * weight[j] + beta[j];
        store(to + channel, out);
    }

    // One cluster writes what all have read.
    __device__ void write_back() const {
        if (inside && blockIdx.y == 0) store(p.x_out + at, v);
    }

private:
    static __device__ float warp_sum(float v) {
#pragma unroll
        for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(0xffffffffu, v, step);
        return v;
    }
};

// X·W of COUNT times 16 columns, X [8, 16·steps], W [16·steps, …], as mma.m16n8k16's C: a lane has
// columns lane / 4 and + 8 of rows lane % 4 · 2 and + 1.
template <int COUNT, typename T>
__device__ void multiply(float (&sum)[COUNT][4], const Tile<T>& x, const Tile<T>& w, int column, int steps) {
    const int lane = threadIdx.x % 32, matrix = lane / 8, i = lane % 8;
    float odd[COUNT][4] = {};
    const T* from_x = x.row(i) + matrix * 8;
    const T* from_w = w.row(matrix / 2 * 8 + i) + matrix % 2 * 8 + column;
#pragma unroll 1
    for (int s = 0; s < steps; s += 2) {
        uint32_t b[4], a[2][COUNT][4] = {};
        load_matrices(b, from_x);
#pragma unroll
        for (int t = 0; t < COUNT; t++) load_matrices_transposed(a[0][t], from_w + t * STRIDE);
        from_w += 16 * w.pitch;
        if (s + 1 < steps) {
#pragma unroll
            for (int t = 0; t < COUNT; t++) load_matrices_transposed(a[1][t], from_w + t * STRIDE);
        }
        from_w += 16 * w.pitch;
        from_x += 32;
#pragma unroll
        for (int t = 0; t < COUNT; t++) {
            mma<T>(sum[t], a[0][t], b[0], b[1]);
            mma<T>(odd[t], a[1][t], b[2], b[3]);
        }
    }
#pragma unroll
    for (int t = 0; t < COUNT; t++) {
#pragma unroll
        for (int j = 0; j < 4; j++) sum[t][j] += odd[t][j];
    }
}

// Calls take(first column, sums) for every 16 columns of X·W; K is rounded up to steps of 16.
template <typename T, typename Take>
__device__ void multiply_all(const Tile<T>& x, const Tile<T>& w, int columns, int k, Take take) {
    const int steps = (k + 15) / 16;
    int column = threadIdx.x / 32 * 16;
    const auto multiply_by = [&](auto& sum) {
        multiply(sum, x, w, column, steps);
#pragma unroll
        for (auto& s : sum) take(column, s), column += STRIDE;
    };
#pragma unroll 1
    while (column + 2 * STRIDE < columns) {
        float sum[3][4] = {};
        multiply_by(sum);
    }
    if (column + STRIDE < columns) {
        float sum[2][4] = {};
        multiply_by(sum);
    } else if (column < columns) {
        float sum[1][4] = {};
        multiply_by(sum);
    }
}

// Sends every row's sums of this block's part of K to the block that finishes the row. Of 16 columns a
// lane has one and that 8 further, and sends them side by side: few messages, and whole sectors.
struct SumsOut {
    Outbox even, odd;
    bool has_even, has_odd;

    // `sums` is [RANKS, columns].
    __device__ SumsOut(const Inbox& inbox, const float* sums, int columns, int rows)
        : even(inbox, sums + blockIdx.x * columns + threadIdx.x % 32 / 4 * 2, threadIdx.x % 4 * 2),
          odd(inbox, sums + blockIdx.x * columns + threadIdx.x % 32 / 4 * 2, threadIdx.x % 4 * 2 + 1),
          has_even(threadIdx.x % 4 * 2 < rows),
          has_odd(threadIdx.x % 4 * 2 + 1 < rows) {}

    __device__ void push(int column, const float (&sum)[4]) const {
        const int offset = column * sizeof(float);
        if (has_even) even.push(make_float2(sum[0], sum[2]), offset);
        if (has_odd) odd.push(make_float2(sum[1], sum[3]), offset);
    }
};

// The sums over the cluster of a column and the next, as `SumsOut` has sent them.
__device__ inline float2 sum_of_ranks(const float* sums, int columns, int column) {
    const float* const from = sums + column / 16 * 16 + column % 8 * 2 + column % 16 / 8;
    float2 sum = make_float2(0.0f, 0.0f);
#pragma unroll
    for (int rank = 0; rank < RANKS; rank++) sum.x += from[rank * columns], sum.y += from[rank * columns + 2];
    return sum;
}

// Gives this block's row, `width` values at `from`, to all blocks of the cluster.
template <typename T>
__device__ void push_row(const Inbox& inbox, const Tile<T>& to, const T* from, int width) {
    const int rank = threadIdx.x / 32;
#pragma unroll 1
    for (int i = threadIdx.x % 32 * VECTOR; i < width; i += 32 * VECTOR) {
        Outbox(inbox, to.row(blockIdx.x) + i, rank).push(*reinterpret_cast<const uint4*>(from + i));
    }
}

// This block's columns of X·W, as its cluster's part of what is added to the stream.
template <typename T>
struct PartOut {
    const int part, channels, rows;
    float* to;

    // `parts` is [clusters, M, C].
    __device__ PartOut(float* parts, const StreamParams<T>& p, int rows)
        : part(p.channels / RANKS), channels(p.channels), rows(rows - threadIdx.x % 4 * 2) {
        const size_t row = static_cast<size_t>(blockIdx.y) * p.m + blockIdx.z * ROWS + threadIdx.x % 4 * 2;
        to = parts + row * channels + blockIdx.x * part + threadIdx.x % 32 / 4;
    }

    __device__ void write(int column, const float (&sum)[4]) const {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int c = column + j / 2 * 8;
            if (j % 2 < rows && c + static_cast<int>(threadIdx.x) % 32 / 4 < part) to[j % 2 * channels + c] = sum[j];
        }
    }
};
