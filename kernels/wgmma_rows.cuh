// The warpgroup product whose second operand's rows lie along K, for every number of columns of the
// result that head.cu and linear_slim.cu use (PTX ISA, "wgmma.mma_async").
#pragma once

#include "wgmma.cuh"

// c[64, 8·J] = a[64, 16] · b[8·J, 16]ᵀ, or with `add` not 0 += ; accumulators as in wgmma.cuh.
template <typename T, int J>
__device__ inline void wgmma_rows(float (&c)[J][4], uint64_t a, uint64_t b, int add) {
    __trap();
}

// The same of a[16, 64]ᵀ, whose rows lie along the result's.
template <typename T, int J>
__device__ inline void wgmma_turned(float (&c)[J][4], uint64_t a, uint64_t b, int add) {
    __trap();
}

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define WGMMA_C_1(j) "+f"(c[j][0]), "+f"(c[j][1]), "+f"(c[j][2]), "+f"(c[j][3])
#define WGMMA_C_2(j) WGMMA_C_1(j), WGMMA_C_1(j + 1)
#define WGMMA_C_4(j) WGMMA_C_2(j), WGMMA_C_2(j + 2)
#define WGMMA_C_8(j) WGMMA_C_4(j), WGMMA_C_4(j + 4)
#define WGMMA_C_16(j) WGMMA_C_8(j), WGMMA_C_8(j + 8)
#define WGMMA_C_20(j) WGMMA_C_16(j), WGMMA_C_4(j + 16)
#define WGMMA_C_24(j) WGMMA_C_16(j), WGMMA_C_8(j + 16)
#define WGMMA_C_28(j) WGMMA_C_24(j), WGMMA_C_4(j + 24)
#define WGMMA_C_32(j) WGMMA_C_16(j), WGMMA_C_16(j + 16)
#define WGMMA_TEN(t) "%" #t "0,%" #t "1,%" #t "2,%" #t "3,%" #t "4,%" #t "5,%" #t "6,%" #t "7,%" #t "8,%" #t "9,"
#define WGMMA_NAMES_1 "%0,%1,%2,%3"
#define WGMMA_NAMES_2 WGMMA_NAMES_1 ",%4,%5,%6,%7"
#define WGMMA_NAMES_4 WGMMA_TEN() "%10,%11,%12,%13,%14,%15"
#define WGMMA_NAMES_8 WGMMA_TEN() WGMMA_TEN(1) WGMMA_TEN(2) "%30,%31"
#define WGMMA_NAMES_16 WGMMA_TEN() WGMMA_TEN(1) WGMMA_TEN(2) WGMMA_TEN(3) WGMMA_TEN(4) WGMMA_TEN(5) "%60,%61,%62,%63"
#define WGMMA_SEVENTY WGMMA_TEN() WGMMA_TEN(1) WGMMA_TEN(2) WGMMA_TEN(3) WGMMA_TEN(4) WGMMA_TEN(5) WGMMA_TEN(6)
#define WGMMA_NAMES_20 WGMMA_SEVENTY "%70,%71,%72,%73,%74,%75,%76,%77,%78,%79"
#define WGMMA_NAMES_24 WGMMA_SEVENTY WGMMA_TEN(7) WGMMA_TEN(8) "%90,%91,%92,%93,%94,%95"
#define WGMMA_NAMES_28 WGMMA_SEVENTY WGMMA_TEN(7) WGMMA_TEN(8) WGMMA_TEN(9) WGMMA_TEN(10) "%110,%111"
#define WGMMA_NAMES_32 WGMMA_SEVENTY WGMMA_TEN(7) WGMMA_TEN(8) WGMMA_TEN(9) WGMMA_TEN(10) WGMMA_TEN(11) "%120,%121,%122,%123,%124,%125,%126,%127"
// N is 8·J; A, B and ADD are the numbers of the operands after the accumulators. The last numbers: a and
// b as they are, not negated; a along K or TURNED, b along K.
#define WGMMA_FORM(name, TURNED, T, J, N, A, B, ADD)                                                      \
    template <>                                                                                           \
    __device__ inline void name<T, J>(float (&c)[J][4], uint64_t a, uint64_t b, int add) {                \
        asm volatile(                                                                                     \
            "{ .reg .pred adds; setp.ne.b32 adds, %" #ADD ", 0;\n"                                        \
            "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." #T "." #T " {" WGMMA_NAMES_##J "}, %" #A    \
            ", %" #B ", adds, 1, 1, " #TURNED ", 0; }"                                                    \
            : WGMMA_C_##J(0)                                                                              \
            : "l"(a), "l"(b), "r"(add));                                                                  \
    }
#define WGMMA_ROWS(...) WGMMA_FORM(wgmma_rows, 0, __VA_ARGS__)
#define WGMMA_TURNED(...) WGMMA_FORM(wgmma_turned, 1, __VA_ARGS__)
#define WGMMA_ROWS_OF(T)                  \
    WGMMA_ROWS(T, 1, 8, 4, 5, 6)          \
    WGMMA_ROWS(T, 2, 16, 8, 9, 10)        \
    WGMMA_ROWS(T, 4, 32, 16, 17, 18)      \
    WGMMA_ROWS(T, 8, 64, 32, 33, 34)      \
    WGMMA_ROWS(T, 16, 128, 64, 65, 66)    \
    WGMMA_ROWS(T, 20, 160, 80, 81, 82)    \
    WGMMA_ROWS(T, 24, 192, 96, 97, 98)    \
    WGMMA_ROWS(T, 28, 224, 112, 113, 114) \
    WGMMA_ROWS(T, 32, 256, 128, 129, 130) \
    WGMMA_TURNED(T, 2, 16, 8, 9, 10)      \
    WGMMA_TURNED(T, 4, 32, 16, 17, 18)
WGMMA_ROWS_OF(f16)
WGMMA_ROWS_OF(bf16)
#endif
