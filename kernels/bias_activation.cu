// The MLP's inner step in place: h = activation(h + bias), [T, F].
//
// Bound by memory: every value is read and written once. A thread owns 8 features and walks over a
// few tokens, so that it reads its part of the bias once and has several loads in flight.

#include "activation.cuh"
#include "dtype.cuh"
#include "launch.cuh"
#include "params.cuh"

constexpr int TOKENS_PER_BLOCK = 4;

template <typename T>
__device__ void bias_activation(const BiasActivationParams<T>& p) {
    follow_previous_kernel();
    const int feature = (blockIdx.y * blockDim.x + threadIdx.x) * VECTOR;
    if (feature >= p.features) return;
    float bias[VECTOR];
    load(bias, p.bias + feature);
    T* const first = p.h + static_cast<size_t>(blockIdx.x) * TOKENS_PER_BLOCK * p.features + feature;
    const int tokens = min(TOKENS_PER_BLOCK, p.tokens - static_cast<int>(blockIdx.x) * TOKENS_PER_BLOCK);

    float h[TOKENS_PER_BLOCK][VECTOR];
#pragma unroll
    for (int t = 0; t < TOKENS_PER_BLOCK; t++) {
        if (t < tokens) load(h[t], first + static_cast<size_t>(t) * p.features);
    }
#pragma unroll
    for (int t = 0; t < TOKENS_PER_BLOCK; t++) {
        if (t >= tokens) break;
#pragma unroll
        for (int i = 0; i < VECTOR; i++) h[t][i] = activate(p.activation, h[t][i] + bias[i]);
        store(first + static_cast<size_t>(t) * p.features, h[t]);
    }
}

#define BIAS_ACTIVATION(suffix, T) \
    extern "C" __global__ void bias_activation_##suffix(const BiasActivationParams<T> p) { bias_activation(p); }
FOR_EACH_DTYPE(BIAS_ACTIVATION)
