// Attention of a few query vectors over the KV positions of one head, by one block, on CUDA cores.
// Decode uses it where a KV head serves one query head, and in f32 for all query heads that share it;
// f32 prefill for consecutive queries of one head.
//
// A row of K is read by just enough lanes for 16 bytes each, so a warp reads several positions with
// one load instruction and has several such loads in flight: V of this step and K of the next one.
// Each group of lanes keeps its own online softmax (Milakov & Gimelshein 2018) over the positions it
// has seen; the groups and then the warps are merged once at the end. Scores are in base 2: log₂e is
// part of the scale.
#pragma once

#include "attention_parts.cuh"
#include "dtype.cuh"
#include "kv.cuh"
#include "softmax.cuh"

constexpr int power_of_two_from(int n) {
    int power = 1;
    while (power < n) power *= 2;
    return power;
}

// G query vectors of width D over the positions [begin, end). With CAUSAL, query g stands at
// position `first + g` and sees nothing after it.
template <typename T, int D, int G, bool CAUSAL>
struct Rows {
    // Elements of a lane, lanes with work on a row of K, and the power of two they are rounded up to.
    static constexpr int WIDTH = Chunk<T>::SIZE;
    static constexpr int USED = D / WIDTH;
    static constexpr int LANES = power_of_two_from(USED);
    // Positions that a warp reads at once, times loads in flight: a warp's step.
    static constexpr int AT_ONCE = 32 / LANES;
    static constexpr int MOST = G <= 2 ? 8 : 4;
    static constexpr int FLIGHTS = 16 / AT_ONCE < MOST ? 16 / AT_ONCE : MOST;
    static constexpr int STEP = AT_ONCE * FLIGHTS;
    static constexpr int ENTRIES = STEP <= MIN_PAGE ? 1 : STEP / MIN_PAGE;
    static_assert(D % WIDTH == 0 && USED <= 32 && MIN_PAGE % AT_ONCE == 0 && FLIGHTS >= 1);

    float q[G][WIDTH];
    float max[G], sum[G], acc[G][WIDTH];

    // The first element of a row that this lane holds, and whether it holds any.
    static __device__ int column() { return threadIdx.x % LANES * WIDTH; }
    static __device__ bool holds() { return threadIdx.x % LANES < USED; }

    // Query g is the D elements at `query`, or zero when there is no such query.
    __device__ void set_query(int g, const T* query, float scale) {
        Chunk<T> chunk = {};
        if (query && holds()) chunk.bits = *reinterpret_cast<const uint4*>(query + column());
        chunk.widen(q[g]);
#pragma unroll
        for (int i = 0; i < WIDTH; i++) q[g][i] *= scale * LOG2E;
    }

    __device__ void attend(const T* slab, const KvHead& kv, const int32_t* pages, int begin, int end, int first = 0) {
#pragma unroll
        for (int g = 0; g < G; g++) {
            max[g] = -INFINITY;
            sum[g] = 0.0f;
#pragma unroll
            for (int i = 0; i < WIDTH; i++) acc[g][i] = 0.0f;
        }
        const int warp = threadIdx.x / 32, lane_position = threadIdx.x % 32 / LANES;
        const int stride = blockDim.x / 32 * STEP;
        // Steps start at multiples of STEP, so that a run of MIN_PAGE positions shares a page.
        int base = begin / stride * stride + warp * STEP;
        if (base >= end) return;

        int entry[ENTRIES];
        Chunk<T> k[FLIGHTS], v[FLIGHTS];
        look_up(entry, kv, pages, base, end);
        read(k, slab, kv, entry, base + lane_position, begin, end);
        while (base < end) {
            read(v, slab + kv.value, kv, entry, base + lane_position, begin, end);
            float p[G][FLIGHTS];
            scores(p, k, base + lane_position, begin, CAUSAL ? first : end);
            // K is used up: fetch the next step's while the softmax and V are at work.
            const int next = base + stride;
            if (next < end) {
                look_up(entry, kv, pages, next, end);
                read(k, slab, kv, entry, next + lane_position, begin, end);
            }
            accumulate(p, v);
            base = next;
        }
    }

    // Leaves the warp's result in `parts`; a block barrier must follow before others read it.
    __device__ void leave(Parts<G, D>& parts) {
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
        for (int g = 0; g < G; g++) {
            merge_lanes(g);
            if (lane < USED) {
#pragma unroll
                for (int i = 0; i < WIDTH; i += 4) {
                    parts.value[warp][g][(lane * WIDTH + i) / 4] = make_float4(acc[g][i], acc[g][i + 1], acc[g][i + 2], acc[g][i + 3]);
                }
            }
            if (lane == 0) parts.state[warp][g] = make_float2(max[g], sum[g]);
        }
    }

private:
    static __device__ void look_up(int (&entry)[ENTRIES], const KvHead& kv, const int32_t* pages, int base, int end) {
#pragma unroll
        for (int e = 0; e < ENTRIES; e++) {
            const int j = base + e * MIN_PAGE;
            entry[e] = j < end ? pages[kv.entry(j)] : 0;
        }
    }

    // Zero where no key is visible: whatever lies there, NaN included, must not reach a sum.
    static __device__ void read(Chunk<T> (&chunk)[FLIGHTS], const T* slab, const KvHead& kv, const int (&entry)[ENTRIES], int first, int begin, int end) {
#pragma unroll
        for (int u = 0; u < FLIGHTS; u++) {
            const int j = first + u * AT_ONCE;
            chunk[u].bits = make_uint4(0, 0, 0, 0);
            if (j >= begin && j < end && holds()) {
                const T* from = slab + kv.key(entry[u * AT_ONCE / MIN_PAGE], j) + column();
                chunk[u].bits = *reinterpret_cast<const uint4*>(from);
            }
        }
    }

    // `bound`: the end of what is visible, or with CAUSAL the position of query 0.
    __device__ void scores(float (&p)[G][FLIGHTS], const Chunk<T> (&k)[FLIGHTS], int first, int begin, int bound) const {
#pragma unroll
        for (int u = 0; u < FLIGHTS; u++) {
            const int j = first + u * AT_ONCE;
            float key[WIDTH];
            k[u].widen(key);
#pragma unroll
            for (int g = 0; g < G; g++) {
                float dot = 0.0f;
#pragma unroll
                for (int i = 0; i < WIDTH; i++) dot += q[g][i] * key[i];
#pragma unroll
                for (int step = LANES / 2; step > 0; step /= 2) dot += __shfl_xor_sync(0xffffffffu, dot, step);
                p[g][u] = j >= begin && j < (CAUSAL ? bound + g + 1 : bound) ? dot : -INFINITY;
            }
        }
    }

    // One step of the online softmax.
    __device__ void accumulate(float (&p)[G][FLIGHTS], const Chunk<T> (&v)[FLIGHTS]) {
#pragma unroll
        for (int g = 0; g < G; g++) {
            float top = max[g];
#pragma unroll
            for (int u = 0; u < FLIGHTS; u++) top = fmaxf(top, p[g][u]);
            rescale(g, top);
            // All keys masked so far: 2^(−∞ − 0) is 0, where −∞ − −∞ would be NaN.
            const float from = top == -INFINITY ? 0.0f : top;
#pragma unroll
            for (int u = 0; u < FLIGHTS; u++) {
                p[g][u] = exp2_approx(p[g][u] - from);
                sum[g] += p[g][u];
            }
        }
#pragma unroll
        for (int u = 0; u < FLIGHTS; u++) {
            float value[WIDTH];
            v[u].widen(value);
#pragma unroll
            for (int g = 0; g < G; g++) {
#pragma unroll
                for (int i = 0; i < WIDTH; i++) acc[g][i] += p[g][u] * value[i];
            }
        }
    }

    // Expresses the state of query g relative to a new maximum.
    __device__ void rescale(int g, float top) {
        const float factor = max[g] == -INFINITY ? 0.0f : exp2_approx(max[g] - top);
        max[g] = top;
        sum[g] *= factor;
#pragma unroll
        for (int i = 0; i < WIDTH; i++) acc[g][i] *= factor;
    }

    // Merges the lane groups of a warp; every group then holds the warp's state.
    __device__ void merge_lanes(int g) {
#pragma unroll
        for (int step = LANES; step < 32; step *= 2) {
            rescale(g, fmaxf(max[g], __shfl_xor_sync(0xffffffffu, max[g], step)));
            sum[g] += __shfl_xor_sync(0xffffffffu, sum[g], step);
#pragma unroll
            for (int i = 0; i < WIDTH; i++) acc[g][i] += __shfl_xor_sync(0xffffffffu, acc[g][i], step);
        }
    }
};
