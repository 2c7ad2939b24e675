// Hopper's bulk tensor copies (TMA) and the barriers in shared memory that they complete on (PTX ISA,
// "mbarrier" and "cp.async.bulk.tensor"). A tensor map, made by the host (`TensorMap` in
// src/runner/cuda/tensor_map.rs), says where a matrix lies and in which boxes it is copied.
#pragma once

#include <cstdint>

#include "mma.cuh"
#include "params.cuh"

// A barrier that is passed once in every phase: when `arrivals` threads have arrived and all bytes
// that were announced have come. Whoever waits names the parity of the phase it waits for, 0 first.
struct Barrier {
    uint64_t state;

    // Once, by one thread; `publish` must follow, and a block barrier before another thread comes by.
    __device__ void init(int arrivals) {
        asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(this)), "r"(arrivals) : "memory");
    }
    __device__ static void publish() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

    __device__ void arrive() {
        asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(this)) : "memory");
    }
    // The same at the barrier that block `rank` of the cluster has in this place.
    template <int CLUSTER>
    __device__ void arrive_in_cluster(int rank) {
        if constexpr (CLUSTER == 1) {
            arrive();
        } else {
            // Without a scope: one of the whole cluster would first wait for all that the thread wrote.
            asm volatile(
                "{ .reg .u32 remote;\n"
                "mapa.shared::cluster.u32 remote, %0, %1;\n"
                "mbarrier.arrive.shared::cluster.b64 _, [remote]; }" ::"r"(shared_address(this)),
                "r"(rank)
                : "memory");
        }
    }
    // Arrives, and announces bytes of copies.
    __device__ void expect(int bytes) {
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(this)), "r"(bytes)
                     : "memory");
    }
    __device__ void wait(uint32_t parity) {
        asm volatile(
            "{ .reg .pred passed;\n"
            "again: mbarrier.try_wait.parity.shared::cta.b64 passed, [%0], %1;\n"
            "@!passed bra again; }" ::"r"(shared_address(this)),
            "r"(parity)
            : "memory");
    }
};

// Asks for the map itself, which the first copy by it would wait for.
__device__ inline void fetch_map(const TensorMap& map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

// Copies the map's box at (row, column) to shared memory in the background; `done` gets its bytes.
__device__ inline void copy_box(void* to, const TensorMap& map, int row, int column, Barrier& done) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
            shared_address(to)),
        "l"(&map), "r"(column), "r"(row), "r"(shared_address(&done))
        : "memory");
}

// The same to this place in every block of the cluster, and bytes to the barrier of each.
template <int CLUSTER>
__device__ inline void copy_box_to_all(void* to, const TensorMap& map, int row, int column, Barrier& done) {
    if constexpr (CLUSTER == 1) {
        copy_box(to, map, row, column, done);
    } else {
        asm volatile(
            "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, "
            "%3}], [%4], %5;" ::"r"(shared_address(to)),
            "l"(&map), "r"(column), "r"(row), "r"(shared_address(&done)), "h"(static_cast<uint16_t>((1 << CLUSTER) - 1))
            : "memory");
    }
}

// Moves registers from a warpgroup that needs few to others: all its warps must come by.
template <int N>
__device__ inline void give_registers() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
#endif
}
template <int N>
__device__ inline void take_registers() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
#endif
}
