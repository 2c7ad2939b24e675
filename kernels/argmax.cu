// Greedy decoding: the lowest index of the largest f32 logit of each row; NaN never wins.
//
// Bound by memory: V·4 bytes a row. One block a row, 16-byte loads, four in flight a thread.

#include "launch.cuh"
#include "logits.cuh"
#include "params.cuh"

extern "C" __global__ void __launch_bounds__(LOGITS_THREADS) argmax_f32(const ArgmaxParams p) {
    follow_previous_kernel();
    const size_t row = blockIdx.x;
    const Best best = row_best(p.logits + row * p.stride, p.vocab);
    if (threadIdx.x == 0) p.out[row] = p.host_out[row] = best.index;
}
