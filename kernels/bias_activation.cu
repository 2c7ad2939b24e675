// The MLP's inner step: y = activation(h + bias), which may be in place; or with the gate, whose
// features lie beside those it gates, y[j] = activation(h[2j] + bias[2j])·(h[2j + 1] + bias[2j + 1]).
//
// Bound by memory: every value is read and written once. A thread owns 8 features and walks over a
// few tokens, so that it reads its part of the bias once and has several loads in flight.

#include "activation.cuh"
#include "dtype.cuh"
#include "launch.cuh"
#include "params.cuh"

constexpr int TOKENS_PER_BLOCK = 4;

// VECTORS: vectors of h for one of y.
template <typename T, int VECTORS>
__device__ void bias_activation(const BiasActivationParams<T>& p, int feature) {
    const int width = VECTORS * p.features, column = VECTORS * feature;
    float bias[VECTORS][VECTOR] = {};
    if (p.bias) {
#pragma unroll
        for (int v = 0; v < VECTORS; v++) load(bias[v], p.bias + column + v * VECTOR);
    }
    const int first = blockIdx.x * TOKENS_PER_BLOCK, tokens = min(TOKENS_PER_BLOCK, p.tokens - first);

    float h[TOKENS_PER_BLOCK][VECTORS][VECTOR];
#pragma unroll
    for (int t = 0; t < TOKENS_PER_BLOCK; t++) {
        if (t >= tokens) break;
#pragma unroll
        for (int v = 0; v < VECTORS; v++) load(h[t][v], p.h + static_cast<size_t>(first + t) * width + column + v * VECTOR);
    }
#pragma unroll
    for (int t = 0; t < TOKENS_PER_BLOCK; t++) {
        if (t >= tokens) break;
        float y[VECTOR];
#pragma unroll
        for (int i = 0; i < VECTOR; i++) {
            const int at = VECTORS * i;
            const float gate = h[t][at / VECTOR][at % VECTOR] + bias[at / VECTOR][at % VECTOR];
            y[i] = activate(p.activation, gate);
            if constexpr (VECTORS == 2) y[i] *= h[t][at / VECTOR][at % VECTOR + 1] + bias[at / VECTOR][at % VECTOR + 1];
        }
        store(p.y + static_cast<size_t>(first + t) * p.features + feature, y);
    }
}

template <typename T>
__device__ void bias_activation(const BiasActivationParams<T>& p) {
    follow_previous_kernel();
    const int feature = (blockIdx.y * blockDim.x + threadIdx.x) * VECTOR;
    if (feature >= p.features) return;
    p.gated ? bias_activation<T, 2>(p, feature) : bias_activation<T, 1>(p, feature);
}

#define BIAS_ACTIVATION(suffix, T) \
    extern "C" __global__ void bias_activation_##suffix(const BiasActivationParams<T> p) { bias_activation(p); }
FOR_EACH_DTYPE(BIAS_ACTIVATION)
