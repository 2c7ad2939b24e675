// What Hopper adds to a launch: starting before the previous kernel has ended, and clusters of blocks
// that read each other's shared memory. Older architectures do without, so the host uses neither
// there (`Kernel::is_hopper` in src/runner/cuda/kernels.rs).
#pragma once

#include <cstdint>

// Lets the next kernel's blocks start, then waits until the previous kernel has ended and its writes
// are visible. Every kernel that is launched to overlap must pass here before it touches anything
// that a step writes: its own end then means that all earlier kernels have ended, too. A kernel may
// read weights before. What a step writes is not read by __ldg, which may move up past the wait.
__device__ inline void follow_previous_kernel() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// A barrier of all threads of the cluster; what they wrote to shared memory before is visible after.
__device__ inline void cluster_barrier() {
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.release;" ::: "memory");
    asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
#endif
}

// Reads `from`, an address in this block's shared memory, at the same place in block `rank` of the cluster.
__device__ inline float2 load_from_block(const float2* from, uint32_t rank) {
#if __CUDA_ARCH__ >= 900
    const uint32_t own = static_cast<uint32_t>(__cvta_generic_to_shared(from));
    uint32_t remote;
    float2 v;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(own), "r"(rank));
    asm volatile("ld.shared::cluster.v2.f32 {%0, %1}, [%2];" : "=f"(v.x), "=f"(v.y) : "r"(remote) : "memory");
    return v;
#else
    return *from;
#endif
}
