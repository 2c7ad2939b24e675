// Attention of one row's query heads over a KV head, by a block of the attention sublayer, which knows
// the positions long before it knows the queries: the first keys and values are asked for early, and
// those of this step's token come from shared memory.
//
// A row of K is read by just enough lanes for 16 bytes each. Every group of lanes keeps its own online
// softmax (Milakov & Gimelshein 2018), in base 2; lanes and then warps are merged once at the end.
#pragma once

#include "kv.cuh"
#include "softmax.cuh"
#include "sublayer.cuh"

constexpr int power_of_two_from(int n) {
    int power = 1;
    while (power < n) power *= 2;
    return power;
}

// Up to G queries of width D over the positions [begin, end), the last of which is the step's own.
template <typename T, int D, int G>
struct RowAttention {
    static constexpr int USED = D / VECTOR, LANES = power_of_two_from(USED);
    // Positions that the block reads at once, times loads in flight.
    static constexpr int AT_ONCE = 32 / LANES * WARPS, FLIGHTS = 4, STEP = AT_ONCE * FLIGHTS;

    struct Shared {
        float max[WARPS][G], sum[WARPS][G], acc[WARPS][G][D];
    };

    const T* slab;
    const KvHead& kv;
    const int32_t* pages;
    const int page_stride, begin, end, queries;
    const int column = threadIdx.x % LANES * VECTOR, position = threadIdx.x / LANES;
    int page[FLIGHTS];
    Chunk<T> k[FLIGHTS], v[FLIGHTS];
    float q[G][VECTOR], max[G], sum[G] = {}, acc[G][VECTOR] = {};

    // Looks the first step's pages up before it knows how many positions there are.
    __device__ RowAttention(const T* slab, const KvHead& kv, const int32_t* pages, int page_stride, int begin, int end,
                            int queries)
        : slab(slab), kv(kv), pages(pages), page_stride(page_stride), begin(begin), end(end), queries(queries) {
        look_up(0);
    }

    // Asks for the first step's keys and values.
    __device__ void read_ahead() { read(0); }

    // Whether this lane holds part of a visible key.
    __device__ bool has(int j) const { return j >= begin && j < end && column < D; }

    // `own` is queries, key and value of the step's token, in that order.
    __device__ void attend(const T* own, float scale) {
#pragma unroll
        for (int g = 0; g < G; g++) {
            max[g] = -INFINITY;
            Chunk<T> chunk = {};
            if (g < queries && column < D) chunk.bits = *reinterpret_cast<const uint4*>(own + g * D + column);
            chunk.widen(q[g]);
#pragma unroll
            for (int i = 0; i < VECTOR; i++) q[g][i] *= scale * LOG2E;
        }
        const T* key = own + queries * D + column;
#pragma unroll
        for (int i = 0; i < FLIGHTS; i++) {
            if (i * AT_ONCE + position == end - 1 && column < D) {
                k[i].bits = *reinterpret_cast<const uint4*>(key);
                v[i].bits = *reinterpret_cast<const uint4*>(key + D);
            }
        }
#pragma unroll 1
        for (int base = 0; base < end; base += STEP) {
            if (base > 0) look_up(base), read(base);
            take(base);
        }
    }

    // The result to `out` [queries, D]; nothing to see gives 0. Every thread of the block must call this.
    __device__ void finish(Shared& shared, T* out) {
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
        for (int g = 0; g < G; g++) {
            merge_lanes(g);
            if (lane < USED) store(&shared.acc[warp][g][column], acc[g]);
            if (lane == 0) shared.max[warp][g] = max[g], shared.sum[warp][g] = sum[g];
        }
        __syncthreads();
#pragma unroll 1
        for (int i = threadIdx.x; i < queries * D; i += THREADS) {
            const int g = i / D, d = i % D;
            float top = -INFINITY, total = 0.0f, value = 0.0f;
#pragma unroll
            for (int w = 0; w < WARPS; w++) top = fmaxf(top, shared.max[w][g]);
            const float from = top == -INFINITY ? 0.0f : top;
#pragma unroll
            for (int w = 0; w < WARPS; w++) {
                const float weight = exp2_approx(shared.max[w][g] - from);
                total += weight * shared.sum[w][g];
                value += weight * shared.acc[w][g][d];
            }
            store_one(out + i, total > 0.0f ? __fdividef(value, total) : 0.0f);
        }
    }

private:
    __device__ void look_up(int base) {
#pragma unroll
        for (int i = 0; i < FLIGHTS; i++) {
            const int entry = kv.entry(base + i * AT_ONCE + position);
            page[i] = entry < page_stride ? pages[entry] : 0;
        }
    }

    __device__ void read(int base) {
#pragma unroll
        for (int i = 0; i < FLIGHTS; i++) {
            // Zero where no key is visible: whatever lies there, NaN included, must not reach a sum.
            k[i].bits = v[i].bits = make_uint4(0, 0, 0, 0);
            const int j = base + i * AT_ONCE + position;
            if (has(j)) {
                const T* from = slab + kv.key(page[i], j) + column;
                k[i].bits = *reinterpret_cast<const uint4*>(from);
                v[i].bits = *reinterpret_cast<const uint4*>(from + kv.value);
            }
        }
    }

    // One step of the online softmax.
    __device__ void take(int base) {
        float p[G][FLIGHTS];
#pragma unroll
        for (int i = 0; i < FLIGHTS; i++) {
            const int first = base + i * AT_ONCE;
#pragma unroll
            for (int g = 0; g < G; g++) p[g][i] = -INFINITY;
            // The same for the whole block: short contexts leave flights unused.
            if (first >= end) continue;
            float key[VECTOR];
            k[i].widen(key);
#pragma unroll
            for (int g = 0; g < G; g++) {
                    float dot = 0.0f;
#pragma unroll
                for (int j = 0; j < VECTOR; j++) dot += q[g][j] * key[j];
#pragma unroll
                for (int step = LANES / 2; step > 0; step /= 2) dot += __shfl_xor_sync(0xffffffffu, dot, step);
                if (first + position >= begin && first + position < end) p[g][i] = dot;
            }
        }
#pragma unroll
        for (int g = 0; g < G; g++) {
            float top = max[g];
#pragma unroll
            for (int i = 0; i < FLIGHTS; i++) top = fmaxf(top, p[g][i]);
            rescale(g, top);
            // All keys masked so far: 2^(−∞ − 0) is 0, where −∞ − −∞ would be NaN.
            const float from = top == -INFINITY ? 0.0f : top;
#pragma unroll
            for (int i = 0; i < FLIGHTS; i++) sum[g] += p[g][i] = exp2_approx(p[g][i] - from);
        }
#pragma unroll
        for (int i = 0; i < FLIGHTS; i++) {
            if (base + i * AT_ONCE >= end) continue;
            float value[VECTOR];
            v[i].widen(value);
#pragma unroll
            for (int g = 0; g < G; g++) {
    #pragma unroll
                for (int j = 0; j < VECTOR; j++) acc[g][j] += p[g][i] * value[j];
            }
        }
    }

    // Expresses the state of query g relative to a new maximum.
    __device__ void rescale(int g, float top) {
        const float factor = max[g] == -INFINITY ? 0.0f : exp2_approx(max[g] - top);
        max[g] = top;
        sum[g] *= factor;
#pragma unroll
        for (int i = 0; i < VECTOR; i++) acc[g][i] *= factor;
    }

    // Merges the lane groups of a warp; every group then holds the warp's state.
    __device__ void merge_lanes(int g) {
        float top = max[g];
#pragma unroll
        for (int step = LANES; step < 32; step *= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, step));
        rescale(g, top);
#pragma unroll
        for (int step = LANES; step < 32; step *= 2) {
            sum[g] += __shfl_xor_sync(0xffffffffu, sum[g], step);
#pragma unroll
            for (int i = 0; i < VECTOR; i++) acc[g][i] += __shfl_xor_sync(0xffffffffu, acc[g][i], step);
        }
    }
};
