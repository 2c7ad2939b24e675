// Data that arrives in a block's shared memory by itself: from global memory, or from other blocks of
// its cluster. Hopper alone.
//
// A barrier counts the bytes, so that a reader waits for what it reads and for nothing else. A barrier of the whole cluster costs more: it also waits for all that its threads have
// written anywhere.
#pragma once

#include "launch.cuh"
#include "tma.cuh"

// Passed once, when all bytes that were announced are here.
struct Inbox {
    Barrier* barrier;

    // By one thread, before it fetches; other blocks may push once a cluster_barrier is passed.
    __device__ void open(int bytes) const {
        barrier->init(1);
        Barrier::publish();
        barrier->expect(bytes);
    }

    __device__ void wait() const { barrier->wait(0); }

    // Asks for neighbouring bytes of global memory, whole vectors.
    __device__ void fetch(void* to, const void* from, int bytes) const {
        asm volatile(
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                shared_address(to)),
            "l"(from), "r"(bytes), "r"(shared_address(barrier))
            : "memory");
    }
};

// A place in another block of the cluster, the one that `own` has in this block, and the inbox that
// counts what arrives there.
struct Outbox {
    uint32_t place, barrier;

    __device__ Outbox(const Inbox& inbox, const void* own, int rank)
        : place(in_block(own, rank)), barrier(in_block(inbox.barrier, rank)) {}

    __device__ void push(int offset, float v) const {
        asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.f32 [%0], %1, [%2];" ::"r"(
                         place + offset),
                     "f"(v), "r"(barrier)
                     : "memory");
    }

    __device__ void push(float2 v) const {
        asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::"r"(
                         place),
                     "f"(v.x), "f"(v.y), "r"(barrier)
                     : "memory");
    }

    __device__ void push(uint4 v) const {
        asm volatile(
            "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.u32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(place),
            "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w), "r"(barrier)
            : "memory");
    }

private:
    static __device__ uint32_t in_block(const void* own, int rank) {
        uint32_t there;
        asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(shared_address(own)), "r"(rank));
        return there;
    }
};
