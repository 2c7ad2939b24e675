// Attention of one warp, on tensor cores: the query heads that share a KV head, up to 8, one query each.
//
// Both products are mma.m16n8k16 (see mma.cuh; g = lane / 4, t = lane % 4), with the heads as rows of
// Q·Kᵀ, half of which stay empty, and as columns of Vᵀ·Pᵀ: the scores' C layout is then P's B layout.
// A sum over D may run in any order, and so may the rows of Vᵀ. They run so that a lane's operands are
// neighbours in memory: of each position g of eight, a quarter of K's row; of the positions 2t and
// 2t + 1, an eighth of V's. So K and V come straight into the registers that the products take them
// from, and nothing passes through shared memory. A step's K is asked for as soon as the scores of the
// one before have used that one's up, and likewise V: one of the two is always on its way.
#pragma once

#include "attention_parts.cuh"
#include "kv.cuh"
#include "mma.cuh"

// The share of a row of D 16-bit elements that lane `part` of PARTS has: pieces of 16 bytes as long as
// there is one for every lane, then a smaller one.
template <int D, int PARTS>
struct RowShare {
    static constexpr int WORDS = D / PARTS / 2;
    static constexpr int PIECES = D / PARTS / 8;
    static constexpr int REST = D / PARTS % 8;
    static_assert(REST == 0 || REST == 2 || REST == 4);

    // Where in the row element e of the share lies.
    static __device__ int column(int part, int e) {
        constexpr int WHOLE = 8 * PIECES;
        return e < WHOLE ? (e / 8 * PARTS + part) * 8 + e % 8 : PARTS * WHOLE + part * REST + e - WHOLE;
    }

    // Zeros, and no read, when not `wanted`.
    template <typename T>
    static __device__ void load(uint32_t (&words)[WORDS], const T* row, int part, bool wanted) {
#pragma unroll
        for (int i = 0; i < WORDS; i++) words[i] = 0;
        if (!wanted) return;
#pragma unroll
        for (int i = 0; i < PIECES; i++) {
            const uint4 piece = *reinterpret_cast<const uint4*>(row + column(part, 8 * i));
            words[4 * i] = piece.x, words[4 * i + 1] = piece.y, words[4 * i + 2] = piece.z, words[4 * i + 3] = piece.w;
        }
        const T* const rest = row + column(part, 8 * PIECES);
        if constexpr (REST == 2) words[4 * PIECES] = *reinterpret_cast<const uint32_t*>(rest);
        if constexpr (REST == 4) {
            const uint2 piece = *reinterpret_cast<const uint2*>(rest);
            words[4 * PIECES] = piece.x, words[4 * PIECES + 1] = piece.y;
        }
    }
};

template <typename T, int D>
struct GroupWarp {
    // Eights of positions in a step: as many as leave registers for two blocks on an SM.
    static constexpr int EIGHTS = D <= 32 ? 4 : 2;
    static constexpr int STEP = 8 * EIGHTS;

    using Key = RowShare<D, 4>;
    using Value = RowShare<D, 8>;
    using Keys = uint32_t[EIGHTS][Key::WORDS];
    using Values = uint32_t[EIGHTS][2][Value::WORDS];

    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const T* slab;
    KvHead kv;
    const int32_t* pages;
    int entries;

    uint32_t q[Key::WORDS];
    // Elements 2n and 2n + 1 of the lane's share of V's row: both for head 2t and for head 2t + 1.
    float out[Value::WORDS][4] = {};
    // Of head g: the largest score so far and, over the lane's own positions, the sum of the weights.
    float max = -INFINITY, sum = 0.0f;

    __device__ GroupWarp(const T* slab, const KvHead& kv, const int32_t* pages, int entries)
        : slab(slab), kv(kv), pages(pages), entries(entries) {}

    // The queries of `heads` heads, [heads, D]; the other rows stay zero.
    __device__ void set_queries(const T* queries, int heads) { Key::load(q, queries + g * D, t, g < heads); }

    // The page of each eight of the step at `base`. It may lie beyond the row's end, whatever the page
    // table says there: no position of it is then read.
    __device__ void look_up(int (&page)[EIGHTS], int base) const {
#pragma unroll
        for (int e = 0; e < EIGHTS; e++) {
            const int entry = kv.entry(base + 8 * e);
            page[e] = entry < entries ? pages[entry] : 0;
        }
    }

    // K and V of the step at `base`. Positions outside [begin, end) become zeros, so that a weight of
    // zero never meets a NaN.
    __device__ void read(Keys& k, const int (&page)[EIGHTS], int base, int begin, int end) const {
#pragma unroll
        for (int e = 0; e < EIGHTS; e++) {
            const int j = base + 8 * e + g;
            Key::load(k[e], slab + kv.key(page[e], j), t, j >= begin && j < end);
        }
    }

    __device__ void read(Values& v, const int (&page)[EIGHTS], int base, int begin, int end) const {
#pragma unroll
        for (int e = 0; e < EIGHTS; e++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int j = base + 8 * e + 2 * t + i;
                Value::load(v[e][i], slab + kv.value + kv.key(page[e], j), g, j >= begin && j < end);
            }
        }
    }

    // The steps base, base + stride … over the positions [begin, end); `page` is that of the first.
    __device__ void attend(int (&page)[EIGHTS], int base, int stride, int begin, int end, float scale) {
        Keys k;
        Values v;
        read(k, page, base, begin, end);
        read(v, page, base, begin, end);
        while (base < end) {
            const int next = base + stride;
            look_up(page, next);
            float s[EIGHTS][4];
            scores(s, k, base, begin, end, scale);
            // What is used up makes room for the next step's.
            read(k, page, next, begin, end);
            softmax(s);
            accumulate(s, v);
            read(v, page, next, begin, end);
            base = next;
        }
    }

    // Leaves the result in `parts`; a block barrier must follow before others read it.
    template <int G>
    __device__ void leave(Parts<G, D>& parts) const {
        static_assert(G <= 8);
        const int warp = threadIdx.x / 32;
        float total = sum;
        total += __shfl_xor_sync(0xffffffffu, total, 1);
        total += __shfl_xor_sync(0xffffffffu, total, 2);
        if (t == 0 && g < G) parts.state[warp][g] = make_float2(max, total);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            if (2 * t + i >= G) continue;
            float* const row = &parts.value[warp][2 * t + i][0].x;
#pragma unroll
            for (int n = 0; n < Value::WORDS; n++) {
                *reinterpret_cast<float2*>(row + Value::column(g, 2 * n)) = make_float2(out[n][i], out[n][i + 2]);
            }
        }
    }

private:
    // Scores in base 2, −∞ for positions that are not visible. Of s[e], a lane has head g at the
    // positions 2t and 2t + 1 of eight e; the other two values belong to the empty rows.
    __device__ void scores(float (&s)[EIGHTS][4], const Keys& k, int base, int begin, int end, float scale) const {
#pragma unroll
        for (int e = 0; e < EIGHTS; e++) {
            s[e][0] = s[e][1] = s[e][2] = s[e][3] = 0.0f;
#pragma unroll
            for (int w = 0; w < Key::WORDS; w += 2) {
                const uint32_t a[4] = {q[w], 0, q[w + 1], 0};
                mma<T>(s[e], a, k[e][w], k[e][w + 1]);
            }
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int j = base + 8 * e + 2 * t + i;
                s[e][i] = j >= begin && j < end ? s[e][i] * scale : -INFINITY;
            }
        }
    }

    // One step of the online softmax (Milakov & Gimelshein 2018): s becomes the weights.
    __device__ void softmax(float (&s)[EIGHTS][4]) {
        float top = max;
#pragma unroll
        for (int e = 0; e < EIGHTS; e++) top = fmaxf(top, fmaxf(s[e][0], s[e][1]));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
        // All keys masked so far: 2^(−∞ − 0) is 0, where −∞ − −∞ would be NaN.
        const float from = top == -INFINITY ? 0.0f : top;
        const float factor = exp2_approx(max - from);
        max = top;
        sum *= factor;
#pragma unroll
        for (int e = 0; e < EIGHTS; e++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                s[e][i] = exp2_approx(s[e][i] - from);
                sum += s[e][i];
            }
        }
        const float even = __shfl_sync(0xffffffffu, factor, 8 * t), odd = __shfl_sync(0xffffffffu, factor, 8 * t + 4);
#pragma unroll
        for (int n = 0; n < Value::WORDS; n++) {
            out[n][0] *= even, out[n][1] *= odd, out[n][2] *= even, out[n][3] *= odd;
        }
    }

    // out += Vᵀ · weightsᵀ. A register of the A operand holds one element of V at two positions.
    __device__ void accumulate(const float (&s)[EIGHTS][4], const Values& v) {
#pragma unroll
        for (int e = 0; e < EIGHTS; e += 2) {
            const uint32_t b0 = pack<T>(s[e][0], s[e][1]), b1 = pack<T>(s[e + 1][0], s[e + 1][1]);
#pragma unroll
            for (int n = 0; n < Value::WORDS; n++) {
                const uint32_t a[4] = {
                    __byte_perm(v[e][0][n], v[e][1][n], LOWER), __byte_perm(v[e][0][n], v[e][1][n], UPPER),
                    __byte_perm(v[e + 1][0][n], v[e + 1][1][n], LOWER), __byte_perm(v[e + 1][0][n], v[e + 1][1][n], UPPER)};
                mma<T>(out[n], a, b0, b1);
            }
        }
    }

    // For __byte_perm: the lower and the upper halves of two words, as one word.
    static constexpr uint32_t LOWER = 0x5410, UPPER = 0x7632;
};
