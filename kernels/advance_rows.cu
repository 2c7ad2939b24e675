// The first kernel of a step: what the rows are is already here, and moves on by itself.
//
// Between two steps a decoding row changes in a known way: it is given the token that was chosen for
// it, and its KV grows by one. Every row that has any is advanced so; then come the words that the host
// wants otherwise (rows that join, leave or take another part of their prompt, a page more), as pairs of
// index and value. They are read straight from page-locked host memory: one latency of the bus, and a
// step that differs in nothing uploads nothing.
//
// Last, each token's row, KV index and position. Where every row has one token (`query_start` is null)
// token and row are the same. One block: a step has a few hundred rows.

#include "params.cuh"

// The state's arrays, `capacity` words each: src/runner/cuda/rows.rs has them in this order.
enum { TOKEN = 0, KV_LEN = 1, SAMPLE_INDEX = 2, KV_START = 3 };

extern "C" __global__ void __launch_bounds__(1024) advance_rows_i32(const AdvanceRowsParams p) {
    int32_t* const token = p.state + TOKEN * p.capacity;
    int32_t* const kv_len = p.state + KV_LEN * p.capacity;
    int32_t* const sample_index = p.state + SAMPLE_INDEX * p.capacity;
    const int32_t* const kv_start = p.state + KV_START * p.capacity;
    const int2* const pairs = reinterpret_cast<const int2*>(p.differences) + 1;

    // Both at once; the buffer has at least this many pairs.
    const int count = p.differences[0];
    const int2 own = pairs[threadIdx.x];
    for (int row = threadIdx.x; row < p.capacity; row += blockDim.x) {
        if (kv_len[row] == 0) continue;
        token[row] = p.tokens[row];
        kv_len[row]++;
        sample_index[row]++;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
        const int2 pair = i == threadIdx.x ? own : pairs[i];
        p.state[pair.x] = pair.y;
    }
    __syncthreads();

    if (!p.query_start) {
        for (int row = threadIdx.x; row < p.rows; row += blockDim.x) {
            // −1 where there is no row.
            const int index = kv_len[row] - 1;
            p.kv_index[row] = index;
            p.positions[row] = max(index - kv_start[row], 0);
        }
        return;
    }
    const int lane = threadIdx.x % 32;
    for (int row = threadIdx.x / 32; row < p.rows; row += blockDim.x / 32) {
        const int first = p.query_start[row], end = p.query_start[row + 1];
        const int before = kv_len[row] - end;
        for (int t = first + lane; t < end; t += 32) {
            p.token_row[t] = row;
            p.kv_index[t] = before + t;
            p.positions[t] = max(before + t - kv_start[row], 0);
        }
        if (lane == 0) p.last_token[row] = end - 1;
    }
}
