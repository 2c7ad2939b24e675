// The arithmetic that both attention kernels share: scores are in base 2, with log₂e in their scale.
#pragma once

#include <cmath>

constexpr float LOG2E = 1.44269504f;

// 2^x by the hardware's instruction: 2 ulp, 0 for −∞, results below 2⁻¹²⁶ become 0.
__device__ inline float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
