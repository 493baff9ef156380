// What products of a few rows of x with a panel have in common: each warp of a block takes a run of the panel's tiles,
// whose codes come to it through a ring in shared memory; what the warps' tensor cores have summed is added up at the
// end.
#pragma once

#include "layout.cuh"

namespace tilepress {

constexpr int kStages = 4;
constexpr int kMostVectors = 8;

// The tiles of this warp, in stages of `kTiles`; those of other warps, and of other blocks of the same panel, come
// before and after.
template <int kTileBytes, int kTiles>
class TileStream {
public:
    static constexpr int kStageBytes = kTiles * kTileBytes;
    static constexpr int kRingBytes = kWarps * kStages * kStageBytes;

    // `codes`: the panel's tiles. `shared`: kRingBytes for all warps of the block.
    TILEPRESS_DEVICE TileStream(const u8* codes, int tiles, u8* shared) {
        const int stages = (tiles + kTiles - 1) / kTiles;
        const int workers = gridDim.y * kWarps, worker = blockIdx.y * kWarps + threadIdx.x / 32;
        const int of_worker = (stages + workers - 1) / workers;
        first = min(worker * of_worker, stages);
        last = min(first + of_worker, stages);
        const int lane = threadIdx.x % 32;
        ring_ = shared + threadIdx.x / 32 * kStages * kStageBytes;
        from_ = codes + static_cast<i64>(first) * kStageBytes + 16 * lane;
        left_ = min((last - first) * kStageBytes, tiles * kTileBytes - first * kStageBytes) - 16 * lane;
        for (int ahead = 0; ahead < kStages - 1; ++ahead) fetch(ahead * kStageBytes);
    }

    // The codes of the next stage, from `first` to `last`. The warp meets here. Of the last stage of a panel, tiles
    // that are not there hold anything.
    TILEPRESS_DEVICE const u8* next() {
        copies_wait<kStages - 2>();
        __syncwarp();
        fetch(slot_);
        slot_ = slot_ == (kStages - 1) * kStageBytes ? 0 : slot_ + kStageBytes;
        return ring_ + slot_;
    }

    int first, last;

private:
    TILEPRESS_DEVICE void fetch(int slot) {
        const int lane = threadIdx.x % 32;
        for (int i = 0; i < kStageBytes; i += 32 * 16)
            if (i < left_ && i + 16 * lane < kStageBytes) copy_async(ring_ + slot + 16 * lane + i, from_ + i);
        copies_commit();
        from_ += kStageBytes;
        left_ -= kStageBytes;
    }

    u8* ring_;
    // Of this lane: where it copies from next, and how many bytes of the warp's tiles follow there.
    const u8* from_;
    int left_;
    // Of the stage that was read last, which is free.
    int slot_ = (kStages - 1) * kStageBytes;
};

// Sums of mma.m16n8k16 of all warps of a block, by row of the panel and column of B.
using WarpSums = float[kWarps][kSide][kMostVectors];

// Leaves each warp's sums in shared memory, which may have held what the warps read before. The block meets here.
TILEPRESS_DEVICE const WarpSums& gather_sums(const float (&sums)[4], u8* shared) {
    auto& of_warps = *reinterpret_cast<WarpSums*>(shared);
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    copies_wait<0>();
    __syncthreads();
    for (int i = 0; i < 4; ++i) of_warps[warp][g + i / 2 * 8][2 * t + i % 2] = sums[i];
    __syncthreads();
    return of_warps;
}

}  // namespace tilepress
