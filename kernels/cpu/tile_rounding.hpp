// Rounding of float32 to the codes of fixed-rate tiles, one value at a time and without branches, so that compilers
// make vectors of it. In an unnamed namespace for the reason that floats.hpp gives.
#pragma once

#include "floats.hpp"

namespace tilepress {
namespace {

// To the nearest whole number, ties to even; magnitudes up to 2^22.
inline float round_to_whole(float value) {
    constexpr float large = 0x1.8p23f;
    return (value + large) - large;
}

// Magnitudes of a format with `Mantissa` bits after the point and exponents from 1 - Bias on.
template <int Mantissa, int Bias>
struct SmallFloat {
    static constexpr std::int32_t kLeastNormal = (128 - Bias) << 23;
    // A power of two whose last bit is the step of subnormal numbers.
    static constexpr std::uint32_t kMagic = static_cast<std::uint32_t>(128 - Bias - Mantissa + 23) << 23;

    // The nearest number, ties to even.
    static float round(float magnitude) {
        constexpr int dropped = 23 - Mantissa;
        const std::uint32_t bits = bits_of_float(magnitude);
        const std::uint32_t raised = bits + ((1u << (dropped - 1)) - 1) + ((bits >> dropped) & 1u);
        const float normal = float_of_bits(raised & ~((1u << dropped) - 1));
        const float magic = float_of_bits(kMagic);
        const float subnormal = (magnitude + magic) - magic;
        return static_cast<std::int32_t>(bits) < kLeastNormal ? subnormal : normal;
    }

    // The code of a number that `round` has given.
    static std::uint32_t code(float rounded) {
        const std::uint32_t bits = bits_of_float(rounded);
        const std::uint32_t normal = (bits >> (23 - Mantissa)) - (static_cast<std::uint32_t>(127 - Bias) << Mantissa);
        const std::uint32_t subnormal = bits_of_float(rounded + float_of_bits(kMagic)) - kMagic;
        return static_cast<std::int32_t>(bits) < kLeastNormal ? subnormal : normal;
    }
};

using E4m3 = SmallFloat<3, 7>;
using E5m2 = SmallFloat<2, 15>;
using E2m1 = SmallFloat<1, 1>;

// To bfloat16, away from zero.
inline std::uint16_t bf16_away_from_zero(float value) {
    const std::uint32_t bits = bits_of_float(value);
    return static_cast<std::uint16_t>((bits >> 16) + ((bits & 0xffffu) != 0));
}

}  // namespace
}  // namespace tilepress
