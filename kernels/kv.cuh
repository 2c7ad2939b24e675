// Addressing one layer's part of the KV slab, [page][K|V][head][position][D]. One (page, head) is
// contiguous, and a page holds a power of two of positions, at least 8.
#pragma once

#include <cstdint>

// The smallest page: positions of one aligned run of this length share a page.
constexpr int MIN_PAGE = 8;

// K and V of one head, element offsets into the slab.
struct KvHead {
    int64_t head;
    int64_t page_elements;
    int64_t value;
    int shift;
    int head_dim;

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
