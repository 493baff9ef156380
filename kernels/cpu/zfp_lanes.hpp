// Sixteen blocks of 4 x 4 float32 values at a time, one a lane, in the compiler's vectors: it cuts them into what the
// instruction set has. Everything is bit-identical with zfp_block.hpp.
#pragma once

#include <cstdint>
#include <cstring>

#include "floats.hpp"
#include "zfp_block.hpp"

namespace tilepress {
namespace {

constexpr int kLanes = 16;
constexpr int kPlanes = 32;

using LaneBits = std::uint16_t __attribute__((vector_size(2 * kLanes)));
using LaneWords = std::uint32_t __attribute__((vector_size(4 * kLanes)));
using LaneIntegers = std::int32_t __attribute__((vector_size(4 * kLanes)));

// Bit planes: bit i of a plane is that of coefficient i.
struct alignas(64) LanePlanes {
    std::uint16_t of[kPlanes][kLanes];
};

struct LaneBlock {
    LaneWords of[16];
};

template <>
struct SignedOf<LaneWords> {
    using Int = LaneIntegers;
};

// Four rows of the values of sixteen blocks side by side.
struct alignas(64) LaneRows {
    float of[kZfpSide][kZfpSide * kLanes];
};

// Swap places: bit i of row k and bit k of row i, in each lane.
inline void transpose_bits(LaneBits* rows) {
    const auto swap = [&](int step, std::uint16_t mask) {
        for (int row = 0; row < 16; ++row) {
            if ((row & step) != 0) continue;
            const LaneBits swapped = ((rows[row] >> step) ^ rows[row + step]) & mask;
            rows[row + step] ^= swapped;
            rows[row] ^= swapped << step;
        }
    };
    swap(8, 0x00ff);
    swap(4, 0x0f0f);
    swap(2, 0x3333);
    swap(1, 0x5555);
}

// Apply `lift` to the four lines along x (`stride` 1) or along y (`stride` 4) of every block.
template <class Lift>
inline void lift_lines(LaneBlock& block, int stride, const Lift& lift) {
    for (int line = 0; line < kZfpSide; ++line) {
        LaneWords* first = block.of + line * (kZfpSide + 1 - stride);
        lift(first[0], first[stride], first[2 * stride], first[3 * stride]);
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

// Coefficients of all planes -> integers, by the inverse of a transform. The lower half of the planes may be missing.
template <class Lift>
inline void integers_of_planes(const LanePlanes& planes, bool has_low_planes, const Lift& lift, LaneBlock& block) {
    constexpr std::uint32_t mask = negabinary_mask<std::uint32_t>();
    const std::uint8_t* position = ZfpOrder<2>::position;
    LaneBits high[16], low[16];
    std::memcpy(high, planes.of + 16, sizeof high);
    transpose_bits(high);
    if (has_low_planes) {
        std::memcpy(low, planes.of, sizeof low);
        transpose_bits(low);
    }
    for (int i = 0; i < 16; ++i) {
        LaneWords coefficients = __builtin_convertvector(high[i], LaneWords) << 16;
        if (has_low_planes) coefficients |= __builtin_convertvector(low[i], LaneWords);
        block.of[position[i]] = (coefficients ^ mask) - mask;
    }
    lift_lines(block, kZfpSide, lift);
    lift_lines(block, 1, lift);
}

// Put the values of sixteen blocks side by side: value(integer, lane) of each integer.
template <class Value>
inline void store_block(const LaneBlock& block, LaneRows& rows, const Value& value) {
    for (int y = 0; y < kZfpSide; ++y) {
        std::int32_t integers[kZfpSide][kLanes];
        std::memcpy(integers, block.of + kZfpSide * y, sizeof integers);
        float* to = rows.of[y];
        for (int lane = 0; lane < kLanes; ++lane) {
            to[kZfpSide * lane] = value(integers[0][lane], lane);
            to[kZfpSide * lane + 1] = value(integers[1][lane], lane);
            to[kZfpSide * lane + 2] = value(integers[2][lane], lane);
            to[kZfpSide * lane + 3] = value(integers[3][lane], lane);
        }
    }
}

// Coefficients of all planes -> values. `exponents` are biased; the lower half of the planes may be missing.
inline void values_of_planes(const LanePlanes& planes, const std::uint32_t* exponents, bool has_low_planes,
                             LaneRows& rows) {
    LaneBlock block;
    integers_of_planes(planes, has_low_planes, lift_inverse<LaneWords>, block);
    float scales[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) scales[lane] = decoding_scale(exponents[lane]);
    store_block(block, rows,
                [&](std::int32_t integer, int lane) { return scales[lane] * static_cast<float>(integer); });
}

// The same of reversible blocks. A lane of `raw` is all ones where the integers are the bits of the values (see
// `reinterpret`), and 0 where they are fixed point.
inline void values_of_reversible_planes(const LanePlanes& planes, const std::uint32_t* exponents,
                                        const std::uint32_t* raw, LaneRows& rows) {
    LaneBlock block;
    integers_of_planes(planes, true, difference_inverse<LaneWords>, block);
    float scales[kLanes];
    std::uint32_t fixed[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
        scales[lane] = decoding_scale(exponents[lane]);
        fixed[lane] = exponents[lane] == 0 ? 0 : ~raw[lane];
    }
    store_block(block, rows, [&](std::int32_t integer, int lane) {
        const auto bits = static_cast<std::uint32_t>(integer);
        const std::uint32_t own = bits ^ (bits >> 31) * 0x7fffffffu;
        const std::uint32_t scaled = bits_of_float(scales[lane] * static_cast<float>(integer));
        return float_of_bits((own & raw[lane]) | (scaled & fixed[lane]));
    });
}

}  // namespace
}  // namespace tilepress
