// The MLP's activation functions, by the numbers that src/runner/cuda/ops/bias_activation.rs gives them.
#pragma once

#include <cmath>

enum Activation { GELU_TANH = 0, GELU_ERF = 1, RELU = 2, SILU = 3, IDENTITY = 4 };

// GELU's tanh form (Hendrycks & Gimpel 2016). ½·(1 + tanh u) is 1 / (1 + e^(−2u)), which needs one
// exponential and has no cancellation for negative u. The hardware's exponential and division: the
// exact ones take several times as long as the rest of a product's epilogue.
__device__ inline float gelu_tanh(float x) {
    const float u = 0.7978846f * (x + 0.044715f * x * x * x);
    return __fdividef(x, 1.0f + __expf(-2.0f * u));
}

__device__ inline float gelu_erf(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678f)); }

__device__ inline float activate(int activation, float x) {
    switch (activation) {
        case GELU_TANH: return gelu_tanh(x);
        case GELU_ERF: return gelu_erf(x);
        case RELU: return fmaxf(x, 0.0f);
        case SILU: return __fdividef(x, 1.0f + __expf(-x));
        default: return x;
    }
}

// Of two values. Where a thread runs through its code once, as a call: inlined at every use of an
// unrolled loop, the functions above take longer to fetch than to compute. Where it REPEATS, calls take
// longer, since nothing overlaps them.
__device__ __noinline__ inline float2 call_activate(int activation, float2 v) {
    return make_float2(activate(activation, v.x), activate(activation, v.y));
}

template <bool REPEATS>
__device__ inline float2 activate_pair(int activation, float2 v) {
    if constexpr (REPEATS) {
        return make_float2(activate(activation, v.x), activate(activation, v.y));
    } else {
        return call_activate(activation, v);
    }
}
