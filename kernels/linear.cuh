// What follows a product X·W, in the kernel that computes it: Y = activation(X·W + bias), or with the
// gate activation(even columns)·odd columns; or the f32 residual stream += X·W + bias; or the queries,
// keys and values of X·W + bias to their places, the first two turned by rotary positions.
//
// A thread finishes WIDTH neighbouring columns of several rows. WIDTH divides 8, so that the columns
// belong to one head, and holds whole pairs. REPEATS: it does so in a loop (activation.cuh).
#pragma once

#include "activation.cuh"
#include "dtype.cuh"
#include "kv.cuh"
#include "params.cuh"

template <typename T, int WIDTH, bool REPEATS = false>
struct Columns {
    // Where these columns of a row go, both null when nowhere, and what the product is added to, or
    // the angles by which it is turned.
    struct Row {
        T* y = nullptr;
        float* stream = nullptr;
        float start[WIDTH] = {};
    };

    const LinearParams<T>& p;
    const int n;
    const QkvColumn<T> qkv;
    float bias[WIDTH] = {};

    // The columns from n on. Reads weights alone: may stand before the previous kernel has ended.
    __device__ Columns(const LinearParams<T>& p, int n) : p(p), n(n), qkv(p.qkv, p.qkv.q ? n : 0) {
        if (p.bias && n < p.n) load(bias, p.bias + n);
    }

    // The rows first, first + STRIDE, ... below `end`. What they start from is on its way for all of
    // them at once.
    template <int STRIDE, int ROWS>
    __device__ void aim(Row (&rows)[ROWS], int first, int end) const {
        if (n >= p.n) return;
        end = min(end, p.m);
        if (p.qkv.q) {
            T* places[ROWS];
            qkv.template find<STRIDE>(places, p.qkv, first, end);
#pragma unroll
            for (int i = 0; i < ROWS; i++) rows[i].y = places[i];
            if (qkv.turn) {
                float turns[ROWS][WIDTH];
                qkv.template find_turns<STRIDE>(turns, p.qkv, first, end);
#pragma unroll
                for (int i = 0; i < ROWS; i++) {
#pragma unroll
                    for (int j = 0; j < WIDTH; j++) rows[i].start[j] = turns[i][j];
                }
            }
            return;
        }
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            const int m = first + i * STRIDE;
            const size_t at = static_cast<size_t>(m) * p.n + n;
            if (m < end && !p.residual) rows[i].y = p.y + (p.gated ? at / 2 : at);
            if (m < end && p.residual) load(rows[i].start, rows[i].stream = p.residual + at);
        }
    }

    __device__ void finish(const Row& row, float (&product)[WIDTH]) const {
        if (qkv.turn) {
#pragma unroll
            for (int i = 0; i < WIDTH; i++) product[i] += bias[i];
            rotate(product, row.start);
            if (row.y) store(row.y, product);
            return;
        }
#pragma unroll
        for (int i = 0; i < WIDTH; i++) product[i] += bias[i] + row.start[i];
        if (row.y && p.gated) {
            write_gated(row.y, product);
        } else if (row.stream) {
            store(row.stream, product);
        } else if (row.y) {
            if (p.activation != IDENTITY) {
#pragma unroll
                for (int i = 0; i < WIDTH; i += 2) {
                    const float2 v = activate_pair<REPEATS>(p.activation, make_float2(product[i], product[i + 1]));
                    product[i] = v.x;
                    product[i + 1] = v.y;
                }
            }
            store(row.y, product);
        }
    }

private:
    __device__ void write_gated(T* y, const float (&product)[WIDTH]) const {
        static_assert(WIDTH == 2 || WIDTH == 4);
        const float2 gates = make_float2(product[0], product[WIDTH - 2]);
        const float2 opened = activate_pair<REPEATS>(p.activation, gates);
        if constexpr (WIDTH == 2) {
            store_one(y, opened.x * product[1]);
        } else {
            const float both[2] = {opened.x * product[1], opened.y * product[3]};
            store(y, both);
        }
    }
};
