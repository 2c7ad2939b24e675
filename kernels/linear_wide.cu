// Y = X·W for tens of rows of a large W, and for hundreds to thousands of rows, on Hopper's warpgroup
// instruction: X [M, K], W [K, N] row-major, with what follows the product fused (linear.cuh).
//
// A block owns a tile of Y. One of its warps brings boxes of X and W through the copy engine (TMA) to a
// ring of stages; each of its other warpgroups multiplies 64 rows of the tile by all its columns. Blocks
// stay and take tile after tile, so that copies for the next tile run while one is stored. Tiles with the
// same columns are next to each other: W is read from memory once, X comes from L2.
//
// A cluster is either a pair of blocks with neighbouring rows, each of which brings half of W to both,
// or, where tiles are few, up to eight blocks with the same tile that divide K. These add their f32 sums
// through each other's shared memory, in the order of their ranks. That order depends on M, by way of
// the number of tiles, but not on the rows' content.

#include "launch.cuh"
#include "linear.cuh"
#include "tma.cuh"
#include "wgmma_wide.cuh"

// The sizes that a kernel is compiled for. SHARE blocks of a cluster share W; BLOCKS fit an SM.
template <typename T_, int ROWS_, int COLUMNS_, int STAGES_, int SHARE_, int BLOCKS_>
struct Tile {
    using T = T_;
    static constexpr int ROWS = ROWS_, COLUMNS = COLUMNS_, STAGES = STAGES_, SHARE = SHARE_, BLOCKS = BLOCKS_;
    // K of a stage.
    static constexpr int DEPTH = ROW_ELEMENTS, PIECES = DEPTH / VECTOR;
    static constexpr int WARPGROUP = 128, WARPGROUP_ROWS = 64, WARP_ROWS = 16;
    static constexpr int WARPGROUPS = ROWS / WARPGROUP_ROWS, CONSUMERS = WARPGROUPS * WARPGROUP;
    // With several warpgroups the copying warp has a whole one to itself, whose registers the others take.
    static constexpr bool MOVES_REGISTERS = WARPGROUPS > 1;
    static constexpr int THREADS = CONSUMERS + (MOVES_REGISTERS ? WARPGROUP : 32);
    // Rows that meet all columns before the next rows come: so many of X stay in L2.
    static constexpr int GROUP_ROWS = 2048;
    // Whether clusters may divide K, and into how many parts.
    static constexpr bool SPLITS = SHARE == 1;
    static constexpr int MOST_SPLITS = 8;
    // Columns of a warp's sums that go through shared memory at once, and the pitch of rows of sums, in
    // floats: the rows that a store of the accumulators meets lie 8 banks apart.
    static constexpr int CHUNK = 32, PITCH = CHUNK + 8, SUMS_PITCH = COLUMNS + 8;

    // One step of K, in rows as wgmma.cuh wants them.
    struct alignas(EIGHT_ROWS) Stage {
        uint4 x[ROWS][PIECES];
        uint4 w[COLUMNS / ROW_ELEMENTS][DEPTH][PIECES];
    };
    struct Memory {
        Stage stages[STAGES];
        float chunks[CONSUMERS / 32][WARP_ROWS][PITCH];
        Barrier full[STAGES];
        Barrier empty[STAGES];
    };
    // What a cluster that divides K adds up, in the place of the stages.
    using Sums = float[ROWS][SUMS_PITCH];
    static_assert(!SPLITS || sizeof(Sums) <= sizeof(Stage) * STAGES);

    using Accumulators = float[COLUMNS / 8][4];
};

// Of a block: which tiles it owns, one after the other, and its part of K.
template <typename Tile>
struct Work {
    const int rank = blockIdx.x, rows, columns, steps, first_step, count;

    __device__ Work(const LinearParams<typename Tile::T>& p)
        : rows(divide(p.m, Tile::ROWS * Tile::SHARE)),
          columns(divide(p.n, Tile::COLUMNS)),
          steps(divide(p.k, Tile::DEPTH)),
          first_step(Tile::SPLITS ? rank * divide(steps, gridDim.x) : 0),
          count(Tile::SPLITS ? max(0, min(divide(steps, gridDim.x), steps - first_step)) : steps) {}

    __device__ static int divide(int a, int b) { return (a + b - 1) / b; }

    __device__ int first_tile() const { return blockIdx.y; }
    __device__ int next_tile() const { return gridDim.y; }
    __device__ int tiles() const { return rows * columns; }

    // The first row and column of a tile.
    __device__ int2 place(int tile) const {
        constexpr int GROUP = Tile::GROUP_ROWS / (Tile::ROWS * Tile::SHARE);
        const int group = tile / (GROUP * columns), within = tile % (GROUP * columns);
        const int height = min(GROUP, rows - group * GROUP);
        const int row = group * GROUP + within % height;
        return make_int2((Tile::SPLITS ? row : row * Tile::SHARE + rank) * Tile::ROWS,
                         within / height * Tile::COLUMNS);
    }
};

// The stage that is next in the ring, and the parity of its barriers' phase.
template <int STAGES>
struct Ring {
    int stage = 0;
    uint32_t parity = 0;

    __device__ void advance() {
        if (++stage < STAGES) return;
        stage = 0;
        parity ^= 1;
    }
};

// What one thread does: brings every stage of every tile.
template <typename Tile>
__device__ void produce(typename Tile::Memory& memory, const BoxedLinearParams<typename Tile::T>& p,
                        const Work<Tile>& work) {
    // The block's share of the rows of W's boxes.
    constexpr int BOXES = Tile::COLUMNS / ROW_ELEMENTS, BOX_ROWS = Tile::DEPTH / Tile::SHARE;
    const int first_row = Tile::SHARE > 1 ? work.rank * BOX_ROWS : 0;
    const auto bring_w = [&](int2 place, int step, int stage) {
        auto& target = memory.stages[stage];
        memory.full[stage].expect(sizeof(target));
        const int row = (work.first_step + step) * Tile::DEPTH + first_row;
        for (int box = 0; box < BOXES; box++) {
            copy_box_to_all<Tile::SHARE>(target.w[box][first_row], p.w, row, place.y + box * ROW_ELEMENTS,
                                         memory.full[stage]);
        }
    };
    // The first stages of W are asked for before the previous kernel has ended.
    int brought = 0;
    if (work.first_tile() < work.tiles()) {
        const int2 place = work.place(work.first_tile());
        for (; brought < min(Tile::STAGES, work.count); brought++) bring_w(place, brought, brought);
    }
    follow_previous_kernel();
    Ring<Tile::STAGES> ring;
    for (int tile = work.first_tile(); tile < work.tiles(); tile += work.next_tile()) {
        const int2 place = work.place(tile);
        for (int step = 0; step < work.count; step++) {
            if (brought > 0) {
                brought--;
            } else {
                memory.empty[ring.stage].wait(ring.parity ^ 1);
                bring_w(place, step, ring.stage);
            }
            copy_box(memory.stages[ring.stage].x, p.x, place.x, (work.first_step + step) * Tile::DEPTH,
                     memory.full[ring.stage]);
            ring.advance();
        }
    }
}

// A warpgroup's sums over the block's part of K.
template <typename Tile>
__device__ void accumulate(typename Tile::Accumulators& acc, typename Tile::Memory& memory, Ring<Tile::STAGES>& ring,
                           int count) {
    const auto leave = [&](int stage) {
        // One thread for each block that fills the stage.
        const int rank = threadIdx.x % Tile::WARPGROUP;
        if (rank < Tile::SHARE) memory.empty[stage].template arrive_in_cluster<Tile::SHARE>(rank);
    };
    constexpr int TO_NEXT_COLUMNS = Tile::DEPTH * ROW_ELEMENTS * 2;
    int previous = -1;
#pragma unroll 1
    for (int i = 0; i < count; i++) {
        memory.full[ring.stage].wait(ring.parity);
        const auto& stage = memory.stages[ring.stage];
        const auto& x = stage.x[threadIdx.x / Tile::WARPGROUP * Tile::WARPGROUP_ROWS];
        begin_wgmma();
#pragma unroll
        for (int k = 0; k < Tile::DEPTH; k += 16) {
            wgmma_wide<typename Tile::T>(acc, matrix_descriptor(&x[k / VECTOR]),
                                         matrix_descriptor(stage.w[0][k], TO_NEXT_COLUMNS));
        }
        commit_wgmma();
        // The tensor cores are done with the stage before, and at this one while the next is waited for.
        finish_wgmma_but<1>();
        if (previous >= 0) leave(previous);
        previous = ring.stage;
        ring.advance();
    }
    finish_wgmma();
    if (previous >= 0) leave(previous);
}

// Stores a warp's accumulators of 8·COUNT columns, from column 8·first on, as rows.
template <int PITCH, int COUNT, int J>
__device__ void spread(float* to, const float (&acc)[J][4], int first) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int j = 0; j < COUNT; j++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float* at = to + (8 * half + lane / 4) * PITCH + 8 * j + lane % 4 * 2;
            *reinterpret_cast<float2*>(at) = make_float2(acc[first + j][2 * half], acc[first + j][2 * half + 1]);
        }
    }
}

// Each warp finishes its rows, chunk by chunk, through shared memory of its own, so that neighbouring
// threads store neighbouring columns.
template <typename Tile>
__device__ void finish_alone(const typename Tile::Accumulators& acc, typename Tile::Memory& memory,
                             const LinearParams<typename Tile::T>& p, int2 place) {
    using T = typename Tile::T;
    constexpr int WIDTH = 4, ACROSS = Tile::CHUNK / WIDTH, DOWN = 32 / ACROSS, FLIGHTS = Tile::WARP_ROWS / DOWN;
    constexpr int CHUNKS = Tile::COLUMNS / Tile::CHUNK, BLOCKS = Tile::CHUNK / 8;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int row = lane / ACROSS, column = lane % ACROSS * WIDTH, first_row = place.x + warp * Tile::WARP_ROWS;
    auto& sums = memory.chunks[warp];
#pragma unroll 1
    for (int chunk = 0; chunk < CHUNKS; chunk++) {
        const Columns<T, WIDTH, true> columns(p, place.y + chunk * Tile::CHUNK + column);
        typename Columns<T, WIDTH, true>::Row rows[FLIGHTS];
        columns.template aim<DOWN>(rows, first_row + row, first_row + Tile::WARP_ROWS);
        __syncwarp();
        // Registers have no index.
#pragma unroll
        for (int i = 0; i < CHUNKS; i++) {
            if (i == chunk) spread<Tile::PITCH, BLOCKS>(sums[0], acc, i * BLOCKS);
        }
        __syncwarp();
#pragma unroll
        for (int i = 0; i < FLIGHTS; i++) {
            float product[WIDTH];
            load(product, &sums[row + i * DOWN][column]);
            columns.finish(rows[i], product);
        }
    }
}

// Each block of the cluster finishes its share of the rows of their tile.
template <typename Tile>
__device__ void finish_together(const typename Tile::Accumulators& acc, typename Tile::Memory& memory,
                                const LinearParams<typename Tile::T>& p, int2 place) {
    using T = typename Tile::T;
    constexpr int WIDTH = 4, ACROSS = Tile::COLUMNS / WIDTH, DOWN = Tile::CONSUMERS / ACROSS, FLIGHTS = 2;
    const int row = threadIdx.x / ACROSS, column = threadIdx.x % ACROSS * WIDTH;
    const Columns<T, WIDTH> columns(p, place.y + column);
    auto& sums = reinterpret_cast<typename Tile::Sums&>(memory.stages);
    // No warpgroup reads the stages any more.
    asm volatile("bar.sync 1, %0;" ::"n"(Tile::CONSUMERS) : "memory");
    spread<Tile::SUMS_PITCH, Tile::COLUMNS / 8>(sums[threadIdx.x / 32 * Tile::WARP_ROWS], acc, 0);
    const int splits = gridDim.x, share = Tile::ROWS / splits, first = blockIdx.x * share, end = first + share;
    // Threads that are too many for whole rows finish none.
    const int own_end = row < DOWN ? end : first;
#pragma unroll 1
    for (int base = first; base < end; base += DOWN * FLIGHTS) {
        typename Columns<T, WIDTH>::Row rows[FLIGHTS];
        columns.template aim<DOWN>(rows, place.x + base + row, place.x + own_end);
        if (base == first) cluster_barrier();
        float products[FLIGHTS][WIDTH];
#pragma unroll
        for (int i = 0; i < FLIGHTS; i++) {
            const int at = base + row + i * DOWN;
            sum_over_cluster<Tile::MOST_SPLITS>(products[i], &sums[min(at, end - 1)][column], at < own_end ? splits : 0);
        }
#pragma unroll
        for (int i = 0; i < FLIGHTS; i++) columns.finish(rows[i], products[i]);
    }
}

// What the warpgroups that multiply do.
template <typename Tile>
__device__ void consume(typename Tile::Memory& memory, const LinearParams<typename Tile::T>& p, const Work<Tile>& work) {
    Ring<Tile::STAGES> ring;
#pragma unroll 1
    for (int tile = work.first_tile(); tile < work.tiles(); tile += work.next_tile()) {
        const int2 place = work.place(tile);
        typename Tile::Accumulators acc = {};
        accumulate<Tile>(acc, memory, ring, work.count);
        if constexpr (Tile::SPLITS) {
            if (gridDim.x > 1) {
                finish_together<Tile>(acc, memory, p, place);
                return;
            }
        }
        finish_alone<Tile>(acc, memory, p, place);
    }
}

// Calls `body` with the same arguments, but the compiler knows what follows the product, which is then
// short and straight: with all kinds in one loop, fetching instructions takes longer than executing them.
template <typename T, typename Body>
__device__ void by_kind(const LinearParams<T>& p, const Body& body) {
    LinearParams<T> known = p;
    known.gated = 0;
    if (p.qkv.q) {
        known.residual = nullptr, known.activation = IDENTITY;
        return body(known);
    }
    known.qkv = {};
    if (p.residual) {
        known.activation = IDENTITY;
        __builtin_assume(known.residual != nullptr);
        return body(known);
    }
    known.residual = nullptr;
    // Those of the models by name.
    if (p.activation == GELU_TANH && !p.gated) {
        known.activation = GELU_TANH;
        return body(known);
    }
    known.gated = p.gated;
    if (p.activation == SILU && p.gated) {
        known.activation = SILU, known.gated = 1;
        return body(known);
    }
    body(known);
}

template <typename Tile>
__device__ void linear_wide(const BoxedLinearParams<typename Tile::T>& p) {
    extern __shared__ __align__(EIGHT_ROWS) unsigned char bytes[];
    auto& memory = reinterpret_cast<typename Tile::Memory&>(bytes);
    if (threadIdx.x == 0) {
        for (int i = 0; i < Tile::STAGES; i++) {
            memory.full[i].init(1);
            memory.empty[i].init(Tile::WARPGROUPS * Tile::SHARE);
        }
        Barrier::publish();
    }
    Tile::SHARE > 1 ? cluster_barrier() : __syncthreads();

    const Work<Tile> work(p.linear);
    const bool together = Tile::SPLITS && gridDim.x > 1;
    if (threadIdx.x >= Tile::CONSUMERS) {
        if constexpr (Tile::MOVES_REGISTERS) give_registers<24>();
        if (threadIdx.x == Tile::CONSUMERS) produce<Tile>(memory, p, work);
        // The one in `finish_together`.
        if (together) cluster_barrier();
    } else {
        if constexpr (Tile::MOVES_REGISTERS) take_registers<240>();
        follow_previous_kernel();
        by_kind(p.linear, [&](const auto& known) { consume<Tile>(memory, known, work); });
    }
    // Others of the cluster may still read this block's sums, or fill its stages.
    if (together || Tile::SHARE > 1) leave_cluster();
}

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define RUN(...) linear_wide<Tile<__VA_ARGS__>>(p)
#else
#define RUN(...) __trap()
#endif
#define LINEAR_WIDE(suffix, T, ROWS, COLUMNS, STAGES, SHARE, BLOCKS)                                      \
    extern "C" __global__ void __launch_bounds__((Tile<T, ROWS, COLUMNS, STAGES, SHARE, BLOCKS>::THREADS), BLOCKS) \
        linear_wide_##suffix##_m##ROWS##_n##COLUMNS(const __grid_constant__ BoxedLinearParams<T> p) {      \
        RUN(T, ROWS, COLUMNS, STAGES, SHARE, BLOCKS);                                                     \
    }
#define LINEAR_WIDE_TILES(suffix, T)          \
    LINEAR_WIDE(suffix, T, 64, 128, 4, 1, 2)  \
    LINEAR_WIDE(suffix, T, 64, 192, 3, 1, 2)  \
    LINEAR_WIDE(suffix, T, 128, 128, 6, 1, 1) \
    LINEAR_WIDE(suffix, T, 128, 192, 5, 2, 1) \
    LINEAR_WIDE(suffix, T, 128, 256, 4, 2, 1)
#ifndef HARNESS
LINEAR_WIDE_TILES(f16, f16)
LINEAR_WIDE_TILES(bf16, bf16)
#endif
