// The MLP sublayer of a small model for few rows: norm, X·W_up, activation or gate, and what this
// cluster's slice of the features gives to ·W_down (sublayer.cuh). Its eight blocks divide the channels.

#include "activation.cuh"
#include "sublayer.cuh"

template <typename T>
__device__ void mlp_sublayer(const MlpSublayerParams<T>& p) {
    extern __shared__ uint4 memory[];
    const int channels = p.stream.channels, part = channels / RANKS, rank = blockIdx.x, slice = blockIdx.y;
    const int rows = min(ROWS, p.stream.m - static_cast<int>(blockIdx.z) * ROWS);
    const int features = p.features / gridDim.y, columns = p.gated ? 2 * features : features;
    const int all_columns = columns * gridDim.y;
    Carver carver{reinterpret_cast<unsigned char*>(memory)};
    const Tile<T> w_up = carver.tile<T>(up_to(part, 16), columns);
    const Tile<T> w_down = carver.tile<T>(features, up_to(part, 16));
    const Tile<T> x = carver.tile<T>(ROWS, up_to(part, 32));
    const Tile<T> hidden = carver.tile<T>(ROWS, up_to(features, 32));
    T* const own = carver.take<T>(features);
    T* const bias = carver.take<T>(columns);
    float* const sums = carver.take<float>(RANKS * columns);
    auto* const moments = reinterpret_cast<float2(*)[RANKS]>(carver.take<float2>(ROWS * RANKS));
    Barrier* const barriers = carver.take<Barrier>(4);
    const Inbox weights_in{barriers}, moments_in{barriers + 1}, sums_in{barriers + 2}, rows_in{barriers + 3};

    if (threadIdx.x == 0) {
        weights_in.open_to_copies();
        moments_in.open(rows * RANKS * sizeof(float2));
        sums_in.open(rank < rows ? RANKS * columns * sizeof(float) : 0);
        rows_in.open(rows * features * sizeof(T));
    }
    __syncthreads();
    const T* const up = p.w_up + static_cast<size_t>(rank) * part * all_columns + slice * columns;
    w_up.fetch(0, up, all_columns, part, columns);
    const T* const down = p.w_down + static_cast<size_t>(slice) * features * channels + rank * part;
    w_down.fetch(0, down, channels, features, part);
    if (p.up_bias) fetch(bias, p.up_bias + slice * columns, columns);
    weights_in.count_copies();
    StreamPart<T, 16> stream(p.stream);
    w_up.clear(part, up_to(part, 16));
    x.clear(0, ROWS);
    hidden.clear(0, ROWS);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const Outbox moments_out(moments_in, &moments[warp][rank], lane % RANKS);
    const SumsOut sums_out(sums_in, sums, columns, rows);
    const PartOut<T> part_out(p.parts, p.stream, rows);
    cluster_barrier();
    follow_previous_kernel();

    stream.gather();
    const float2 own_moments = stream.moments();
    if (lane < RANKS && warp < rows) moments_out.push(own_moments);
    moments_in.wait();
    stream.normalise(x.row(warp), moments[warp]);
    weights_in.wait();
    __syncthreads();
    multiply_all(x, w_up, columns, part, [&](int column, auto& sum) { sums_out.push(column, sum); });

    if (rank < rows) {
        sums_in.wait();
#pragma unroll 1
        for (int column = threadIdx.x * 2; column < columns; column += THREADS * 2) {
            float2 v = sum_of_ranks(sums, columns, column);
            if (p.up_bias) {
                float b[2];
                load(b, bias + column);
                v.x += b[0], v.y += b[1];
            }
            const float2 activated = activate_pair<false>(p.activation, v);
            if (p.gated) {
                store_one(own + column / 2, activated.x * v.y);
            } else {
                const float both[2] = {activated.x, activated.y};
                store(own + column, both);
            }
        }
        __syncthreads();
        push_row(rows_in, hidden, own, features);
    }
    stream.write_back();
    rows_in.wait();
    multiply_all(hidden, w_down, part, features, [&](int column, auto& sum) { part_out.write(column, sum); });
}

#if __CUDA_ARCH__ >= 900
#define BODY(p) mlp_sublayer(p)
#else
#define BODY(p)
#endif
#define MLP_SUBLAYER(suffix, T)                                               \
    extern "C" __global__ void __launch_bounds__(THREADS, 2)                  \
        mlp_sublayer_##suffix(const MlpSublayerParams<T> p) { \
        BODY(p);                                                              \
    }
MLP_SUBLAYER(f16, f16)
MLP_SUBLAYER(bf16, bf16)
