// Y = X·W for any number of rows, in every type and on every GPU: X [M, K], W [K, N] row-major, with
// what follows the product fused (linear.cuh). For steps that no kernel made for their size takes.

#include "linear.cuh"
#include "portable.cuh"

template <typename T, int ROWS, int COLUMNS>
__device__ void linear_portable(const LinearParams<T>& p) {
    using Finish = ::Finish<ROWS, COLUMNS>;
    const Place place(ROWS, COLUMNS);
    const Columns<T, Finish::WIDTH> columns(p, place.column + Finish::own_column());
    const auto finish = [&](int row, float (&products)[Finish::FLIGHTS][Finish::WIDTH]) {
        typename Columns<T, Finish::WIDTH>::Row rows[Finish::FLIGHTS];
        columns.template aim<Finish::ROWS_AT_ONCE>(rows, row, p.m);
#pragma unroll
        for (int i = 0; i < Finish::FLIGHTS; i++) columns.finish(rows[i], products[i]);
    };
    if (place.row < p.m) multiply<T, ROWS, COLUMNS, K_BY_N>({p.x, p.w, p.m, p.n, p.k}, place, finish);
}

#define LINEAR_PORTABLE(size, suffix, T, ROWS, COLUMNS)                                                             \
    extern "C" __global__ void __launch_bounds__(THREADS) linear_portable_##suffix##_##size(const LinearParams<T> p) { \
        linear_portable<T, ROWS, COLUMNS>(p);                                                                       \
    }
FOR_EACH_TILE(LINEAR_PORTABLE)
