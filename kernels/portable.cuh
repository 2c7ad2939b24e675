// The product of one tile with what every GPU from Ampere on has: cp.async, ldmatrix and mma.sync for
// the 16-bit types, CUDA cores for f32. X [M, K] times W, which lies as [K, N] or as [N, K].
//
// K passes through a ring of stages in shared memory. All sums are f32 and run over K in order, whatever
// M and N.
#pragma once

#include <type_traits>

#include "launch.cuh"
#include "mma.cuh"

constexpr int WARPS = 4;
constexpr int THREADS = 32 * WARPS;

enum Layout { K_BY_N, N_BY_K };

template <typename T>
struct Factors {
    const T* x;
    const T* w;
    int m, n, k;
};

// Parts of the LINES lines of a row-major matrix, in pieces of 16 bytes that are placed so that eight
// lanes meet no bank twice, whether they read a piece of eight lines or eight pieces of one.
template <typename T, int LINES, int LENGTH>
struct Panel {
    static constexpr int WIDTH = Chunk<T>::SIZE, PIECES = LENGTH / WIDTH;
    static_assert(PIECES >= 4 && THREADS % PIECES == 0 && LINES % (THREADS / PIECES) == 0);

    uint4 pieces[LINES][PIECES];

    // Of lines of four pieces, an even and an odd one fill the banks by themselves.
    static __device__ int place(int line, int piece) { return piece ^ (PIECES == 4 ? line / 2 % 4 : line % 8); }

    __device__ const uint4* at(int line, int piece) const { return &pieces[line][place(line, piece)]; }

    // From (line, element) of a matrix of `lines` lines of `length` elements on; zeros where it ends.
    __device__ void fetch(const T* matrix, int lines, int length, int first_line, int first_element) {
        constexpr int LINES_AT_ONCE = THREADS / PIECES;
        const int own = threadIdx.x / PIECES, piece = threadIdx.x % PIECES;
        const int line = first_line + own, element = first_element + piece * WIDTH;
        const T* from = matrix + static_cast<size_t>(line) * length + element;
#pragma unroll
        for (int i = 0; i < LINES; i += LINES_AT_ONCE) {
            const bool inside = line + i < lines && element < length;
            const T* source = inside ? from + static_cast<size_t>(i) * length : matrix;
            copy_async(&pieces[own + i][place(own + i, piece)], source, inside);
        }
    }
};

// One step of K.
template <typename T, int ROWS, int COLUMNS, int DEPTH, Layout LAYOUT>
struct Stage {
    using W = std::conditional_t<LAYOUT == K_BY_N, Panel<T, DEPTH, COLUMNS>, Panel<T, COLUMNS, DEPTH>>;

    Panel<T, ROWS, DEPTH> x;
    W w;

    __device__ void fetch_x(const Factors<T>& f, int row, int step) { x.fetch(f.x, f.m, f.k, row, step * DEPTH); }

    __device__ void fetch_w(const Factors<T>& f, int column, int step) {
        if constexpr (LAYOUT == K_BY_N) {
            w.fetch(f.w, f.k, f.n, step * DEPTH, column);
        } else {
            w.fetch(f.w, f.n, f.k, column, step * DEPTH);
        }
    }
};

// The sums of a tile. Four warps, two by two, own a quarter of it each.
template <typename T, int ROWS, int COLUMNS, Layout LAYOUT>
struct Sums {
    static constexpr int DEPTH = 64, STAGES = 3;
    static constexpr int WARP_ROWS = ROWS / 2, WARP_COLUMNS = COLUMNS / 2;
    using Stage = ::Stage<T, ROWS, COLUMNS, DEPTH, LAYOUT>;

    float acc[WARP_ROWS / 16][WARP_COLUMNS / 8][4] = {};

    static __device__ int warp_row() { return threadIdx.x / 32 / 2 * WARP_ROWS; }
    static __device__ int warp_column() { return threadIdx.x / 32 % 2 * WARP_COLUMNS; }

    // What the tensor cores take from 16 steps of K: a lane's part of X, and of W's columns by pairs of
    // eight.
    struct Operands {
        uint32_t x[WARP_ROWS / 16][4];
        uint32_t w[WARP_COLUMNS / 16][4];

        __device__ void load(const Stage& stage, int k) {
            const int lane = threadIdx.x % 32, matrix = lane / 8, i = lane % 8;
#pragma unroll
            for (int r = 0; r < WARP_ROWS / 16; r++) {
                load_matrices(x[r], stage.x.at(warp_row() + 16 * r + lane % 16, k / 8 + lane / 16));
            }
#pragma unroll
            for (int c = 0; c < WARP_COLUMNS / 16; c++) {
                const int column = warp_column() + 16 * c;
                if constexpr (LAYOUT == K_BY_N) {
                    const int line = k + matrix % 2 * 8 + i, piece = column / 8 + matrix / 2;
                    load_matrices_transposed(w[c], stage.w.at(line, piece));
                } else {
                    const int line = column + matrix / 2 * 8 + i, piece = k / 8 + matrix % 2;
                    load_matrices(w[c], stage.w.at(line, piece));
                }
            }
        }
    };

    __device__ void add(const Stage& stage) {
        Operands operands[2];
        operands[0].load(stage, 0);
#pragma unroll
        for (int k = 0; k < DEPTH; k += 16) {
            const Operands& now = operands[k / 16 % 2];
            if (k + 16 < DEPTH) operands[(k / 16 + 1) % 2].load(stage, k + 16);
#pragma unroll
            for (int r = 0; r < WARP_ROWS / 16; r++) {
#pragma unroll
                for (int c = 0; c < WARP_COLUMNS / 8; c++) {
                    mma<T>(acc[r][c], now.x[r], now.w[c / 2][c % 2 * 2], now.w[c / 2][c % 2 * 2 + 1]);
                }
            }
        }
    }

    // The upper or lower half of the rows, from the two warps that have it.
    template <int PITCH>
    __device__ void put(float (*half)[PITCH], bool lower) const {
        if (warp_row() != lower * WARP_ROWS) return;
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int r = 0; r < WARP_ROWS / 16; r++) {
#pragma unroll
            for (int c = 0; c < WARP_COLUMNS / 8; c++) {
#pragma unroll
                for (int i = 0; i < 4; i += 2) {
                    float* to = &half[16 * r + i / 2 * 8 + lane / 4][warp_column() + 8 * c + lane % 4 * 2];
                    *reinterpret_cast<float2*>(to) = make_float2(acc[r][c][i], acc[r][c][i + 1]);
                }
            }
        }
    }
};

// On CUDA cores: 16 threads side by side have four columns each, and ROWS / 8 neighbouring rows.
template <int ROWS, int COLUMNS, Layout LAYOUT>
struct Sums<float, ROWS, COLUMNS, LAYOUT> {
    static constexpr int DEPTH = 16, STAGES = 4;
    static constexpr int WIDTH = 4, ACROSS = COLUMNS / WIDTH, OWN_ROWS = ROWS * ACROSS / THREADS;
    using Stage = ::Stage<float, ROWS, COLUMNS, DEPTH, LAYOUT>;

    float acc[OWN_ROWS][WIDTH] = {};

    static __device__ int first_row() { return threadIdx.x / ACROSS * OWN_ROWS; }
    // Neighbours where a line of W has them; a line apart where each is one, against bank conflicts.
    static __device__ int column(int i) {
        const int across = threadIdx.x % ACROSS;
        return LAYOUT == K_BY_N ? across * WIDTH + i : across + i * ACROSS;
    }

    __device__ void add(const Stage& stage) {
#pragma unroll
        for (int k = 0; k < DEPTH; k += WIDTH) {
            // w[i][j] is column i at K = k + j, or with [K, N] column j at k + i.
            float x[OWN_ROWS][WIDTH], w[WIDTH][WIDTH];
#pragma unroll
            for (int i = 0; i < WIDTH; i++) {
                const bool along_n = LAYOUT == K_BY_N;
                const uint4* piece = along_n ? stage.w.at(k + i, column(0) / WIDTH) : stage.w.at(column(i), k / WIDTH);
                load(w[i], reinterpret_cast<const float*>(piece));
            }
#pragma unroll
            for (int r = 0; r < OWN_ROWS; r++) {
                load(x[r], reinterpret_cast<const float*>(stage.x.at(first_row() + r, k / WIDTH)));
            }
#pragma unroll
            for (int j = 0; j < WIDTH; j++) {
#pragma unroll
                for (int r = 0; r < OWN_ROWS; r++) {
#pragma unroll
                    for (int i = 0; i < WIDTH; i++) acc[r][i] += x[r][j] * (LAYOUT == K_BY_N ? w[j][i] : w[i][j]);
                }
            }
        }
    }

    template <int PITCH>
    __device__ void put(float (*half)[PITCH], bool lower) const {
        const int row = first_row() - lower * (ROWS / 2);
        if (row < 0 || row >= ROWS / 2) return;
#pragma unroll
        for (int r = 0; r < OWN_ROWS; r++) {
#pragma unroll
            for (int i = 0; i < WIDTH; i++) half[row + r][column(i)] = acc[r][i];
        }
    }
};

// The tile of this block. Eight row tiles stand side by side, so that the blocks that run at a time
// share rows of X and columns of W.
struct Place {
    int row, column;

    __device__ Place(int rows, int columns)
        : row((blockIdx.z * gridDim.x + blockIdx.x) * rows), column(blockIdx.y * columns) {}
};

// Adds the tile's product. The ring is free for other use after.
template <typename Sums, typename T>
__device__ void accumulate(Sums& sums, typename Sums::Stage* ring, const Factors<T>& f, const Place& place) {
    constexpr int STAGES = Sums::STAGES, AHEAD = STAGES - 1;
    const int steps = (f.k + Sums::DEPTH - 1) / Sums::DEPTH;
#pragma unroll 1
    for (int i = 0; i < min(AHEAD, steps); i++) ring[i].fetch_w(f, place.column, i);
    follow_previous_kernel();
#pragma unroll 1
    for (int i = 0; i < AHEAD; i++) {
        if (i < steps) ring[i].fetch_x(f, place.row, i);
        commit_copies();
    }
#pragma unroll 1
    for (int i = 0; i < steps; i++) {
        wait_copies_but<AHEAD - 1>();
        __syncthreads();
        // Every warp is done with the step before: its stage is filled again meanwhile.
        const int next = i + AHEAD;
        if (next < steps) {
            ring[next % STAGES].fetch_w(f, place.column, next);
            ring[next % STAGES].fetch_x(f, place.row, next);
        }
        commit_copies();
        sums.add(ring[i % STAGES]);
    }
    wait_copies();
}

// What is left of the product is finished by threads that have WIDTH neighbouring columns of a row, and
// of every ROWS_AT_ONCE-th row after it, FLIGHTS at a time.
template <int ROWS, int COLUMNS>
struct Finish {
    static constexpr int WIDTH = 4, THREADS_A_ROW = COLUMNS / WIDTH, ROWS_AT_ONCE = THREADS / THREADS_A_ROW;
    // Half of the tile at a time. Of a row of sums, in floats: the rows that a store of the accumulators
    // meets lie 8 banks apart.
    static constexpr int HALF = ROWS / 2, PITCH = COLUMNS + 8;
    static constexpr int FLIGHTS = HALF / ROWS_AT_ONCE < 4 ? HALF / ROWS_AT_ONCE : 4;
    static_assert(HALF % (ROWS_AT_ONCE * FLIGHTS) == 0);

    static __device__ int own_row() { return threadIdx.x / THREADS_A_ROW; }
    static __device__ int own_column() { return threadIdx.x % THREADS_A_ROW * WIDTH; }
};

// Calls then(row, sums) with the first row of FLIGHTS of them and its own columns' sums.
template <typename T, int ROWS, int COLUMNS, Layout LAYOUT, typename Then>
__device__ void multiply(const Factors<T>& factors, const Place& place, Then then) {
    using Sums = ::Sums<T, ROWS, COLUMNS, LAYOUT>;
    using Finish = ::Finish<ROWS, COLUMNS>;
    extern __shared__ uint4 memory[];
    Sums sums;
    accumulate(sums, reinterpret_cast<typename Sums::Stage*>(memory), factors, place);

    auto half = reinterpret_cast<float(*)[Finish::PITCH]>(memory);
#pragma unroll 1
    for (int lower = 0; lower < 2; lower++) {
        __syncthreads();
        sums.put(half, lower);
        __syncthreads();
#pragma unroll 1
        for (int base = Finish::own_row(); base < Finish::HALF; base += Finish::ROWS_AT_ONCE * Finish::FLIGHTS) {
            float products[Finish::FLIGHTS][Finish::WIDTH];
#pragma unroll
            for (int i = 0; i < Finish::FLIGHTS; i++) {
                load(products[i], &half[base + i * Finish::ROWS_AT_ONCE][Finish::own_column()]);
            }
            then(place.row + lower * Finish::HALF + base, products);
        }
    }
}

// Instantiates MAKE(size, suffix, type, rows, columns): tiles for few rows, and for many.
#define FOR_EACH_TILE(MAKE)          \
    MAKE(few, f32, float, 32, 64)    \
    MAKE(many, f32, float, 64, 64)   \
    MAKE(few, f16, f16, 64, 64)      \
    MAKE(many, f16, f16, 128, 128)   \
    MAKE(few, bf16, bf16, 64, 64)    \
    MAKE(many, bf16, bf16, 128, 128)
