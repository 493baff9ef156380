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

// A side that is rotated, in blocks of odd * power values; `power` is a multiple of 16.
struct RotatedSide {
    const std::uint8_t* signs;  // [length / 8]
    const float* table;         // [odd][odd]
    float scale;                // 1 / sqrt(power)
    std::int64_t odd;
    std::int64_t power;
    std::int64_t length;
};

// Columns whose products are added up in 32 bits: 128 * 510 * 32767 is the largest sum, and fits.
constexpr std::int64_t kTrellisBlock = 128;

// x in the rotated basis, as trellis_input.hpp makes it: planes of 16-bit integers, whose sum is a row of x.
struct TrellisInput {
    const std::int16_t* steps;  // [planes][width]
    const float* factors;       // [planes][blocks]
    const std::int32_t* sums;   // [planes][blocks], of the steps
    const std::int64_t* rows;   // [planes], of x
    std::int64_t planes;        // at most 2 for each row of x
    std::int64_t width;         // 16 tiles
    std::int64_t blocks;
};

// Kernels of one instruction set, in the rotated basis. Each works on the panels `panels`; other threads take others.
struct TrellisKernels {
    // Rows of the panels from panel `first` on, without gaps, [rows][16 tiles] of `dtype`.
    void (*decode)(const TrellisWeight&, Range panels, std::int64_t first, Dtype dtype, void* values);
    // y[rows of x][rows from panel `first` on, `height`] = x @ weight.T
    void (*multiply)(const TrellisWeight&, Range panels, std::int64_t first, const TrellisInput& x, std::int64_t height,
                     float* y);
    // Rotate, or rotate back, in place: one row whose values are the side's, or 16 columns of it, [length][16].
    void (*rotate_row)(const RotatedSide&, bool back, float* row);
    void (*rotate_lines)(const RotatedSide&, bool back, float* lines);
};

TrellisKernels portable_trellis_kernels();
TrellisKernels avx2_trellis_kernels();
TrellisKernels avx512_trellis_kernels();

}  // namespace tilepress
