// Partial results of attention, each over some of the KV positions, and how they are merged: the warps
// of a block through its shared memory, the blocks of a cluster through each other's.
#pragma once

#include "dtype.cuh"
#include "launch.cuh"
#include "softmax.cuh"

// Warps of a block.
constexpr int MOST_WARPS = 8;

// Four neighbouring elements of one query's result: `max` is the largest score, `sum` that of
// 2^(score − max), and `value` that of 2^(score − max) · V. Over no position: −∞, 0 and 0.
struct Part {
    float max = -INFINITY, sum = 0.0f, value[4] = {};
};

// Weighs `count` parts over different positions, AT_ONCE of them read together. read(i) gives part i,
// and an empty one from `count` on.
template <int AT_ONCE, typename Read>
__device__ inline Part merge(int count, Read read) {
    Part whole;
#pragma unroll 1
    for (int first = 0; first < count; first += AT_ONCE) {
        Part parts[1 + AT_ONCE] = {whole};
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) parts[1 + i] = read(first + i);
        whole = {};
#pragma unroll
        for (const Part& part : parts) whole.max = fmaxf(whole.max, part.max);
        // All empty: 2^(−∞ − 0) is 0, where −∞ − −∞ would be NaN.
        const float from = whole.max == -INFINITY ? 0.0f : whole.max;
#pragma unroll
        for (const Part& part : parts) {
            const float weight = exp2_approx(part.max - from);
            whole.sum += weight * part.sum;
#pragma unroll
            for (int j = 0; j < 4; j++) whole.value[j] += weight * part.value[j];
        }
    }
    return whole;
}

// What a block's warps found out about the same G queries. A piece is a Part's four elements: there are
// D / 4 of each query.
template <int G, int D>
struct Parts {
    // x: max, y: sum, as in a Part.
    float2 state[MOST_WARPS][G];
    float2 merged[G];
    float4 value[MOST_WARPS][G][D / 4];

    // Piece i over this block's positions.
    __device__ Part of_block(int i) const {
        const int g = i / (D / 4), piece = i % (D / 4), warps = blockDim.x / 32;
        return merge<4>(warps, [&](int warp) {
            if (warp >= warps) return Part();
            const float2 s = state[warp][g];
            const float4 v = value[warp][g][piece];
            return Part{s.x, s.y, {v.x, v.y, v.z, v.w}};
        });
    }

    // Leaves piece i where of_cluster looks for it.
    __device__ void publish(int i, const Part& part) {
        const int g = i / (D / 4), piece = i % (D / 4);
        if (piece == 0) merged[g] = make_float2(part.max, part.sum);
        value[0][g][piece] = make_float4(part.value[0], part.value[1], part.value[2], part.value[3]);
    }

    // Piece i over the positions of all the cluster's blocks.
    __device__ Part of_cluster(int i, int blocks) const {
        const int g = i / (D / 4), piece = i % (D / 4);
        return merge<8>(blocks, [&](int rank) {
            Part part;
            float s[2];
            load_from_block(s, &merged[g].x, rank, blocks);
            load_from_block(part.value, &value[0][g][piece].x, rank, blocks);
            if (rank < blocks) part.max = s[0], part.sum = s[1];
            return part;
        });
    }
};

// Writes a part's result, zeros when it saw no position.
template <typename T>
__device__ inline void store_result(T* to, const Part& part) {
    const float inverse = part.sum > 0.0f ? 1.0f / part.sum : 0.0f;
    float result[4];
#pragma unroll
    for (int j = 0; j < 4; j++) result[j] = part.value[j] * inverse;
    store(to, result);
}
