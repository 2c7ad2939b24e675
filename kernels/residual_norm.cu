// What stands between two matrix products: x[t] += add[t] + Σ parts[t] + bias, then
// out[r] = norm(x[row(r)])·weight + beta, in one pass over the row: a layer norm (Ba et al. 2016), or
// an RMS norm (Zhang & Sennrich 2019), which takes the mean for zero and has no beta.
//
// Bound by memory. A block keeps its row in registers, 8 channels a thread, so x is read once and
// the mean and the variance cost no further traffic; the variance is the mean squared distance from
// the mean, as in the reference, because E[x²] − E[x]² cancels for rows far from zero.
//
// With row_index only some rows are wanted (the last token of each row, before the head): the
// residual is then added but not written back, since nothing reads it again.

#include "dtype.cuh"
#include "launch.cuh"
#include "params.cuh"

// The sum of `v` over the block, known to every thread. Each call needs its own `partial`.
__device__ float block_sum(float v, float (&partial)[32]) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(0xffffffffu, v, step);
    if (lane == 0) partial[warp] = v;
    __syncthreads();
    v = lane < warps ? partial[lane] : 0.0f;
    for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(0xffffffffu, v, step);
    return v;
}

template <typename T>
__device__ void residual_norm(const ResidualNormParams<T>& p) {
    __shared__ float sums[32], squares[32];
    const int channel = threadIdx.x * VECTOR;
    // The last warp may reach past the row; its idle threads only take part in the sums.
    const bool inside = channel < p.channels;
    float weight[VECTOR], beta[VECTOR] = {};
    if (inside) {
        load(weight, p.weight + channel);
        if (p.beta) load(beta, p.beta + channel);
    }
    const float share = 1.0f / p.channels;
    // Held back, the next product's blocks find all SMs free.
    if (!p.holds_next) let_next_kernel_start();
    wait_for_previous_kernel();
    if (p.holds_next) let_next_kernel_start();
    const size_t row = blockIdx.x;
    const size_t token = p.row_index ? p.row_index[row] : row;

    float x[VECTOR] = {};
    if (inside) {
        float* stream = p.x + token * p.channels + channel;
        load(x, stream);
        if (p.add || p.slices) {
            float add[VECTOR] = {}, bias[VECTOR] = {};
            if (p.add) load(add, p.add + token * p.channels + channel);
            const float* part = p.parts + token * p.channels + channel;
#pragma unroll 8
            for (int slice = 0; slice < p.slices; slice++) {
                float more[VECTOR];
                load(more, part + static_cast<size_t>(slice) * p.slice_rows * p.channels);
#pragma unroll
                for (int i = 0; i < VECTOR; i++) add[i] += more[i];
            }
            if (p.bias) load(bias, p.bias + channel);
#pragma unroll
            for (int i = 0; i < VECTOR; i++) x[i] += add[i] + bias[i];
            if (!p.row_index) store(stream, x);
        }
    }

    float mean = 0.0f;
    if (!p.rms) {
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < VECTOR; i++) sum += x[i];
        mean = block_sum(sum, sums) * share;
    }

    float square = 0.0f;
#pragma unroll
    for (int i = 0; i < VECTOR; i++) square += inside ? (x[i] - mean) * (x[i] - mean) : 0.0f;
    const float scale = rsqrtf(block_sum(square, squares) * share + p.eps);

    if (!inside) return;
#pragma unroll
    for (int i = 0; i < VECTOR; i++) x[i] = (x[i] - mean) * scale * weight[i] + beta[i];
    store(p.out + row * p.channels + channel, x);
}

#define RESIDUAL_NORM(suffix, T)                            \
    extern "C" __global__ void __launch_bounds__(1024)            \
        residual_norm_##suffix(const ResidualNormParams<T> p) { \
        residual_norm(p);                                   \
    }
FOR_EACH_DTYPE(RESIDUAL_NORM)
