// Data that arrives in a block's shared memory by itself: from global memory, or from other blocks of
// its cluster. Hopper alone.
//
// A barrier counts bytes or copies, so that a reader waits for what it reads and for nothing else. A
// barrier of the whole cluster costs more: it also waits for all that its threads have written anywhere,
// and `wait_copies` may also wait for a thread's own loads.
#pragma once

#include "launch.cuh"
#include "tma.cuh"

// Passed once, when all that was announced is here.
struct Inbox {
    Barrier* barrier;

    // By one thread; other blocks may push `bytes` once a cluster_barrier is passed.
    __device__ void open(int bytes) const {
        barrier->init(1);
        Barrier::publish();
        barrier->expect(bytes);
    }

    // Instead, by one thread, for what the block's own threads copy: each of them must count its copies.
    __device__ void open_to_copies() const { barrier->init(blockDim.x); }

    __device__ void wait() const { barrier->wait(0); }

    // Arrives when all copies that this thread has asked for are here.
    __device__ void count_copies() const {
        asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(shared_address(barrier)) : "memory");
    }
};

// A place in another block of the cluster, the one that `own` has in this block, and the inbox that
// counts what arrives there.
struct Outbox {
    uint32_t place, barrier;

    __device__ Outbox(const Inbox& inbox, const void* own, int rank)
        : place(in_block(own, rank)), barrier(in_block(inbox.barrier, rank)) {}

    __device__ void push(float2 v, int offset = 0) const {
        asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::"r"(
                         place + offset),
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
