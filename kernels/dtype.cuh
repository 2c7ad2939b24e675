// The compute types and moving eight elements of them at a time, through f32 registers.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

using f16 = __half;
using bf16 = __nv_bfloat16;

// Elements of a vector: 16 bytes of a 16-bit type, 32 bytes of f32.
constexpr int VECTOR = 8;

// Instantiates MAKE(suffix, type) for every compute type.
#define FOR_EACH_DTYPE(MAKE) MAKE(f32, float) MAKE(f16, f16) MAKE(bf16, bf16)

// Two neighbours as f32 and back.
__device__ inline float2 unpack(__half2 v) { return __half22float2(v); }
__device__ inline float2 unpack(__nv_bfloat162 v) { return __bfloat1622float2(v); }

template <typename T>
struct Pair;
template <>
struct Pair<f16> {
    using Type = __half2;
    static __device__ Type pack(float a, float b) { return __floats2half2_rn(a, b); }
};
template <>
struct Pair<bf16> {
    using Type = __nv_bfloat162;
    static __device__ Type pack(float a, float b) { return __floats2bfloat162_rn(a, b); }
};

// 16 bytes as they lie in memory: 8 elements of a 16-bit type or 4 of f32.
template <typename T>
struct alignas(16) Chunk {
    static constexpr int SIZE = 16 / sizeof(T);
    uint4 bits;

    // Element values; a type of 16 bits widens pair by pair.
    __device__ void widen(float (&v)[SIZE]) const {
        const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if constexpr (sizeof(T) == 4) {
                v[i] = __uint_as_float(words[i]);
            } else {
                const float2 pair = unpack(reinterpret_cast<const typename Pair<T>::Type&>(words[i]));
                v[2 * i] = pair.x;
                v[2 * i + 1] = pair.y;
            }
        }
    }
};

__device__ inline void load(float (&v)[VECTOR], const float* from) {
    const float4 a = reinterpret_cast<const float4*>(from)[0];
    const float4 b = reinterpret_cast<const float4*>(from)[1];
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
    v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}

template <typename T>
__device__ inline void load(float (&v)[VECTOR], const T* from) {
    Chunk<T>{*reinterpret_cast<const uint4*>(from)}.widen(v);
}

__device__ inline void store(float* to, const float (&v)[VECTOR]) {
    reinterpret_cast<float4*>(to)[0] = make_float4(v[0], v[1], v[2], v[3]);
    reinterpret_cast<float4*>(to)[1] = make_float4(v[4], v[5], v[6], v[7]);
}

template <typename T>
__device__ inline void store(T* to, const float (&v)[VECTOR]) {
    typename Pair<T>::Type pairs[4];
#pragma unroll
    for (int i = 0; i < 4; i++) pairs[i] = Pair<T>::pack(v[2 * i], v[2 * i + 1]);
    *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(pairs);
}

// Two neighbours, and four.
__device__ inline void load(float (&v)[2], const float* from) {
    const float2 pair = *reinterpret_cast<const float2*>(from);
    v[0] = pair.x, v[1] = pair.y;
}

__device__ inline void load(float (&v)[4], const float* from) {
    const float4 four = *reinterpret_cast<const float4*>(from);
    v[0] = four.x, v[1] = four.y, v[2] = four.z, v[3] = four.w;
}

template <typename T>
__device__ inline void load(float (&v)[2], const T* from) {
    const float2 pair = unpack(*reinterpret_cast<const typename Pair<T>::Type*>(from));
    v[0] = pair.x, v[1] = pair.y;
}

template <typename T>
__device__ inline void load(float (&v)[4], const T* from) {
    const uint2 bits = *reinterpret_cast<const uint2*>(from);
    const float2 a = unpack(reinterpret_cast<const typename Pair<T>::Type&>(bits.x));
    const float2 b = unpack(reinterpret_cast<const typename Pair<T>::Type&>(bits.y));
    v[0] = a.x, v[1] = a.y, v[2] = b.x, v[3] = b.y;
}

__device__ inline void store(float* to, const float (&v)[2]) {
    *reinterpret_cast<float2*>(to) = make_float2(v[0], v[1]);
}

__device__ inline void store(float* to, const float (&v)[4]) {
    *reinterpret_cast<float4*>(to) = make_float4(v[0], v[1], v[2], v[3]);
}

template <typename T>
__device__ inline void store(T* to, const float (&v)[2]) {
    *reinterpret_cast<typename Pair<T>::Type*>(to) = Pair<T>::pack(v[0], v[1]);
}

template <typename T>
__device__ inline void store(T* to, const float (&v)[4]) {
    const typename Pair<T>::Type pairs[2] = {Pair<T>::pack(v[0], v[1]), Pair<T>::pack(v[2], v[3])};
    *reinterpret_cast<uint2*>(to) = *reinterpret_cast<const uint2*>(pairs);
}

__device__ inline void store_one(float* to, float v) { *to = v; }
__device__ inline void store_one(f16* to, float v) { *to = __float2half_rn(v); }
__device__ inline void store_one(bf16* to, float v) { *to = __float2bfloat16_rn(v); }
