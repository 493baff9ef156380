// What zfp's format says of its scalar types, modes and blocks.
//
// Source: Lindstrom 2014, "Fixed-Rate Compressed Floating-Point Arrays"; the zfp 1.0 documentation. The words are those
// of the documentation: a block of 4^d values has one exponent, coefficients in negabinary, and bit planes.
#pragma once

#include <cstdint>

#include "zfp.hpp"

namespace tilepress {
namespace {

template <class Scalar>
struct ZfpScalar;

template <>
struct ZfpScalar<float> {
    using Int = std::int32_t;
    using UInt = std::uint32_t;
    static constexpr int bits = 32;
    static constexpr int mantissa_bits = 23;
    static constexpr int exponent_bits = 8;
    static constexpr int bias = 127;
    static constexpr int precision_bits = 5;  // of the number of planes in reversible blocks
};

template <>
struct ZfpScalar<double> {
    using Int = std::int64_t;
    using UInt = std::uint64_t;
    static constexpr int bits = 64;
    static constexpr int mantissa_bits = 52;
    static constexpr int exponent_bits = 11;
    static constexpr int bias = 1023;
    static constexpr int precision_bits = 6;
};

constexpr int block_values(int dims) {
    return 1 << (2 * dims);
}

// Positions (x + 4 y + 16 z) of a block's coefficients in the order in which they are coded: by total sequency.
template <int Dims>
struct ZfpOrder;

template <>
struct ZfpOrder<1> {
    static constexpr std::uint8_t position[4] = {0, 1, 2, 3};
};

template <>
struct ZfpOrder<2> {
    static constexpr std::uint8_t position[16] = {0, 1, 4, 5, 2, 8, 6, 9, 3, 12, 10, 7, 13, 11, 14, 15};
};

template <>
struct ZfpOrder<3> {
    static constexpr std::uint8_t position[64] = {0,  1,  4,  16, 20, 17, 5,  2,  8,  32, 21, 6,  18, 24, 9,  33,
                                                  36, 3,  12, 48, 22, 25, 37, 40, 34, 10, 7,  19, 28, 13, 49, 52,
                                                  41, 38, 26, 23, 29, 53, 11, 35, 44, 14, 50, 56, 42, 27, 39, 45,
                                                  30, 54, 57, 60, 51, 15, 43, 46, 58, 61, 55, 31, 62, 59, 47, 63};
};

// Planes of a block with this exponent that are coded: no more than the tolerance needs.
inline int planes_of(const ZfpMode& mode, int exponent, int dims) {
    const int needed = exponent - mode.least_exponent + 2 * (dims + 1);
    const int most = mode.most_planes;
    return needed < 0 ? 0 : needed < most ? needed : most;
}

}  // namespace
}  // namespace tilepress
