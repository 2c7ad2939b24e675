// The repetition penalty (Keskar et al. 2019) on the logits of a row's seen tokens, in place: those
// above zero are divided by it, the others multiplied. One block a row; each token is named once.
//
// Starts, ids and penalties lie in host memory: a few thousand integers, read once, are not worth a
// copy of their own.

#include "launch.cuh"
#include "params.cuh"

extern "C" __global__ void penalise_f32(const PenaliseParams p) {
    follow_previous_kernel();
    const size_t row = blockIdx.x;
    const float penalty = p.penalties[row];
    for (int i = p.starts[row] + threadIdx.x; i < p.starts[row + 1]; i += blockDim.x) {
        float& logit = p.logits[row * p.stride + p.ids[i]];
        logit = logit > 0.0f ? logit / penalty : logit * penalty;
    }
}
