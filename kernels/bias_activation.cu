// The MLP's inner step in place: h = activation(h + bias), [T, F].
//
// Bound by memory: every value is read and written once. A thread owns 8 features and walks over a
// few tokens, so that it reads its part of the bias once and has several loads in flight.

#include "dtype.cuh"
#include "params.cuh"

constexpr int TOKENS_PER_BLOCK = 4;

enum Activation { GELU_TANH = 0, GELU_ERF = 1, RELU = 2 };

// GELU's tanh form (Hendrycks & Gimpel 2016). ½·(1 + tanh u) is 1 / (1 + e^(−2u)), which needs one
// exponential and has no cancellation for negative u.
__device__ inline float gelu_tanh(float x) {
    const float u = 0.7978846f * (x + 0.044715f * x * x * x);
    return x / (1.0f + expf(-2.0f * u));
}

__device__ inline float gelu_erf(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678f)); }

template <typename Function>
__device__ inline void apply(float (&h)[VECTOR], const float (&bias)[VECTOR], Function function) {
#pragma unroll
    for (int i = 0; i < VECTOR; i++) h[i] = function(h[i] + bias[i]);
}

template <typename T>
__device__ void bias_activation(const BiasActivationParams<T>& p) {
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
        switch (p.activation) {
            case GELU_TANH: apply(h[t], bias, gelu_tanh); break;
            case GELU_ERF: apply(h[t], bias, gelu_erf); break;
            case RELU: apply(h[t], bias, [](float x) { return fmaxf(x, 0.0f); }); break;
        }
        store(first + static_cast<size_t>(t) * p.features, h[t]);
    }
}

#define BIAS_ACTIVATION(suffix, T) \
    extern "C" __global__ void bias_activation_##suffix(const BiasActivationParams<T> p) { bias_activation(p); }
FOR_EACH_DTYPE(BIAS_ACTIVATION)
