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

// Names a matrix to the instruction: of one row's width, or with its next 64 columns so many bytes
// further.
__device__ inline uint64_t matrix_descriptor(const void* start, int to_next_columns = 16) {
    constexpr uint64_t SWIZZLE_128 = 1ull << 62;
    constexpr uint64_t STRIDE = static_cast<uint64_t>(EIGHT_ROWS / 16) << 32;
    return SWIZZLE_128 | STRIDE | static_cast<uint64_t>(to_next_columns / 16) << 16 | (shared_address(start) & 0x3ffff) >> 4;
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

// The forms of attention. s[64, N] = or += q[64, 16] · k[N, 16]ᵀ, all rows along K; and
// out[64, N] = or += p[64, 16] · v[16, N], p in registers as two neighbouring blocks of 8 columns of an
// accumulator, the rows of v along N. Accumulators lie as above.
template <typename T, int N>
__device__ inline void wgmma_scores(float (&s)[N / 8][4], uint64_t q, uint64_t k, bool add);
template <typename T, int N>
__device__ inline void wgmma_values(float (&out)[N / 8][4], const uint32_t (&p)[4], uint64_t v, bool add);

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

#define RESULT_64 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15," \
    "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define QUADS_64 QUAD(0), QUAD(1), QUAD(2), QUAD(3), QUAD(4), QUAD(5), QUAD(6), QUAD(7)
#define RESULT_128 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15," \
    "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31," \
    "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47," \
    "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define QUADS_128 QUAD(0), QUAD(1), QUAD(2), QUAD(3), QUAD(4), QUAD(5), QUAD(6), QUAD(7), QUAD(8), QUAD(9), QUAD(10), QUAD(11), QUAD(12), QUAD(13), QUAD(14), QUAD(15)
// A … F number the operands after the accumulators.
#define WGMMA_ATTENTION(T, N, A, B, C, D, E, F)                                                                    \
    template <>                                                                                                  \
    __device__ inline void wgmma_scores<T, N>(float (&c)[N / 8][4], uint64_t q, uint64_t k, bool add) {          \
        asm volatile("{ .reg .pred add; setp.ne.b32 add, %" #C ", 0;\n"                                          \
                     "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." #T "." #T " {" RESULT_##N "}, "            \
                     "%" #A ", %" #B ", add, 1, 1, 0, 0; }"                                                      \
                     : QUADS_##N                                                                                 \
                     : "l"(q), "l"(k), "r"(static_cast<int>(add)));                                              \
    }                                                                                                            \
    template <>                                                                                                  \
    __device__ inline void wgmma_values<T, N>(float (&c)[N / 8][4], const uint32_t (&p)[4], uint64_t v, bool add) { \
        asm volatile("{ .reg .pred add; setp.ne.b32 add, %" #F ", 0;\n"                                          \
                     "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." #T "." #T " {" RESULT_##N "}, "            \
                     "{%" #A ", %" #B ", %" #C ", %" #D "}, %" #E ", add, 1, 1, 1; }"                            \
                     : QUADS_##N                                                                                 \
                     : "r"(p[0]), "r"(p[1]), "r"(p[2]), "r"(p[3]), "l"(v), "r"(static_cast<int>(add)));          \
    }
WGMMA_ATTENTION(f16, 64, 32, 33, 34, 35, 36, 37)
WGMMA_ATTENTION(f16, 128, 64, 65, 66, 67, 68, 69)
WGMMA_ATTENTION(bf16, 64, 32, 33, 34, 35, 36, 37)
WGMMA_ATTENTION(bf16, 128, 64, 65, 66, 67, 68, 69)
#undef WGMMA_ATTENTION
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
// Waits for all but the last N runs.
template <int N>
__device__ inline void finish_wgmma_but() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
#endif
}
__device__ inline void finish_wgmma() { finish_wgmma_but<0>(); }

// Keeps the compiler from moving what reads or writes an accumulator across this point.
template <int BLOCKS>
__device__ inline void hold(float (&c)[BLOCKS][4]) {
#pragma unroll
    for (int j = 0; j < BLOCKS; j++) asm volatile("" : "+f"(c[j][0]), "+f"(c[j][1]), "+f"(c[j][2]), "+f"(c[j][3])::"memory");
}
