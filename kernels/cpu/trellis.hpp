// Trellis codes (`trellis`): what the kernels of every instruction set take and offer.
//
// The layout is that of kernels/layout/trellis.py. A tile is 16 x 16 weights and a cyclic string of 256 x bits bits,
// little-endian; step t reads the `window` bits from bit t x bits on, its state, and the state's value is
//
//     sum of the four bytes of kTrellisMultiplier * state mod 2^32, minus kTrellisOffset
//
// Step t = 8 l + j is the weight in row l / 4 + 8 (j / 2 % 2), column 2 (l % 4) + j % 2 + 8 (j / 4) of the tile: what
// thread l of a warp holds in register half j of the A fragment of mma.m16n8k16.
#pragma once

#include <cstddef>
#include <cstdint>

#include "values.hpp"

namespace tilepress {

constexpr std::int64_t kTrellisSide = 16;
constexpr std::int64_t kTrellisSteps = 256;
constexpr std::uint32_t kTrellisMultiplier = 0x83dcd12du;
constexpr int kTrellisOffset = 510;

struct TrellisPlace {
    int row;
    int column;
};

constexpr TrellisPlace trellis_place(int step) {
    const int thread = step / 8, register_half = step % 8;
    return {thread / 4 + 8 * (register_half / 2 % 2), 2 * (thread % 4) + register_half % 2 + 8 * (register_half / 4)};
}

constexpr int trellis_value(std::uint32_t state) {
    const std::uint32_t mixed = kTrellisMultiplier * state;
    return static_cast<int>((mixed & 255) + (mixed >> 8 & 255) + (mixed >> 16 & 255) + (mixed >> 24)) - kTrellisOffset;
}

struct TrellisWeight {
    const std::uint8_t* codes;    // [panels][tiles][32 bits]
    const std::uint16_t* scales;  // [panels][16] bfloat16
    int bits;
    int window;
    std::int64_t tiles;  // of a panel
};

// A side that is rotated, in blocks of odd * power values.
struct RotatedSide {
    const std::uint8_t* signs;  // [length / 8]
    const float* table;         // [odd][odd]
    float scale;                // 1 / sqrt(power)
    std::int64_t odd;
    std::int64_t power;
    std::int64_t length;
};

// Kernels of one instruction set, in the rotated basis. Each works on the panels `panels`; other threads take others.
struct TrellisKernels {
    // Rows of the panels from panel `first` on, without gaps, [rows][16 tiles] of `dtype`.
    void (*decode)(const TrellisWeight&, Range panels, std::int64_t first, Dtype dtype, void* values);
    // y[count][rows from panel `first` on, `height`] = x[count][16 tiles] @ weight.T
    void (*multiply)(const TrellisWeight&, Range panels, std::int64_t first, const float* x, std::int64_t count,
                     std::int64_t height, float* y);
    // Rotate, or rotate back, a side whose values are rows of `width` values, `stride` apart; in place.
    void (*rotate)(const RotatedSide&, bool back, float* values, std::int64_t stride, std::int64_t width);
};

TrellisKernels portable_trellis_kernels();
TrellisKernels avx2_trellis_kernels();
TrellisKernels avx512_trellis_kernels();

}  // namespace tilepress
