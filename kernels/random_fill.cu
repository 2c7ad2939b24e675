// Seeded random weights, made where they are needed: out[i] = mean + spread·u_i.
//
// u_i equals `seeded_unit` of src/model/params.rs bit for bit, and the product and the sum round one
// after the other as they do on a CPU, so every runner measures the same dummy model.

#include "dtype.cuh"
#include "params.cuh"
#include "philox.cuh"

template <typename T>
__device__ void random_fill(const RandomFillParams<T>& p) {
    const uint64_t stride = static_cast<uint64_t>(gridDim.x) * blockDim.x * VECTOR;
    uint64_t first = (static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * VECTOR;
    for (; first < p.count; first += stride) {
        float v[VECTOR];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const uint64_t counter = first / 4 + half;
            const uint4 words = philox(
                make_uint4(static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), 0, 1),
                philox_key(p.seed));
            const uint32_t word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float unit = 2.0f * unit_interval(word[i]) - 1.0f;
                v[4 * half + i] = __fadd_rn(p.mean, __fmul_rn(p.spread, unit));
            }
        }
        if (first + VECTOR <= p.count) {
            store(p.out + first, v);
        } else {
#pragma unroll
            for (int i = 0; i < VECTOR; i++) {
                if (first + i < p.count) store_one(p.out + first + i, v[i]);
            }
        }
    }
}

#define RANDOM_FILL(suffix, T) \
    extern "C" __global__ void random_fill_##suffix(const RandomFillParams<T> p) { random_fill(p); }
FOR_EACH_DTYPE(RANDOM_FILL)
