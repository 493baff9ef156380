// What products of many rows of x with a weight have in common: a block takes 8 panels, 128 rows of the weight, and
// some rows of x; the codes and x come through a ring in shared memory, four tiles of each panel a stage.
//
//            rows of x
//            warp 0 | warp 4      Two panels a warp. Each decodes its codes in registers, into A fragments of
//   panels   warp 1 | warp 5      mma.m16n8k16, and reads x, the B fragments, by ldmatrix; nothing decoded is written
//            warp 2 | warp 6      anywhere.
//            warp 3 | warp 7
//
// x is [count][16 tiles] in 16 bits, padded with zeros and aligned to 16 bytes. Of a stage 64 columns of each row are
// there, chunk c of 16 bytes of row r in place c ^ (r % 8), so that the 8 rows of a matrix lie in different banks.
#pragma once

#include "layout.cuh"

namespace tilepress {

constexpr int kManyStages = 4;
constexpr int kManyTiles = 4;  // of a stage
constexpr int kBlockPanels = 8;
constexpr int kBlockRows = kBlockPanels * kSide;
constexpr int kWarpPanels = 2;
constexpr int kWarpColumns = kWarps * kWarpPanels / kBlockPanels;  // of the picture above

// `kVectors`: rows of x of a warp.
template <int kTileBytes, int kVectors>
class BlockStream {
public:
    static constexpr int kBlockVectors = kWarpColumns * kVectors;
    static constexpr int kFragments = kVectors / 8;
    static constexpr int kPanelBytes = kManyTiles * kTileBytes;
    static constexpr int kCodesBytes = kBlockPanels * kPanelBytes;
    static constexpr int kChunks = kManyTiles * 2;  // of a row of x
    static constexpr int kStageBytes = kCodesBytes + kBlockVectors * kChunks * 16;

    // `codes`: of the block's first panel. `panels` and `vectors` that are there, from the block's first on; instead of
    // those that are not, the last one is read again, and no sum of it is kept.
    TILEPRESS_DEVICE BlockStream(const u8* codes, int panels, const u16* x, int vectors, int tiles, u8* shared)
        : tiles_(tiles), ring_(shared) {
        const int stages = (tiles + kManyTiles - 1) / kManyTiles;
        const int of_split = (stages + gridDim.y - 1) / gridDim.y;
        first = min(static_cast<int>(blockIdx.y) * of_split, stages);
        last = min(first + of_split, stages);
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        codes_ = codes + static_cast<i64>(min(warp, panels - 1)) * tiles * kTileBytes + 16 * lane;
        x_ = x + threadIdx.x % kChunks * 8;
        for (int i = 0; i < kRowsOfThread; ++i)
            x_rows_[i] = min(static_cast<int>(threadIdx.x) / kChunks + i * kRowsAtOnce, vectors - 1) * tiles * kSide;
        for (int ahead = 0; ahead < kManyStages - 1; ++ahead) fetch(first + ahead);
    }

    // Waits for a stage; they are asked for from `first` to `last`, each once. The block meets here.
    TILEPRESS_DEVICE void next(int number) {
        copies_wait<kManyStages - 2>();
        __syncthreads();
        fetch(number + kManyStages - 1);
        stage_ = ring_ + number % kManyStages * kStageBytes;
    }

    // Codes of a tile of the stage, of this warp's panel `panel`.
    TILEPRESS_DEVICE const u8* codes(int panel, int tile) const {
        return stage_ + (panel_of_warp() + panel) * kPanelBytes + tile * kTileBytes;
    }

    // The B fragments of a tile of the stage, of this warp's rows of x.
    TILEPRESS_DEVICE void load_x(int tile, u32 (&b)[kFragments][2]) const {
        const int lane = threadIdx.x % 32, row = lane / 16 * 8 + lane % 8, chunk = 2 * tile + lane / 8 % 2;
        const u8* from = stage_ + kCodesBytes + (vector_of_warp() + row) * kChunks * 16 + (chunk ^ row % 8) * 16;
        for (int i = 0; i < kFragments; i += 2) {
            u32 words[4];
            load_matrices(words, from + i * 8 * kChunks * 16);
            for (int j = 0; j < 4; ++j) b[i + j / 2][j % 2] = words[j];
        }
    }

    static TILEPRESS_DEVICE int panel_of_warp() {
        return static_cast<int>(threadIdx.x) / 32 % (kWarps / kWarpColumns) * kWarpPanels;
    }
    static TILEPRESS_DEVICE int vector_of_warp() {
        return static_cast<int>(threadIdx.x) / 32 / (kWarps / kWarpColumns) * kVectors;
    }

    int first, last;

private:
    // Each warp copies the codes of a panel; 8 threads in a row copy the columns of a row of x.
    TILEPRESS_DEVICE void fetch(int number) {
        if (number < last) {
            const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
            const int row = threadIdx.x / kChunks, chunk = threadIdx.x % kChunks;
            u8* to = ring_ + number % kManyStages * kStageBytes;
            const int tile = number * kManyTiles, bytes = min(kManyTiles, tiles_ - tile) * kTileBytes;
            const u8* from = codes_ + static_cast<i64>(tile) * kTileBytes;
            for (int i = 0; i < kPanelBytes; i += 32 * 16)
                if (i + 16 * lane < bytes) copy_async(to + warp * kPanelBytes + i + 16 * lane, from + i);
            if (chunk < (tiles_ - tile) * 2)
                for (int i = 0; i < kRowsOfThread; ++i)
                    copy_async(to + kCodesBytes + ((row + i * kRowsAtOnce) * kChunks + (chunk ^ row % 8)) * 16,
                               x_ + x_rows_[i] + tile * kSide);
        }
        copies_commit();
    }

    static constexpr int kRowsAtOnce = kThreads / kChunks, kRowsOfThread = kBlockVectors / kRowsAtOnce;
    static_assert(kWarps == kBlockPanels && kRowsAtOnce % 8 == 0, "");

    // What this thread copies.
    const u8* codes_;
    const u16* x_;
    int x_rows_[kRowsOfThread];
    int tiles_;
    u8* ring_;
    const u8* stage_ = nullptr;
};

// Sums of a warp: of its panels and fragments of x.
template <class Stream>
using WarpProducts = float[kWarpPanels][Stream::kFragments][4];

// Calls `store(vector, row, sum)` for all rows of x and of the weight that the block has, neighbouring threads with
// neighbouring rows. Shared memory may have held what the warps read before; the block meets here.
template <class Stream, class Store>
TILEPRESS_DEVICE void store_products(const WarpProducts<Stream>& sums, u8* shared, const Store& store) {
    // Lanes that write at once meet different banks.
    constexpr int kStride = kBlockRows + 4;
    auto* of_block = reinterpret_cast<float*>(shared);
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    copies_wait<0>();
    __syncthreads();
    for (int panel = 0; panel < kWarpPanels; ++panel)
        for (int fragment = 0; fragment < Stream::kFragments; ++fragment)
            for (int i = 0; i < 4; ++i) {
                const int row = (Stream::panel_of_warp() + panel) * kSide + g + i / 2 * 8;
                const int vector = Stream::vector_of_warp() + 8 * fragment + 2 * t + i % 2;
                of_block[vector * kStride + row] = sums[panel][fragment][i];
            }
    __syncthreads();
    for (int i = threadIdx.x; i < Stream::kBlockVectors * kBlockRows; i += kThreads)
        store(i / kBlockRows, i % kBlockRows, of_block[i / kBlockRows * kStride + i % kBlockRows]);
}

}  // namespace tilepress
