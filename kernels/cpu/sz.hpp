// The payload of `sz`: what the kernels of every instruction set take and offer. The layout is that of
// kernels/layout/sz.py.
#pragma once

#include <atomic>
#include <cstdint>

#include "panels.hpp"
#include "rans.hpp"

namespace tilepress {

constexpr std::int64_t kSzColumns = 2048;
constexpr std::int64_t kSzTileValues = kSide * kSzColumns;
// Exceptions, outliers, bytes of the stream: 2 bytes each.
constexpr std::int64_t kSzHead = 6;
constexpr std::int64_t kSzAlignment = 4;
constexpr int kSzMostShift = 16;
constexpr std::int64_t kSzTableHead = 16;
constexpr std::int64_t kSzTableBytes = kSzTableHead + 2 * kRansEntries;
// The high part of a residual is its symbol less this.
constexpr int kSzMiddle = 128;

enum class Predictor { none, lorenzo1, lorenzo2 };

// What all tiles of a tensor have in common.
struct SzCode {
    float step;
    int shift;
    Predictor predictor;
    RansModel model;
};

// Call function(width) for each plane of the low parts, lowest first.
template <class Function>
void over_planes(int shift, const Function& function) {
    for (; shift >= 8; shift -= 8) function(8);
    for (int width = 4; width > 0; width /= 2)
        if (shift & width) function(width);
}

constexpr std::int64_t plane_bytes(int width, std::int64_t count) {
    return (count * width + 7) / 8;
}

// Of the low parts of `count` values, cargo included.
inline std::int64_t low_bytes(int shift, std::int64_t count) {
    std::int64_t bytes = 0;
    over_planes(shift, [&](int width) { bytes += plane_bytes(width, count); });
    return bytes;
}

// The most that a tile of `count` values takes.
inline std::int64_t most_sz_tile_bytes(Dtype dtype, std::int64_t count) {
    const std::int64_t stream = kRansStateBytes + count, exceptions = 4 * count,
                       outliers = (2 + size_of(dtype)) * count;
    const std::int64_t bytes = kSzHead + low_bytes(kSzMostShift, count) + stream + exceptions + outliers;
    return (bytes + kSzAlignment - 1) / kSzAlignment * kSzAlignment;
}

// A weight; `offsets` has one for each tile and one more, in any order and of any value.
struct Sz {
    SzCode code;
    Dtype dtype;
    const std::uint8_t* payload;
    std::int64_t payload_bytes;
    const std::int64_t* offsets;
    std::int64_t rows;
    std::int64_t columns;
    std::int64_t tiles;             // of a panel
    std::atomic<bool>* is_damaged;  // set where a tile can't be decoded
};

using SzKernels = PanelKernels<Sz>;

SzKernels portable_sz_kernels();
SzKernels avx2_sz_kernels();
SzKernels avx512_sz_kernels();

}  // namespace tilepress
