// One block over one row of logits: visiting every logit, and the largest value with its index.
#pragma once

#include <cmath>
#include <cstdint>

constexpr int LOGITS_THREADS = 1024;

// Calls visit(index, logit) for every logit, divided over the block's threads. Each thread sees its
// logits in a fixed order, so that float sums over them come out the same in every run.
template <typename Visit>
__device__ inline void for_each_logit(const float* row, int vocab, Visit visit) {
    // A row whose stride is no multiple of 4 starts off a 16-byte boundary.
    const int misaligned = reinterpret_cast<uintptr_t>(row) / sizeof(float) % 4;
    const int head = min(vocab, (4 - misaligned) % 4);
    if (threadIdx.x < head) visit(threadIdx.x, row[threadIdx.x]);

    const float4* body = reinterpret_cast<const float4*>(row + head);
    const int vectors = (vocab - head) / 4;
    constexpr int IN_FLIGHT = 4;
    for (int base = threadIdx.x; base < vectors; base += IN_FLIGHT * LOGITS_THREADS) {
        float4 v[IN_FLIGHT];
#pragma unroll
        for (int u = 0; u < IN_FLIGHT; u++) {
            const int i = base + u * LOGITS_THREADS;
            // −∞ past the end: it is skipped below, and its load never happens.
            v[u] = i < vectors ? body[i] : make_float4(-INFINITY, -INFINITY, -INFINITY, -INFINITY);
        }
#pragma unroll
        for (int u = 0; u < IN_FLIGHT; u++) {
            const int i = base + u * LOGITS_THREADS;
            if (i >= vectors) break;
            const int at = head + 4 * i;
            visit(at, v[u].x);
            visit(at + 1, v[u].y);
            visit(at + 2, v[u].z);
            visit(at + 3, v[u].w);
        }
    }

    const int tail = head + 4 * vectors + threadIdx.x;
    if (tail < vocab) visit(tail, row[tail]);
}

// A value and where it is; the lowest index wins a tie and NaN never wins.
struct Best {
    float value = -INFINITY;
    int index = 0;

    __device__ void offer(int i, float v) {
        if (v > value) {
            value = v;
            index = i;
        }
    }

    __device__ void merge(float v, int i) {
        if (v > value || (v == value && i < index)) {
            value = v;
            index = i;
        }
    }
};

// The best of all threads, known to every thread.
__device__ inline Best block_best(Best best) {
    __shared__ float values[LOGITS_THREADS / 32];
    __shared__ int indices[LOGITS_THREADS / 32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int step = 16; step > 0; step /= 2) {
        const float v = __shfl_xor_sync(0xffffffffu, best.value, step);
        const int i = __shfl_xor_sync(0xffffffffu, best.index, step);
        best.merge(v, i);
    }
    // Before the stores: an earlier call's readers may still be reading.
    __syncthreads();
    if (lane == 0) {
        values[warp] = best.value;
        indices[warp] = best.index;
    }
    __syncthreads();
    best = Best{values[lane], indices[lane]};
    for (int step = 16; step > 0; step /= 2) {
        const float v = __shfl_xor_sync(0xffffffffu, best.value, step);
        const int i = __shfl_xor_sync(0xffffffffu, best.index, step);
        best.merge(v, i);
    }
    return best;
}

__device__ inline Best row_best(const float* row, int vocab) {
    Best best;
    for_each_logit(row, vocab, [&](int i, float v) { best.offer(i, v); });
    return block_best(best);
}
