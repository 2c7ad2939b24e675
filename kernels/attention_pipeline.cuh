// What attention_prefill_wgmma.cu's blocks work on, and the warps that bring it: which tile of queries
// of which row and head, its queries, and the tiles of K and V that it sees, by TMA from the pages.
#pragma once

#include "params.cuh"
#include "tma.cuh"
#include "wgmma.cuh"

constexpr int WARPGROUP = 128;
// Queries of one warpgroup.
constexpr int GROUP_QUERIES = 64;
// Descriptions of works that are kept: work n is found while the consumers may still write the output
// of work n − PLACES − 2.
constexpr int WORKS = 8;

// One tile of queries of one row and head.
struct Work {
    // A row of −1: there is no more work.
    int row, head, first_query, query_len, first_token;
    // KV index of query 0, and the keys that exist.
    int offset, begin, end;
    // The first positions of the tiles of keys, which are taken from the last to the first; none if
    // last < first.
    int first, last;
};

// A block's shared memory: rings of tiles, each with barriers that are passed when a place is full and
// when it is free. A matrix is rows of 64 columns; the halves of a head of 128 follow each other. The
// queries of work n are in place n % PLACES, tile n of K and of V in stage n % STAGES.
template <typename T, int HEAD_DIM, int CONSUMERS, int POSITIONS, int QUERY_DEPTH, int DEPTH>
struct alignas(EIGHT_ROWS) Pipeline {
    static constexpr int D = HEAD_DIM, GROUPS = CONSUMERS, TILE = POSITIONS, PLACES = QUERY_DEPTH, STAGES = DEPTH;
    static constexpr int QUERIES = GROUPS * GROUP_QUERIES, HALVES = D / ROW_ELEMENTS;
    using Queries = T[HALVES][GROUP_QUERIES][ROW_ELEMENTS];
    using Tile = T[HALVES][TILE][ROW_ELEMENTS];
    using Element = T;

    Queries q[PLACES][GROUPS];
    Tile k[STAGES], v[STAGES];
    Barrier q_full[PLACES], q_free[PLACES], k_full[STAGES], k_free[STAGES], v_full[STAGES], v_free[STAGES];
    // Passed when nothing but values and zeros is in a tile of V.
    Barrier v_clear[STAGES];
    // Passed when a work is described.
    Barrier known[WORKS];
    Work works[WORKS];

    // By one thread.
    __device__ void init() {
        // Every warp of the consumers frees a place.
        constexpr int WARPS = GROUPS * WARPGROUP / 32;
        for (int i = 0; i < PLACES; i++) q_full[i].init(1), q_free[i].init(WARPS);
        for (int i = 0; i < WORKS; i++) known[i].init(1);
        for (int i = 0; i < STAGES; i++) {
            k_full[i].init(1), v_full[i].init(1);
            k_free[i].init(WARPS), v_free[i].init(WARPS);
            // The first warpgroup's.
            v_clear[i].init(WARPGROUP / 32);
        }
        Barrier::publish();
    }
};

// Work `index`. The tiles with the most keys come first, those of a few heads at a time, whose keys and
// values then stay in the L2 cache. Tiles of keys start with the page, or the tile, of the first that
// exists, tiles of queries no earlier: left padding costs nothing, and the diagonal of an aligned row
// crosses one tile of keys for each of queries.
template <typename Pipeline, typename T>
__device__ inline void find_work(Work& w, const AttentionPrefillWgmmaParams<T>& params, int index) {
    constexpr int QUERIES = Pipeline::QUERIES, TILE = Pipeline::TILE;
    const AttentionPrefillParams<T>& p = params.attention;
    const int tiles = (p.max_query_len + QUERIES - 1) / QUERIES, lines = p.rows * p.query_heads;
    const int first_line = index / (params.lines_at_once * tiles) * params.lines_at_once;
    const int width = min(params.lines_at_once, lines - first_line), within = index - first_line * tiles;
    const int line = first_line + within % width, tile = tiles - 1 - within / width;
    w.row = line / p.query_heads, w.head = line % p.query_heads;
    w.first_token = p.query_start[w.row];
    w.query_len = p.query_start[w.row + 1] - w.first_token;
    w.begin = p.kv_start[w.row];
    w.end = p.kv_len[w.row];
    w.offset = w.end - w.query_len;
    w.first = w.begin & -min(p.page_size, TILE);
    w.first_query = max(w.first - w.offset, 0) + tile * QUERIES;
    const int last_index = w.offset + min(w.first_query + QUERIES, w.query_len) - 1;
    w.last = w.first_query < w.query_len ? w.first + (last_index - w.first) / TILE * TILE : w.first - 1;
}

// Four warps: three run ahead of the consumers, one that finds works and brings their queries, one for K
// and one for V; the last answers the queries that see no key.
template <typename Pipeline>
struct Producer {
    using T = typename Pipeline::Element;
    using Tile = typename Pipeline::Tile;
    static constexpr int D = Pipeline::D, TILE = Pipeline::TILE, PLACES = Pipeline::PLACES, STAGES = Pipeline::STAGES;

    const AttentionPrefillWgmmaParams<T>& params;
    Pipeline& memory;
    // Works and tiles so far.
    uint32_t works = 0, step = 0;

    __device__ Producer(const AttentionPrefillWgmmaParams<T>& params, Pipeline& memory) : params(params), memory(memory) {}

    // Blocks take works as they get to them: `taken` counts those beyond the first of each block and
    // the blocks that are done, and is zero again when all are.
    __device__ void bring_queries(int32_t (&taken)[2]) {
        const AttentionPrefillParams<T>& p = params.attention;
        const int count = (p.max_query_len + Pipeline::QUERIES - 1) / Pipeline::QUERIES * p.rows * p.query_heads;
        Work work;
#pragma unroll 1
        for (int index = blockIdx.x; index < count;) {
            find_work<Pipeline>(work, params, index);
            if (work.first <= work.last) announce(work);
            if (threadIdx.x % 32 == 0) index = gridDim.x + atomicAdd(&taken[0], 1);
            index = __shfl_sync(0xffffffffu, index, 0);
        }
        if (threadIdx.x % 32 == 0 && atomicAdd(&taken[1], 1) == gridDim.x - 1) taken[0] = taken[1] = 0;
        work.row = -1;
        announce(work);
    }

    // To the other producers at once, to the consumers with the queries.
    __device__ void announce(const Work& work) {
        const uint32_t n = works++;
        if (threadIdx.x % 32 == 0) {
            memory.works[n % WORKS] = work;
            memory.known[n % WORKS].arrive();
        }
        Barrier& full = memory.q_full[n % PLACES];
        memory.q_free[n % PLACES].wait(n / PLACES & 1 ^ 1);
        if (threadIdx.x % 32 != 0) return;
        if (work.row < 0) return full.arrive();
        const int groups = min(Pipeline::GROUPS, (work.query_len - work.first_query + GROUP_QUERIES - 1) / GROUP_QUERIES);
        full.expect(groups * static_cast<int>(sizeof(memory.q[0][0])));
#pragma unroll 1
        for (int g = 0; g < groups; g++) {
            const int token = work.first_token + work.first_query + g * GROUP_QUERIES;
#pragma unroll
            for (int half = 0; half < Pipeline::HALVES; half++) {
                copy_box(memory.q[n % PLACES][g][half], params.q, token, work.head * D + half * ROW_ELEMENTS, full);
            }
        }
    }

    __device__ void bring_keys() {
        for_each_tile([this](const Work& work, int first, int stage) {
            memory.k_free[stage].wait(step / STAGES & 1 ^ 1);
            fetch(memory.k[stage], work, first, 0, memory.k_full[stage]);
        });
    }

    __device__ void bring_values() {
        for_each_tile([this](const Work& work, int first, int stage) {
            memory.v_free[stage].wait(step / STAGES & 1 ^ 1);
            fetch(memory.v[stage], work, first, 1, memory.v_full[stage]);
        });
    }

    // Of every work, until there is no more.
    template <typename Bring>
    __device__ void for_each_tile(Bring bring) {
#pragma unroll 1
        for (;; works++) {
            memory.known[works % WORKS].wait(works / WORKS & 1);
            const Work work = memory.works[works % WORKS];
            if (work.row < 0) return;
#pragma unroll 1
            for (int at = work.last; at >= work.first; at -= TILE, step++) bring(work, at, step % STAGES);
        }
    }

    // Starts the copies of positions first … first + TILE, a page or a part of one at a time; boxes
    // without a position that exists are left out.
    __device__ void fetch(Tile& to, const Work& work, int first, int value, Barrier& done) {
        const AttentionPrefillParams<T>& p = params.attention;
        const int32_t* const pages = p.page_table + static_cast<int64_t>(work.row) * p.page_stride;
        const int kv_head = work.head * p.kv_heads / p.query_heads, shift = 31 - __clz(p.page_size);
        const int rows = min(p.page_size, TILE), boxes = TILE / rows;
        const int low = max(work.begin - first, 0) / rows, high = (min(work.end - first, TILE) + rows - 1) / rows;
        if (threadIdx.x % 32 == 0) done.expect((high - low) * rows * D * static_cast<int>(sizeof(T)));
        __syncwarp();
#pragma unroll 1
        for (int i = threadIdx.x % 32; i < boxes * Pipeline::HALVES; i += 32) {
            const int box = i % boxes, half = i / boxes, j = first + box * rows;
            if (box < low || box >= high) continue;
            const int head_row = ((pages[j >> shift] * 2 + value) * p.kv_heads + kv_head) << shift;
            copy_box(to[half][box * rows], params.kv, head_row + (j & (p.page_size - 1)), half * ROW_ELEMENTS, done);
        }
    }

    // The first queries of rows with left padding.
    __device__ void write_zeros() {
        const AttentionPrefillParams<T>& p = params.attention;
        constexpr int PIECES = D / 8;
#pragma unroll 1
        for (int line = blockIdx.x; line < p.rows * p.query_heads; line += gridDim.x) {
            const int row = line / p.query_heads, head = line % p.query_heads;
            const int64_t first_token = p.query_start[row];
            const int query_len = p.query_start[row + 1] - p.query_start[row];
            const int blind = min(p.kv_start[row] - (p.kv_len[row] - query_len), query_len);
            T* const to = p.out + (first_token * p.query_heads + head) * D;
#pragma unroll 4
            for (int i = threadIdx.x % 32; i < blind * PIECES; i += 32) {
                T* const query = to + static_cast<int64_t>(i / PIECES) * p.query_heads * D;
                reinterpret_cast<uint4*>(query)[i % PIECES] = make_uint4(0, 0, 0, 0);
            }
        }
    }
};
