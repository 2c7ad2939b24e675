// The MLP's activation functions, by the numbers that src/runner/cuda/ops/bias_activation.rs gives them.
#pragma once

#include <cmath>

enum Activation { GELU_TANH = 0, GELU_ERF = 1, RELU = 2, SILU = 3, IDENTITY = 4 };

// x / (1 + e^(−u)), by the hardware's exponential and division: the exact ones take several times as
// long as the rest of a product's epilogue.
__device__ inline float times_sigmoid(float x, float u) { return __fdividef(x, 1.0f + __expf(-u)); }

// GELU's tanh form (Hendrycks & Gimpel 2016) is x·½·(1 + tanh u) = x / (1 + e^(−2u)), which needs one
// exponential and has no cancellation for negative u. This is 2u.
__device__ inline float gelu_exponent(float x) { return 2.0f * (0.7978846f * (x + 0.044715f * x * x * x)); }

__device__ inline float gelu_erf(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678f)); }

__device__ inline float activate(int activation, float x) {
    switch (activation) {
        case GELU_TANH: return times_sigmoid(x, gelu_exponent(x));
        case GELU_ERF: return gelu_erf(x);
        case RELU: return fmaxf(x, 0.0f);
        case SILU: return times_sigmoid(x, x);
        default: return x;
    }
}

// Of two values. Where a thread runs through its code once, only the models' usual functions are inlined:
// all of them, at every use of an unrolled loop, take longer to fetch than to compute. Where it REPEATS,
// calls take longer, since nothing overlaps them.
__device__ __noinline__ inline float2 call_activate(int activation, float2 v) {
    return make_float2(activate(activation, v.x), activate(activation, v.y));
}

template <bool REPEATS>
__device__ inline float2 activate_pair(int activation, float2 v) {
    if constexpr (REPEATS) {
        return make_float2(activate(activation, v.x), activate(activation, v.y));
    } else {
        const bool gelu = activation == GELU_TANH;
        if (!gelu && activation != SILU) return call_activate(activation, v);
        return make_float2(times_sigmoid(v.x, gelu ? gelu_exponent(v.x) : v.x),
                           times_sigmoid(v.y, gelu ? gelu_exponent(v.y) : v.y));
    }
}
