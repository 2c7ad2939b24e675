// The warpgroup product whose operands both lie along K, for every number of columns of the result
// that head.cu uses (PTX ISA, "wgmma.mma_async").
#pragma once

#include "wgmma.cuh"

// c[64, 8·J] = a[64, 16] · b[8·J, 16]ᵀ, or with `add` not 0 += ; accumulators as in wgmma.cuh.
template <typename T, int J>
__device__ inline void wgmma_rows(float (&c)[J][4], uint64_t a, uint64_t b, int add) {
    __trap();
}

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define C_1(j) "+f"(c[j][0]), "+f"(c[j][1]), "+f"(c[j][2]), "+f"(c[j][3])
#define C_2(j) C_1(j), C_1(j + 1)
#define C_4(j) C_2(j), C_2(j + 2)
#define C_8(j) C_4(j), C_4(j + 4)
#define C_16(j) C_8(j), C_8(j + 8)
#define C_24(j) C_16(j), C_8(j + 16)
#define C_32(j) C_16(j), C_16(j + 16)
#define TEN(t) "%" #t "0,%" #t "1,%" #t "2,%" #t "3,%" #t "4,%" #t "5,%" #t "6,%" #t "7,%" #t "8,%" #t "9,"
#define NAMES_1 "%0,%1,%2,%3"
#define NAMES_2 NAMES_1 ",%4,%5,%6,%7"
#define NAMES_4 TEN() "%10,%11,%12,%13,%14,%15"
#define NAMES_8 TEN() TEN(1) TEN(2) "%30,%31"
#define NAMES_16 TEN() TEN(1) TEN(2) TEN(3) TEN(4) TEN(5) "%60,%61,%62,%63"
#define NAMES_24                                                            \
    TEN() TEN(1) TEN(2) TEN(3) TEN(4) TEN(5) TEN(6) TEN(7) TEN(8) "%90,%91," \
    "%92,%93,%94,%95"
#define NAMES_32                                                                                           \
    TEN() TEN(1) TEN(2) TEN(3) TEN(4) TEN(5) TEN(6) TEN(7) TEN(8) TEN(9) TEN(10) TEN(11) "%120,%121,%122," \
    "%123,%124,%125,%126,%127"
// N is 8·J; A, B and ADD are the numbers of the operands after the accumulators. The last numbers: a and
// b as they are, not negated; both along K.
#define WGMMA_ROWS(T, J, N, A, B, ADD)                                                                  \
    template <>                                                                                         \
    __device__ inline void wgmma_rows<T, J>(float (&c)[J][4], uint64_t a, uint64_t b, int add) {        \
        asm volatile("{ .reg .pred adds; setp.ne.b32 adds, %" #ADD ", 0;\n"                             \
                     "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." #T "." #T " {" NAMES_##J "}, "   \
                     "%" #A ", %" #B ", adds, 1, 1, 0, 0; }"                                            \
                     : C_##J(0)                                                                         \
                     : "l"(a), "l"(b), "r"(add));                                                       \
    }
#define WGMMA_ROWS_OF(T)                 \
    WGMMA_ROWS(T, 1, 8, 4, 5, 6)         \
    WGMMA_ROWS(T, 2, 16, 8, 9, 10)       \
    WGMMA_ROWS(T, 4, 32, 16, 17, 18)     \
    WGMMA_ROWS(T, 8, 64, 32, 33, 34)     \
    WGMMA_ROWS(T, 16, 128, 64, 65, 66)   \
    WGMMA_ROWS(T, 24, 192, 96, 97, 98)   \
    WGMMA_ROWS(T, 32, 256, 128, 129, 130)
WGMMA_ROWS_OF(f16)
WGMMA_ROWS_OF(bf16)
#undef WGMMA_ROWS_OF
#undef WGMMA_ROWS
#undef NAMES_32
#undef NAMES_24
#undef NAMES_16
#undef NAMES_8
#undef NAMES_4
#undef NAMES_2
#undef NAMES_1
#undef TEN
#undef C_32
#undef C_24
#undef C_16
#undef C_8
#undef C_4
#undef C_2
#undef C_1
#endif
