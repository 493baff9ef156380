// Conversions between float32, bfloat16, float16 and the 8-bit formats, one value at a time.
//
// Everything is in an unnamed namespace: each instruction set's translation unit must have code of its own, or the
// linker would pick one copy for all.
#pragma once

#include <cstdint>
#include <cstring>

namespace tilepress {
namespace {

inline float float_of_bits(std::uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline std::uint32_t bits_of_float(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

inline float float_of_bf16(std::uint16_t bits) {
    return float_of_bits(static_cast<std::uint32_t>(bits) << 16);
}

// To nearest, ties to even.
inline std::uint16_t bf16_of_float(float value) {
    const std::uint32_t bits = bits_of_float(value);
    const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
    return static_cast<std::uint16_t>(is_nan ? 0x7fc0u : rounded);
}

inline float float_of_fp16(std::uint16_t half) {
    const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
    const std::uint32_t magnitude = half & 0x7fffu;
    // Read as a float32 whose exponent is too small by 112; exact, since the mantissa only gets longer.
    const float normal = float_of_bits((magnitude << 13) + (112u << 23));
    const float subnormal = static_cast<float>(static_cast<std::int32_t>(magnitude)) * 0x1p-24f;
    const float special = float_of_bits((magnitude << 13) | 0x7f800000u);
    const float value = magnitude >= 0x7c00u ? special : magnitude >= 0x0400u ? normal : subnormal;
    return float_of_bits(bits_of_float(value) | sign);
}

// To nearest, ties to even.
inline std::uint16_t fp16_of_float(float value) {
    const std::uint32_t bits = bits_of_float(value);
    const std::uint32_t sign = (bits >> 16) & 0x8000u;
    const std::uint32_t magnitude = bits & 0x7fffffffu;
    // Adding 0.5 leaves a subnormal half's mantissa, rounded by the addition, in the lowest bits.
    const std::uint32_t subnormal = bits_of_float(float_of_bits(magnitude) + 0.5f) - 0x3f000000u;
    const std::uint32_t normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    const std::uint32_t special = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
    const std::uint32_t half = magnitude >= 0x477ff000u ? special : magnitude >= 0x38800000u ? normal : subnormal;
    return static_cast<std::uint16_t>(half | sign);
}

// A half float whose value is that of the code, divided by 256; of NaN, a NaN.
inline std::uint16_t fp16_of_e4m3(std::uint8_t code) {
    const unsigned magnitude = code & 0x7fu;
    const unsigned half = (magnitude << 7) | ((code & 0x80u) << 8);
    return static_cast<std::uint16_t>(magnitude == 0x7fu ? half | 0x7e00u : half);
}

inline std::uint16_t fp16_of_e5m2(std::uint8_t code) {
    return static_cast<std::uint16_t>(code << 8);
}

// 2^(code - 127); NaN for 255.
inline float float_of_e8m0(std::uint8_t code) {
    const std::uint32_t tail = code == 0 || code == 255 ? 1u << 22 : 0u;  // of a subnormal number, or of NaN
    return float_of_bits((static_cast<std::uint32_t>(code) << 23) | tail);
}

}  // namespace
}  // namespace tilepress
