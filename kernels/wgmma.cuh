// Hopper's matrix instruction for a warpgroup of four warps (PTX ISA, "wgmma.mma_async"). Both
// operands lie in shared memory, as rows of 128 bytes whose 16-byte pieces are in the order
// piece ^ (row % 8); each matrix starts at a multiple of 1024 bytes.
//
// Compiled for sm_90a alone; elsewhere there is no such instruction, and the host launches none of the
// kernels that use it (`Function::has_wgmma` in src/runner/cuda/kernels.rs).
#pragma once

#include "mma.cuh"

#if __CUDA_ARCH__ == 900 && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
#error "wgmma needs the architecture 90a, not 90"
#endif

// 16-bit elements of a row, and bytes from one group of eight rows to the next.
constexpr int ROW_ELEMENTS = 64;
constexpr int EIGHT_ROWS = 1024;

// Names a matrix of one row's width to the instruction.
__device__ inline uint64_t matrix_descriptor(const void* start) {
    constexpr uint64_t SWIZZLE_128 = 1ull << 62, UNUSED = 1ull << 16;
    constexpr uint64_t STRIDE = static_cast<uint64_t>(EIGHT_ROWS / 16) << 32;
    return SWIZZLE_128 | STRIDE | UNUSED | (shared_address(start) & 0x3ffff) >> 4;
}

// Makes this thread's writes to shared memory, cp.async's too, visible to the matrix instruction. A
// barrier must follow.
__device__ inline void publish_to_wgmma() {
#if __CUDA_ARCH__ >= 900
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// c[64, 64] += x[64, 16] · w[16, 64]: the rows of x run along K, those of w along N. Warp i of the
// warpgroup holds rows 16i … 16i + 15 of c; its part of columns 8j … 8j + 7 is c[j], laid out as in
// mma.m16n8k16.
template <typename T>
__device__ inline void wgmma(float (&c)[8][4], uint64_t x, uint64_t w) {
    __trap();
}

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define QUAD(j) "+f"(c[j][0]), "+f"(c[j][1]), "+f"(c[j][2]), "+f"(c[j][3])
// The last numbers: add to c; x and w as they are, not negated; x along K, w along N.
#define WGMMA(T)                                                                  \
    template <>                                                                   \
    __device__ inline void wgmma<T>(float (&c)[8][4], uint64_t x, uint64_t w) {   \
        asm volatile(                                                             \
            "wgmma.mma_async.sync.aligned.m64n64k16.f32." #T "." #T " {"          \
            "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"              \
            "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, "  \
            "%32, %33, 1, 1, 1, 0, 1;"                                            \
            : QUAD(0), QUAD(1), QUAD(2), QUAD(3), QUAD(4), QUAD(5), QUAD(6), QUAD(7) \
            : "l"(x), "l"(w));                                                    \
    }
WGMMA(f16)
WGMMA(bf16)
#undef WGMMA
#undef QUAD
#endif

// Around a run of products: before the first, after the last, and waiting for all.
__device__ inline void begin_wgmma() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}
__device__ inline void commit_wgmma() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}
__device__ inline void finish_wgmma() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#endif
}
