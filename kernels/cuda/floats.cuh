// The dtypes of values, and what tensor cores multiply.
//
// A dtype is a type with `Stored`, `of_bits(u32) -> Stored`, `store(float) -> Stored` and `load(Stored) -> float`. Its
// `Element` is the 16-bit dtype in which products are taken, and a value of it is the sum of `kParts` elements. Of an
// `Element`, `pair` makes two in a register, and `leading` is the one nearest to a value, or next to it.
#pragma once

#include "device.cuh"

namespace tilepress {

struct Float16 {
    using Stored = u16;
    using Element = Float16;
    static constexpr int kParts = 1;
    // 1024: integers of so many bits, in the lowest ones, are added to it.
    static constexpr u32 kInteger = 0x6400u;
    static constexpr int kIntegerBits = 8;
    static constexpr u32 kOnes = 0x3c003c00u;

    static TILEPRESS_DEVICE u16 of_bits(u32 bits) { return static_cast<u16>(bits); }
    static TILEPRESS_DEVICE u16 store(float value) { return fp16_of_float(value); }
    static TILEPRESS_DEVICE float load(u16 bits) { return float_of_fp16(bits); }
    static TILEPRESS_DEVICE u32 pair(float first, float second) { return fp16x2_of_floats(first, second); }
    static TILEPRESS_DEVICE float leading(float value) { return load(store(value)); }
    static TILEPRESS_DEVICE u32 multiply_add(u32 a, u32 b, u32 c) { return fp16x2_multiply_add(a, b, c); }
    static TILEPRESS_DEVICE void mma(float (&sums)[4], const u32 (&a)[4], const u32 (&b)[2]) { fp16_mma(sums, a, b); }
};

struct Bfloat16 {
    using Stored = u16;
    using Element = Bfloat16;
    static constexpr int kParts = 1;
    // 128: integers of so many bits, in the lowest ones, are added to it.
    static constexpr u32 kInteger = 0x4300u;
    static constexpr int kIntegerBits = 7;
    static constexpr u32 kOnes = 0x3f803f80u;

    static TILEPRESS_DEVICE u16 of_bits(u32 bits) { return static_cast<u16>(bits); }
    static TILEPRESS_DEVICE u16 store(float value) { return bf16_of_float(value); }
    static TILEPRESS_DEVICE float load(u16 bits) { return float_of_bits(static_cast<u32>(bits) << 16); }
    static TILEPRESS_DEVICE u32 pair(float first, float second) { return bf16x2_of_floats(first, second); }
    // Not rounded, so that nothing finite becomes infinite and three of them hold a whole float32.
    static TILEPRESS_DEVICE float leading(float value) { return float_of_bits(bits_of_float(value) & 0xffff0000u); }
    static TILEPRESS_DEVICE u32 multiply_add(u32 a, u32 b, u32 c) { return bf16x2_multiply_add(a, b, c); }
    static TILEPRESS_DEVICE void mma(float (&sums)[4], const u32 (&a)[4], const u32 (&b)[2]) { bf16_mma(sums, a, b); }
};

struct Float32 {
    using Stored = float;
    using Element = Bfloat16;
    static constexpr int kParts = 3;

    static TILEPRESS_DEVICE float of_bits(u32 bits) { return float_of_bits(bits); }
    static TILEPRESS_DEVICE float store(float value) { return value; }
    static TILEPRESS_DEVICE float load(float value) { return value; }
};

template <class One, class Other>
constexpr bool kIsSame = false;
template <class One>
constexpr bool kIsSame<One, One> = true;

// The value whose bits these are, in another dtype; bit for bit, NaN too, where that is the same.
template <class Source, class Dtype>
TILEPRESS_DEVICE typename Dtype::Stored converted(u32 bits) {
    const typename Source::Stored stored = Source::of_bits(bits);
    if constexpr (kIsSame<Source, Dtype>)
        return stored;
    else
        return Dtype::store(Source::load(stored));
}

// Cut a value into elements that add up to it, largest first; infinities and NaN stay whole in the first.
template <class Element, int kParts>
TILEPRESS_DEVICE void cut(float value, float (&parts)[kParts]) {
    const bool is_finite = (bits_of_float(value) & 0x7f800000u) != 0x7f800000u;
    for (int part = 0; part < kParts; ++part) {
        parts[part] = Element::leading(value);
        value = is_finite ? value - parts[part] : 0.0f;
    }
}

// What is read 16 bytes at a time.
struct __align__(16) Words {
    u32 of[4];
};
struct __align__(8) TwoWords {
    u32 of[2];
};

// Eight neighbouring values, 16 bytes at a time; `to` is aligned to 16 bytes.
template <class Dtype>
TILEPRESS_DEVICE void store_lane(typename Dtype::Stored* to, const float (&values)[8]) {
    constexpr int kWords = 8 * sizeof(typename Dtype::Stored) / 4;
    u32 words[kWords];
    for (int i = 0; i < kWords; ++i) {
        if constexpr (sizeof(typename Dtype::Stored) == 4)
            words[i] = bits_of_float(values[i]);
        else
            words[i] = Dtype::pair(values[2 * i], values[2 * i + 1]);
    }
    for (int i = 0; i < kWords; i += 4)
        reinterpret_cast<Words*>(to)[i / 4] = {words[i], words[i + 1], words[i + 2], words[i + 3]};
}

}  // namespace tilepress
