// Addressing one layer's part of the KV slab, [page][K|V][head][position][D]. One (page, head) is
// contiguous, and a page holds a power of two of positions, at least 8.
#pragma once

#include <cstdint>

#include "dtype.cuh"
#include "params.cuh"

// The smallest page: positions of one aligned run of this length share a page.
constexpr int MIN_PAGE = 8;

// K and V of one head, element offsets into the slab.
struct KvHead {
    int64_t head;
    int64_t page_elements;
    int64_t value;
    int shift;
    int head_dim;

    KvHead() = default;
    __device__ KvHead(int kv_head, int kv_heads, int page_size, int head_dim)
        : head(static_cast<int64_t>(kv_head) * page_size * head_dim),
          page_elements(2LL * kv_heads * page_size * head_dim),
          value(static_cast<int64_t>(kv_heads) * page_size * head_dim),
          shift(31 - __clz(page_size)),
          head_dim(head_dim) {}

    // Entry of the row's page table that KV index j needs.
    __device__ int entry(int j) const { return j >> shift; }

    // Offset of K at KV index j, which lies in `page`; V lies `value` elements further.
    __device__ int64_t key(int page, int j) const {
        return page * page_elements + head + (j & ((1 << shift) - 1)) * head_dim;
    }
};

// Where a column of the QKV product goes, and those after it in the same head: the queries are packed
// as [T, Hq, D], K and V have their places in the pages.
template <typename T>
struct QkvColumn {
    T* query = nullptr;
    int q_width;
    KvHead head = {};
    int64_t within;
    // The cosine and sine of position 0 for the first pair of columns, and from one position to the
    // next; null where these columns are not turned.
    const float* turn = nullptr;
    int turn_stride;

    __device__ QkvColumn(const QkvTarget<T>& to, int column)
        : q_width(to.query_heads * to.head_dim) {
        // Of another product: used for nothing.
        if (!to.q) return;
        const int kv_width = to.kv_heads * to.head_dim;
        turn_stride = to.head_dim;
        if (to.rotary && column < q_width + kv_width) turn = to.rotary + column % to.head_dim;
        if (column < q_width) {
            query = to.q + column;
            return;
        }
        const bool value = column >= q_width + kv_width;
        const int of_kv = column - q_width - (value ? kv_width : 0);
        head = KvHead(of_kv / to.head_dim, to.kv_heads, to.page_size, to.head_dim);
        within = of_kv % to.head_dim + (value ? head.value : 0);
    }

    // Its places for the tokens first, first + STRIDE, ... below `end`, looked up for all of them at
    // once. Null from `end` on, and where the token is padding and the column is of K or V.
    template <int STRIDE, int TOKENS>
    __device__ void find(T* (&places)[TOKENS], const QkvTarget<T>& to, int first, int end) const {
        if (query) {
#pragma unroll
            for (int i = 0; i < TOKENS; i++) {
                const int token = first + i * STRIDE;
                places[i] = token < end ? query + static_cast<size_t>(token) * q_width : nullptr;
            }
            return;
        }
        int index[TOKENS], row[TOKENS], page[TOKENS];
#pragma unroll
        for (int i = 0; i < TOKENS; i++) {
            const int token = first + i * STRIDE;
            index[i] = token < end ? to.kv_index[token] : -1;
            row[i] = token < end ? to.token_row[token] : 0;
        }
#pragma unroll
        for (int i = 0; i < TOKENS; i++) {
            const size_t entry = static_cast<size_t>(row[i]) * to.page_stride + head.entry(index[i]);
            page[i] = index[i] >= 0 ? to.page_table[entry] : 0;
        }
#pragma unroll
        for (int i = 0; i < TOKENS; i++) {
            places[i] = index[i] >= 0 ? to.kv + head.key(page[i], index[i]) + within : nullptr;
        }
    }

    // By which angles the same tokens' columns are turned: cosine and sine for every pair.
    template <int STRIDE, int TOKENS, int WIDTH>
    __device__ void find_turns(float (&turns)[TOKENS][WIDTH], const QkvTarget<T>& to, int first, int end) const {
        int position[TOKENS];
#pragma unroll
        for (int i = 0; i < TOKENS; i++) {
            const int token = first + i * STRIDE;
            position[i] = token < end ? to.positions[token] : 0;
        }
#pragma unroll
        for (int i = 0; i < TOKENS; i++) load(turns[i], turn + static_cast<size_t>(position[i]) * turn_stride);
    }
};

// Turns neighbouring pairs (Su et al. 2021).
template <int WIDTH>
__device__ inline void rotate(float (&v)[WIDTH], const float (&turn)[WIDTH]) {
#pragma unroll
    for (int i = 0; i < WIDTH; i += 2) {
        const float a = v[i], b = v[i + 1], cos = turn[i], sin = turn[i + 1];
        v[i] = a * cos - b * sin;
        v[i + 1] = b * cos + a * sin;
    }
}
