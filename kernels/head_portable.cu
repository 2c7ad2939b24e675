// The vocabulary's f32 logits of every row, X·Eᵀ: X [M, K], E [N, K] row-major, on every GPU.

#include "params.cuh"
#include "portable.cuh"

template <typename T, int ROWS, int COLUMNS>
__device__ void head_portable(const LogitsParams<T>& p) {
    using Finish = ::Finish<ROWS, COLUMNS>;
    const Place place(ROWS, COLUMNS);
    const int n = place.column + Finish::own_column();
    const auto finish = [&](int row, float (&products)[Finish::FLIGHTS][Finish::WIDTH]) {
#pragma unroll
        for (int i = 0; i < Finish::FLIGHTS; i++) {
            const int m = row + i * Finish::ROWS_AT_ONCE;
            if (m < p.m && n < p.n) store(p.logits + static_cast<size_t>(m) * p.n + n, products[i]);
        }
    };
    if (place.row < p.m) multiply<T, ROWS, COLUMNS, N_BY_K>({p.x, p.w, p.m, p.n, p.k}, place, finish);
}

#define HEAD_PORTABLE(size, suffix, T, ROWS, COLUMNS)                                                             \
    extern "C" __global__ void __launch_bounds__(THREADS) head_portable_##suffix##_##size(const LogitsParams<T> p) { \
        head_portable<T, ROWS, COLUMNS>(p);                                                                       \
    }
FOR_EACH_TILE(HEAD_PORTABLE)
