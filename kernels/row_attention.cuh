// Attention of one row's query heads over a KV head, by a block of the attention sublayer, which knows
// the positions long before it knows the queries: the first keys and values are asked for before the
// previous kernel has ended, and those of this step's token come from shared memory.
//
// Up to eight queries are rows of the tensor core's tile (mma.cuh), whatever the model's group: a
// product costs no more for eight than for one. The order of D within a product is free, so that a
// lane's share of a key, a value or a query is whole vectors of memory. The tile's other eight rows take
// what rounding P to T leaves of it: the sums are those of P in f32.
#pragma once

#include "kv.cuh"
#include "softmax.cuh"
#include "sublayer.cuh"

// A warp's share of a step: two tiles of eight positions.
constexpr int TILES = 2, TILE = 8;
static_assert(TILE <= MIN_PAGE, "a tile's positions share a page");

// The values of a row of D that lie with one of LANES lanes, as words of two neighbours: vectors of four
// words, or of fewer where D has no more.
template <int D, int LANES>
struct Share {
    static constexpr int WORDS = D / LANES / 2;
    uint32_t word[WORDS] = {};

    // Elements before word w of lane `lane`.
    static __device__ int place(int w, int lane) {
        const int whole = WORDS / 4 * 4;
        if (w < whole) return (w / 4 * LANES + lane) * VECTOR + w % 4 * 2;
        return (whole * LANES + lane * (WORDS - whole) + w - whole) * 2;
    }

    // FAR: from global memory, past the L1.
    template <bool FAR, typename T>
    __device__ void load(const T* row, int lane) {
        constexpr int LEFT = WORDS % 4, FIRST = WORDS - LEFT;
        static_assert(LEFT != 3);
#pragma unroll
        for (int w = 0; w < FIRST; w += 4) {
            const uint4 v = vector<uint4, FAR>(row + place(w, lane));
            word[w] = v.x, word[w + 1] = v.y, word[w + 2] = v.z, word[w + 3] = v.w;
        }
        if constexpr (LEFT == 2) {
            const uint2 v = vector<uint2, FAR>(row + place(FIRST, lane));
            word[FIRST] = v.x, word[FIRST + 1] = v.y;
        }
        if constexpr (LEFT == 1) word[FIRST] = vector<uint32_t, FAR>(row + place(FIRST, lane));
    }

private:
    template <typename V, bool FAR>
    static __device__ V vector(const void* at) {
        if constexpr (FAR) return __ldcg(static_cast<const V*>(at));
        return *static_cast<const V*>(at);
    }
};

// Up to eight queries of width D over the positions [begin, end), the last of which is the step's own.
template <typename T, int D>
struct RowAttention {
    static constexpr int STEP = WARPS * TILES * TILE;
    // Of a warp's state of a query: sums, maximum, sum of weights.
    static constexpr int FLOATS = D + 2;

    const T* slab;
    const KvHead& kv;
    const int32_t* pages;
    const int page_stride, begin, end, queries;
    const int warp = threadIdx.x / 32, group = threadIdx.x % 32 / 4, pair = threadIdx.x % 4;
    int page[TILES];
    // A key's quarter, and eighths of the values at positions 2·pair and + 1 of each tile.
    Share<D, 4> k[TILES];
    Share<D, 8> v[TILES][2];
    float max = -INFINITY, sum = 0.0f, acc[D / 8][4] = {};

    // Looks the first step's pages up before it knows how many positions there are.
    __device__ RowAttention(const T* slab, const KvHead& kv, const int32_t* pages, int page_stride, int begin, int end,
                            int queries)
        : slab(slab), kv(kv), pages(pages), page_stride(page_stride), begin(begin), end(end), queries(queries) {
        look_up(0);
    }

    // Asks for the first step's keys and values.
    __device__ void read_ahead() { read(0); }

    // `own` is queries, key and value of the step's token, in that order.
    __device__ void attend(const T* own, float scale) {
        Share<D, 4> q;
        if (group < queries) q.template load<false>(own + group * D, pair);
#pragma unroll 1
        for (int base = 0; first_of(base) < end; base += STEP) {
            if (base > 0) look_up(base), read(base);
            take_own(base, own + queries * D);
            take(base, q, scale * LOG2E);
        }
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    }

    // The result to `out` [queries, D], by way of `shared` [WARPS, queries, FLOATS]; nothing to see gives
    // 0. Every thread of the block must call this.
    __device__ void finish(float* shared, T* out) {
        float* const state = shared + (warp * queries + group) * FLOATS;
        if (group < queries && first_of(0) < end) {
#pragma unroll
            for (int w = 0; w < D / 16; w++) {
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    const float(&even)[4] = acc[2 * w], (&odd)[4] = acc[2 * w + 1];
                    const float values[2] = {even[j] + even[j + 2], odd[j] + odd[j + 2]};
                    store(state + Share<D, 8>::place(w, 2 * pair + j), values);
                }
            }
            if (pair == 0) state[D] = max, state[D + 1] = sum;
        }
        __syncthreads();
        const int used = min(WARPS, (end + TILES * TILE - 1) / (TILES * TILE));
#pragma unroll 1
        for (int i = threadIdx.x; i < queries * D; i += THREADS) {
            const int g = i / D, d = i % D, next = queries * FLOATS;
            const float* const from = shared + g * FLOATS;
            float top = -INFINITY, total = 0.0f, value = 0.0f;
#pragma unroll
            for (int w = 0; w < WARPS; w++) {
                if (w < used) top = fmaxf(top, from[w * next + D]);
            }
            if (top == -INFINITY) top = 0.0f;
#pragma unroll
            for (int w = 0; w < WARPS; w++) {
                if (w >= used) continue;
                const float weight = exp2_approx(from[w * next + D] - top);
                total += weight * from[w * next + D + 1];
                value += weight * from[w * next + d];
            }
            store_one(out + i, total > 0.0f ? __fdividef(value, total) : 0.0f);
        }
    }

private:
    // This warp's first position.
    __device__ int first_of(int base) const { return base + warp * TILES * TILE; }

    __device__ void look_up(int base) {
#pragma unroll
        for (int i = 0; i < TILES; i++) {
            const int entry = kv.entry(first_of(base) + i * TILE);
            page[i] = entry < page_stride ? __ldcg(pages + entry) : 0;
        }
    }

    // All but the step's own. Values are zero where none is visible: whatever lies there, NaN included,
    // must not reach a sum.
    __device__ void read(int base) {
#pragma unroll
        for (int i = 0; i < TILES; i++) {
            const int first = first_of(base) + i * TILE;
            const T* const from = slab + kv.key(page[i], first);
            if (has(first + group)) k[i].template load<true>(from + group * D, pair);
#pragma unroll
            for (int j = 0; j < 2; j++) {
                const int at = 2 * pair + j;
                v[i][j] = {};
                if (has(first + at)) v[i][j].template load<true>(from + kv.value + at * D, group);
            }
        }
    }

    __device__ bool has(int position) const { return position >= begin && position < end - 1; }

    // The step's own position, from its key and the value behind it.
    __device__ void take_own(int base, const T* key) {
#pragma unroll
        for (int i = 0; i < TILES; i++) {
            const int at = end - 1 - first_of(base) - i * TILE;
            if (at == group) k[i].template load<false>(key, pair);
#pragma unroll
            for (int j = 0; j < 2; j++) {
                if (at == 2 * pair + j) v[i][j].template load<false>(key + D, group);
            }
        }
    }

    // One step of the online softmax.
    __device__ void take(int base, const Share<D, 4>& q, float scale) {
        float p[TILES][4] = {};
#pragma unroll
        for (int s = 0; s < D / 16; s++) {
            const uint32_t a[4] = {q.word[2 * s], 0, q.word[2 * s + 1], 0};
#pragma unroll
            for (int i = 0; i < TILES; i++) mma<T>(p[i], a, k[i].word[2 * s], k[i].word[2 * s + 1]);
        }
        float top = max;
#pragma unroll
        for (int i = 0; i < TILES; i++) {
#pragma unroll
            for (int j = 0; j < 2; j++) {
                const int position = first_of(base) + i * TILE + 2 * pair + j;
                p[i][j] = position >= begin && position < end ? p[i][j] * scale : -INFINITY;
                top = fmaxf(top, p[i][j]);
            }
        }
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
        // All keys masked so far: 2^(−∞ − 0) is 0, where −∞ − −∞ would be NaN.
        const float from = top == -INFINITY ? 0.0f : top;
        const float factor = exp2_approx(max - from);
        max = top;
        sum *= factor;
        if (base > 0) {
#pragma unroll
            for (int t = 0; t < D / 8; t++) {
#pragma unroll
                for (int j = 0; j < 4; j++) acc[t][j] *= factor;
            }
        }
        uint32_t a[2 * TILES];
#pragma unroll
        for (int i = 0; i < TILES; i++) {
            const float p0 = exp2_approx(p[i][0] - from), p1 = exp2_approx(p[i][1] - from);
            sum += p0 + p1;
            a[2 * i] = pack<T>(p0, p1);
            const float2 rounded = unpack(reinterpret_cast<const typename Pair<T>::Type&>(a[2 * i]));
            a[2 * i + 1] = pack<T>(p0 - rounded.x, p1 - rounded.y);
        }
#pragma unroll
        for (int t = 0; t < D / 8; t++) {
            // A word holds two columns of one position; the product wants two positions of one column.
            const int w = t / 2, select = t % 2 ? 0x7632 : 0x5410;
            mma<T>(acc[t], a, __byte_perm(v[0][0].word[w], v[0][1].word[w], select),
                   __byte_perm(v[1][0].word[w], v[1][1].word[w], select));
        }
    }
};
