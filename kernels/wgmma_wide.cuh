// The warpgroup product of wgmma.cuh for results of more columns than a row of 128 bytes holds: w is
// several matrices of 64 columns, one behind the other.
#pragma once

#include "wgmma_rows.cuh"

// c[64, 8·J] += x[64, 16] · w[16, 8·J]: x along K, w along N, with the distance from one of its matrices
// to the next in its descriptor; accumulators as in wgmma.cuh.
template <typename T, int J>
__device__ inline void wgmma_wide(float (&c)[J][4], uint64_t x, uint64_t w) {
    __trap();
}

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
// N is 8·J; X and W are the numbers of the operands after the accumulators. The last numbers as in
// wgmma.cuh.
#define WGMMA_WIDE(T, J, N, X, W)                                                                           \
    template <>                                                                                             \
    __device__ inline void wgmma_wide<T, J>(float (&c)[J][4], uint64_t x, uint64_t w) {                     \
        asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." #T "." #T " {" WGMMA_NAMES_##J "}, " \
                     "%" #X ", %" #W ", 1, 1, 1, 0, 1;"                                                     \
                     : WGMMA_C_##J(0)                                                                       \
                     : "l"(x), "l"(w));                                                                     \
    }
#define WGMMA_WIDE_OF(T)           \
    WGMMA_WIDE(T, 16, 128, 64, 65) \
    WGMMA_WIDE(T, 24, 192, 96, 97) \
    WGMMA_WIDE(T, 32, 256, 128, 129)
WGMMA_WIDE_OF(f16)
WGMMA_WIDE_OF(bf16)
#endif
