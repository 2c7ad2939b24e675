// The first residual stream: x[t] = wte[id_t] + wpe[pos_t], or without wpe where positions are rotary.
//
// Bound by memory: a token reads 2·C values of T and writes C of f32. The stream is f32 so that the
// sum of all layers loses nothing. Blocks stand over (token, part of the channels), so that a single
// token still uses several SMs.

#include "dtype.cuh"
#include "launch.cuh"
#include "params.cuh"

template <typename T>
__device__ void embedding(const EmbeddingParams<T>& p) {
    follow_previous_kernel();
    const size_t token = blockIdx.x;
    const int channel = (blockIdx.y * blockDim.x + threadIdx.x) * VECTOR;
    if (channel >= p.channels) return;
    const size_t id = p.token_ids[token];
    float x[VECTOR];
    load(x, p.wte + id * p.channels + channel);
    if (p.wpe) {
        const size_t position = p.positions[token];
        float place[VECTOR];
        load(place, p.wpe + position * p.channels + channel);
#pragma unroll
        for (int i = 0; i < VECTOR; i++) x[i] += place[i];
    }
    store(p.x + token * p.channels + channel, x);
}

#define EMBEDDING(suffix, T) \
    extern "C" __global__ void embedding_##suffix(const EmbeddingParams<T> p) { embedding(p); }
FOR_EACH_DTYPE(EMBEDDING)
