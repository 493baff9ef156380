// Small floats as elements of tensor cores, two in a register, without a table and without float32 between.
#pragma once

#include "tiles.cuh"

namespace tilepress {

// Two codes, each in the upper byte of a half of the register and with zeros below -> two elements; where `kIsKnown`.
template <class Code, class Element>
struct SmallFloats {
    static constexpr bool kIsKnown = false;
};

// Magnitudes of finite codes of E4M3 end at 448; the next number would be 480, and is NaN. Multiplied by `over`, it
// alone becomes infinite, and infinity times zero is NaN.
template <class Element>
TILEPRESS_DEVICE u32 with_nan(u32 values, u32 factors, u32 over) {
    constexpr u32 minus_zeros = 0x80008000u;
    return Element::multiply_add(Element::multiply_add(factors, over, minus_zeros), 0u, values);
}

// As a half, whose exponent is too small by 8; 35840 * 480 / 256 is above the largest half.
template <>
struct SmallFloats<E4m3, Float16> {
    static constexpr bool kIsKnown = true;
    static TILEPRESS_DEVICE u32 pair(u32 codes) {
        const u32 halves = (codes & 0x7f007f00u) >> 1 | (codes & 0x80008000u);
        return with_nan<Float16>(Float16::multiply_add(halves, 0x5c005c00u, 0x80008000u), halves, 0x78607860u);
    }
};

// As a bfloat16, whose exponent is too small by 120; 1.09375 * 2^119 * 480 is above the largest bfloat16.
template <>
struct SmallFloats<E4m3, Bfloat16> {
    static constexpr bool kIsKnown = true;
    static TILEPRESS_DEVICE u32 pair(u32 codes) {
        const u32 small = (codes & 0x7f007f00u) >> 4 | (codes & 0x80008000u);
        const u32 values = Bfloat16::multiply_add(small, 0x7b807b80u, 0x80008000u);
        return with_nan<Bfloat16>(values, values, 0x7b0c7b0cu);
    }
};

template <>
struct SmallFloats<E5m2, Float16> {
    static constexpr bool kIsKnown = true;
    static TILEPRESS_DEVICE u32 pair(u32 codes) { return codes; }
};

// The eight magnitudes of E2M1, their lower and their upper bytes.
template <class Element>
struct Magnitudes;

template <>
struct Magnitudes<Float16> {
    static constexpr u32 kLow[2] = {0u, 0u}, kHigh[2] = {0x3e3c3800u, 0x46444240u};
};
template <>
struct Magnitudes<Bfloat16> {
    static constexpr u32 kLow[2] = {0xc0800000u, 0xc0804000u}, kHigh[2] = {0x3f3f3f00u, 0x40404040u};
};

// Codes of E2M1 of rows g and g + 8, the same four columns of each, as bytes -> the A fragment. One `prmt` looks up
// four of them.
template <class Element>
TILEPRESS_DEVICE void e2m1_fragment(u32 upper, u32 lower, u32 (&a)[4]) {
    using Bytes = Magnitudes<Element>;
    const u32 codes = upper | lower << 4;
    for (int i = 0; i < 2; ++i) {
        const u32 four = codes >> (16 * i) & 0x7777u;
        const u32 low = select_bytes(Bytes::kLow[0], Bytes::kLow[1], four);
        const u32 high = select_bytes(Bytes::kHigh[0], Bytes::kHigh[1], four);
        for (int half = 0; half < 2; ++half) {
            const u32 signs = select_bytes(half == 0 ? codes << 4 : codes, 0u, i == 0 ? 0x1404u : 0x3424u);
            a[2 * i + half] = select_bytes(low, high, half == 0 ? 0x6240u : 0x7351u) | (signs & 0x80008000u);
        }
    }
}

}  // namespace tilepress
