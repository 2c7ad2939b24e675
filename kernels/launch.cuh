// What Hopper adds to a launch: starting before the previous kernel has ended, and clusters of blocks
// that read each other's shared memory. Older architectures do without, so the host uses neither
// there (`Kernel::is_hopper` in src/runner/cuda/kernels.rs).
#pragma once

#include <cstdint>

__device__ inline void let_next_kernel_start() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Until the previous kernel has ended and its writes are visible.
__device__ inline void wait_for_previous_kernel() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Every kernel that is launched to overlap must pass here, or wait by itself, before it touches anything
// that a step writes: its own end then means that all earlier kernels have ended, too. A kernel may
// read weights before. What a step writes is not read by __ldg, which may move up past the wait.
__device__ inline void follow_previous_kernel() {
    let_next_kernel_start();
    wait_for_previous_kernel();
}

// A barrier of all threads of the cluster; what they wrote to shared memory before is visible after.
__device__ inline void cluster_barrier() {
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.release;" ::: "memory");
    asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
#endif
}

// The last thing a block does whose shared memory others read: it waits until they have. Nothing is
// published: a barrier that releases would first wait for all that the block has written.
__device__ inline void leave_cluster() {
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory");
    asm volatile("barrier.cluster.wait;" ::: "memory");
#endif
}

// Reads floats of block `rank` of the cluster, at the place that `from` has in this block's shared
// memory; zeros where the cluster has fewer than `blocks`. No branch: many such loads may be in flight.
template <int WIDTH>
__device__ inline void load_from_block(float (&v)[WIDTH], const float* from, int rank, int blocks) {
    static_assert(WIDTH == 2 || WIDTH == 4);
#pragma unroll
    for (int i = 0; i < WIDTH; i++) v[i] = 0.0f;
#if __CUDA_ARCH__ >= 900
    const uint32_t own = static_cast<uint32_t>(__cvta_generic_to_shared(from));
    if constexpr (WIDTH == 2) {
        asm volatile(
            "{ .reg .pred there; .reg .u32 remote;\n"
            "setp.lt.s32 there, %3, %4;\n"
            "mapa.shared::cluster.u32 remote, %2, %3;\n"
            "@there ld.shared::cluster.v2.f32 {%0, %1}, [remote]; }"
            : "+f"(v[0]), "+f"(v[1])
            : "r"(own), "r"(rank), "r"(blocks)
            : "memory");
    } else {
        asm volatile(
            "{ .reg .pred there; .reg .u32 remote;\n"
            "setp.lt.s32 there, %5, %6;\n"
            "mapa.shared::cluster.u32 remote, %4, %5;\n"
            "@there ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [remote]; }"
            : "+f"(v[0]), "+f"(v[1]), "+f"(v[2]), "+f"(v[3])
            : "r"(own), "r"(rank), "r"(blocks)
            : "memory");
    }
#else
    if (rank < blocks) {
#pragma unroll
        for (int i = 0; i < WIDTH; i++) v[i] = from[i];
    }
#endif
}

// The sums over the cluster's blocks, up to MOST, of neighbouring floats of their shared memory, in the
// order of the blocks.
template <int MOST, int WIDTH>
__device__ inline void sum_over_cluster(float (&sum)[WIDTH], const float* from, int blocks) {
    float parts[MOST][WIDTH];
#pragma unroll
    for (int rank = 0; rank < MOST; rank++) load_from_block(parts[rank], from, rank, blocks);
#pragma unroll
    for (int i = 0; i < WIDTH; i++) {
        sum[i] = parts[0][i];
#pragma unroll
        for (int rank = 1; rank < MOST; rank++) sum[i] += parts[rank][i];
    }
}
