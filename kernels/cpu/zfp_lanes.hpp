// Sixteen blocks of 4 x 4 float32 values at a time, one a lane: plain loops over the lanes, which compilers turn into
// what vectors there are. Everything is bit-identical with zfp_block.hpp.
#pragma once

#include <cstdint>
#include <cstring>

#include "floats.hpp"
#include "zfp_block.hpp"

namespace tilepress {
namespace {

constexpr int kLanes = 16;
constexpr int kPlanes = 32;

// Bit planes: bit i of a plane is that of coefficient i.
struct alignas(64) LanePlanes {
    std::uint16_t of[kPlanes][kLanes];
};

struct alignas(64) LaneBlock {
    std::uint32_t of[16][kLanes];
};

// Four rows of the values of sixteen blocks side by side.
struct alignas(64) LaneRows {
    float of[kZfpSide][kZfpSide * kLanes];
};

// Swap places: bit i of row k and bit k of row i, in each lane.
inline void transpose_bits(std::uint16_t (*rows)[kLanes]) {
    constexpr std::uint16_t masks[4] = {0x5555, 0x3333, 0x0f0f, 0x00ff};
    for (int stage = 3; stage >= 0; --stage) {
        const int step = 1 << stage;
        const std::uint16_t mask = masks[stage];
        for (int row = 0; row < 16; ++row) {
            if ((row & step) != 0) continue;
            std::uint16_t* low = rows[row];
            std::uint16_t* high = rows[row + step];
            for (int lane = 0; lane < kLanes; ++lane) {
                const auto swapped = static_cast<std::uint16_t>(((low[lane] >> step) ^ high[lane]) & mask);
                high[lane] = static_cast<std::uint16_t>(high[lane] ^ swapped);
                low[lane] = static_cast<std::uint16_t>(low[lane] ^ (swapped << step));
            }
        }
    }
}

// Apply `lift` to the four lines along x (`stride` 1) or along y (`stride` 4) of every block.
template <class Lift>
inline void lift_lines(LaneBlock& block, int stride, const Lift& lift) {
    for (int line = 0; line < kZfpSide; ++line) {
        std::uint32_t* x = block.of[line * (kZfpSide + 1 - stride)];
        std::uint32_t* y = x + stride * kLanes;
        std::uint32_t* z = y + stride * kLanes;
        std::uint32_t* w = z + stride * kLanes;
        for (int lane = 0; lane < kLanes; ++lane) lift(x[lane], y[lane], z[lane], w[lane]);
    }
}

// 2^(biased - 127 - 30), of a biased exponent within 0..255, rounded to nearest.
inline float decoding_scale(std::uint32_t biased) {
    return float_of_bits(biased > 30 ? (biased - 30) << 23 : biased >= 8 ? 1u << (biased - 8) : 0);
}

// 2^(30 - (biased - 127)); infinite where that overflows.
inline float encoding_scale(std::uint32_t biased) {
    return float_of_bits(biased > 29 ? (284 - biased) << 23 : 0x7f800000u);
}

// Coefficients of all planes -> values. `exponents` are biased. Overwrites the planes.
inline void values_of_planes(LanePlanes& planes, const std::uint32_t* exponents, bool has_low_planes, LaneRows& rows) {
    LaneBlock block;
    constexpr std::uint32_t mask = negabinary_mask<std::uint32_t>();
    const std::uint8_t* position = ZfpOrder<2>::position;
    transpose_bits(planes.of + 16);
    if (has_low_planes) transpose_bits(planes.of);
    for (int i = 0; i < 16; ++i) {
        std::uint32_t* to = block.of[position[i]];
        const std::uint16_t* high = planes.of[16 + i];
        const std::uint16_t* low = planes.of[i];
        for (int lane = 0; lane < kLanes; ++lane)
            to[lane] = ((static_cast<std::uint32_t>(high[lane]) << 16 | low[lane]) ^ mask) - mask;
    }
    lift_lines(block, kZfpSide, lift_inverse<std::uint32_t>);
    lift_lines(block, 1, lift_inverse<std::uint32_t>);
    float scales[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) scales[lane] = decoding_scale(exponents[lane]);
    for (int y = 0; y < kZfpSide; ++y) {
        for (int lane = 0; lane < kLanes; ++lane) {
            for (int x = 0; x < kZfpSide; ++x)
                rows.of[y][kZfpSide * lane + x] =
                    scales[lane] * static_cast<float>(static_cast<std::int32_t>(block.of[kZfpSide * y + x][lane]));
        }
    }
}

}  // namespace
}  // namespace tilepress
