// What products of a few rows of x with a panel have in common: each warp of a block takes a run of the panel's tiles,
// whose codes come to it through a ring in shared memory; what the warps' tensor cores have summed is added up at the
// end.
#pragma once

#include "layout.cuh"

namespace tilepress {

constexpr int kStages = 4;
constexpr int kStageTiles = 4;
constexpr int kMostVectors = 8;

// The tiles of this warp, in stages; those of other warps, and of other blocks of the same panel, come before and
// after.
template <int kTileBytes>
class TileStream {
public:
    static constexpr int kStageBytes = kStageTiles * kTileBytes;
    static constexpr int kRingBytes = kWarps * kStages * kStageBytes;

    // `codes`: the panel's tiles. `shared`: kRingBytes for all warps of the block.
    TILEPRESS_DEVICE TileStream(const u8* codes, int tiles, u8* shared)
        : codes_(codes), tiles_(tiles), ring_(shared + threadIdx.x / 32 * kStages * kStageBytes) {
        const int stages = (tiles + kStageTiles - 1) / kStageTiles;
        const int workers = gridDim.y * kWarps, worker = blockIdx.y * kWarps + threadIdx.x / 32;
        const int of_worker = (stages + workers - 1) / workers;
        first = min(worker * of_worker, stages);
        last = min(first + of_worker, stages);
        for (int ahead = 0; ahead < kStages - 1; ++ahead) fetch(first + ahead);
    }

    // The codes of a stage; stages are asked for from `first` to `last`, each once. The warp meets here.
    TILEPRESS_DEVICE const u8* stage(int number) {
        copies_wait<kStages - 2>();
        __syncwarp();
        fetch(number + kStages - 1);
        return ring_ + number % kStages * kStageBytes;
    }

    int first, last;

private:
    TILEPRESS_DEVICE void fetch(int number) {
        if (number < last) {
            const int lane = threadIdx.x % 32;
            const int bytes = min(kStageTiles, tiles_ - number * kStageTiles) * kTileBytes;
            u8* to = ring_ + number % kStages * kStageBytes;
            const u8* from = codes_ + static_cast<i64>(number) * kStageBytes;
            for (int i = 16 * lane; i < bytes; i += 16 * 32) copy_async(to + i, from + i);
        }
        copies_commit();
    }

    const u8* codes_;
    int tiles_;
    u8* ring_;
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
