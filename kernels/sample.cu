// Temperature, top-k, top-p and Gumbel-max sampling, the rule of src/sampling.rs.
//
// No sort. Both filters keep the logits from some threshold on, so each is a search for the largest
// threshold whose kept weight (a count for top-k, a probability for top-p) is still enough, on the
// bits of the float in an order that integers understand, two bits a pass. The sums are taken in a
// fixed order and without atomics: the same input gives the same token.
//
// One block a row. The row (201 KB at GPT-2's vocabulary) stays in cache between passes.

#include "launch.cuh"
#include "logits.cuh"
#include "params.cuh"
#include "philox.cuh"

// u < 1 − 2⁻²⁴, so −ln(−ln u) is below 24·ln 2; a token this far behind the leader cannot win.
constexpr float LARGEST_GUMBEL = 16.64f;

__device__ inline float gumbel(uint2 key, uint32_t sample_index, uint32_t token) {
    const uint4 words = philox(make_uint4(token, sample_index, 0, 0), key);
    return -logf(-logf(unit_interval(words.x)));
}

// Monotone map from floats to unsigned integers; NaN of either sign is below everything.
__device__ inline uint32_t ordered(float v) {
    const uint32_t bits = __float_as_uint(v);
    if (v != v) return 0;
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

struct Sums {
    static constexpr int N = 3;
    float of[N] = {};
};

// Sums over the block, in the same order every time and known to every thread.
__device__ Sums block_sums(Sums s) {
    __shared__ float partial[Sums::N][32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    // Before the stores: an earlier call's readers may still be reading.
    __syncthreads();
#pragma unroll
    for (int n = 0; n < Sums::N; n++) {
        for (int step = 16; step > 0; step /= 2) s.of[n] += __shfl_xor_sync(0xffffffffu, s.of[n], step);
        if (lane == 0) partial[n][warp] = s.of[n];
    }
    __syncthreads();
#pragma unroll
    for (int n = 0; n < Sums::N; n++) {
        s.of[n] = partial[n][lane];
        for (int step = 16; step > 0; step /= 2) s.of[n] += __shfl_xor_sync(0xffffffffu, s.of[n], step);
    }
    return s;
}

// The largest `t` for which the weights of all logits with ordered(logit) ≥ t sum to `wanted`.
// Adding non-negative floats in a fixed order is monotone, so the search is exact for these sums.
template <typename Weight>
__device__ uint32_t search_threshold(const float* row, int vocab, float wanted, Weight weight) {
    uint32_t found = 0;
    for (int shift = 30; shift >= 0; shift -= 2) {
        Sums kept;
        for_each_logit(row, vocab, [&](int, float v) {
            const uint32_t key = ordered(v);
            if (key < found) return;
            const float w = weight(key, v);
#pragma unroll
            for (uint32_t n = 0; n < Sums::N; n++) kept.of[n] += key >= (found | (n + 1) << shift) ? w : 0.0f;
        });
        kept = block_sums(kept);
        uint32_t digit = 0;
#pragma unroll
        for (uint32_t n = 0; n < Sums::N; n++) digit = kept.of[n] >= wanted ? n + 1 : digit;
        found |= digit << shift;
    }
    return found;
}

struct Sampling {
    float temperature;
    int top_k;
    float top_p;
};

// The smallest kept logit, as `ordered` gives it.
__device__ uint32_t keep_threshold(const float* row, int vocab, const Sampling& s, float max) {
    uint32_t threshold = 0;
    if (s.top_k > 0 && s.top_k < vocab) {
        // A count up to 2²⁴ is exact in f32.
        threshold = search_threshold(row, vocab, static_cast<float>(s.top_k), [](uint32_t, float) { return 1.0f; });
    }
    if (s.top_p < 1.0f) {
        const auto weight = [&](uint32_t key, float v) {
            return key >= threshold && key > 0 ? expf((v - max) / s.temperature) : 0.0f;
        };
        Sums total;
        for_each_logit(row, vocab, [&](int, float v) { total.of[0] += weight(ordered(v), v); });
        const float wanted = fmaxf(block_sums(total).of[0] * s.top_p, 1e-30f);
        threshold = search_threshold(row, vocab, wanted, weight);
    }
    return threshold;
}

// The kept token with the largest logit / temperature + noise.
__device__ Best gumbel_max(const float* row, int vocab, const Sampling& s, uint32_t threshold, float max, uint2 key, uint32_t sample_index) {
    Best best;
    for_each_logit(row, vocab, [&](int i, float v) {
        const float score = v / s.temperature;
        if (ordered(v) < threshold || score + LARGEST_GUMBEL < best.value) return;
        best.offer(i, score + gumbel(key, sample_index, i));
    });
    return block_best(best);
}

extern "C" __global__ void __launch_bounds__(LOGITS_THREADS) sample_f32(const SampleParams p) {
    follow_previous_kernel();
    const size_t b = blockIdx.x;
    const float* row = p.logits + b * p.stride;
    const Sampling s = {p.temperature[b], p.top_k[b], p.top_p[b]};

    Best best = row_best(row, p.vocab);
    if (s.temperature != 0.0f) {
        const float max = best.value;
        const uint32_t threshold = keep_threshold(row, p.vocab, s, max);
        best = gumbel_max(row, p.vocab, s, threshold, max, philox_key(p.seed[b]), p.sample_index[b]);
    }
    if (threadIdx.x == 0) p.out[b] = p.host_out[b] = best.index;
}
