// One block: its exponent, its decorrelating transform, and the order and signs of its coefficients.
#pragma once

#include <cmath>
#include <cstring>
#include <limits>

#include "zfp_format.hpp"
#include "zfp_planes.hpp"

namespace tilepress {
namespace {

template <class Scalar>
using UIntOf = typename ZfpScalar<Scalar>::UInt;

template <class UInt>
constexpr UInt negabinary_mask() {
    return static_cast<UInt>(0xaaaaaaaaaaaaaaaaull);
}

// Two's complement integers of the same size, of numbers or of vectors of them.
template <class UInt>
struct SignedOf;

template <>
struct SignedOf<std::uint32_t> {
    using Int = std::int32_t;
};

template <>
struct SignedOf<std::uint64_t> {
    using Int = std::int64_t;
};

// Half of a two's complement integer, rounded down.
template <class UInt>
inline void halve(UInt& value) {
    value = (UInt)((typename SignedOf<UInt>::Int)value >> 1);
}

// The lifting steps, modulo 2^bits: of the lossy modes, and of the reversible one (differences of third order).
template <class UInt>
inline void lift_forward(UInt& x, UInt& y, UInt& z, UInt& w) {
    x += w, halve(x), w -= x;
    z += y, halve(z), y -= z;
    x += z, halve(x), z -= x;
    w += y, halve(w), y -= w;
    UInt half = y;
    halve(half), w += half;
    half = w;
    halve(half), y -= half;
}

template <class UInt>
inline void lift_inverse(UInt& x, UInt& y, UInt& z, UInt& w) {
    UInt half = w;
    halve(half), y += half;
    half = y;
    halve(half), w -= half;
    y += w, w += w, w -= y;
    z += x, x += x, x -= z;
    y += z, z += z, z -= y;
    w += x, x += x, x -= w;
}

template <class UInt>
inline void difference_forward(UInt& x, UInt& y, UInt& z, UInt& w) {
    w -= z, z -= y, y -= x;
    w -= z, z -= y;
    w -= z;
}

template <class UInt>
inline void difference_inverse(UInt& x, UInt& y, UInt& z, UInt& w) {
    w += z;
    z += y, w += z;
    y += x, z += y, w += z;
}

// Apply `lift` along every line of a block: dimensions in rising order, or falling.
template <int Dims, bool Rising, class UInt, class Lift>
inline void transform(UInt* block, const Lift& lift) {
    for (int step = 0; step < Dims; ++step) {
        const int stride = 1 << (2 * (Rising ? step : Dims - 1 - step));
        for (int line = 0; line < block_values(Dims) / 4; ++line) {
            UInt* first = block + line / stride * 4 * stride + line % stride;
            lift(first[0], first[stride], first[2 * stride], first[3 * stride]);
        }
    }
}

// Exponent e of the largest magnitude m: 2^(e - 1) <= m < 2^e, at least that of the smallest normal number; -bias of
// zeros. NaN does not count, and infinity has the exponent 0.
template <class Scalar>
int exponent_of(const Scalar* values, int count) {
    using Format = ZfpScalar<Scalar>;
    using UInt = UIntOf<Scalar>;
    constexpr UInt infinity = UInt{2 * Format::bias + 1} << Format::mantissa_bits;
    UInt largest = 0;
    for (int i = 0; i < count; ++i) {
        UInt bits;
        std::memcpy(&bits, values + i, sizeof bits);
        bits &= ~UInt{0} >> 1;
        if (bits <= infinity && bits > largest) largest = bits;
    }
    if (largest == 0) return -Format::bias;
    if (largest == infinity) return 0;
    return static_cast<int>(largest >> Format::mantissa_bits) - Format::bias + 1;
}

// Fixed point of a block: the largest value takes all bits but two. Where the scale overflows, as it does for subnormal
// numbers, the integer is the smallest, which is what x86 processors make of infinity and NaN.
template <class Scalar>
void to_integers(const Scalar* values, int count, int exponent, UIntOf<Scalar>* integers) {
    using Int = typename ZfpScalar<Scalar>::Int;
    constexpr int kBits = ZfpScalar<Scalar>::bits;
    const Scalar scale = std::ldexp(Scalar{1}, kBits - 2 - exponent);
    const Scalar bound = std::ldexp(Scalar{1}, kBits - 1);
    for (int i = 0; i < count; ++i) {
        const Scalar scaled = scale * values[i];
        const bool fits = scaled >= -bound && scaled < bound;
        integers[i] = static_cast<UIntOf<Scalar>>(fits ? static_cast<Int>(scaled) : std::numeric_limits<Int>::min());
    }
}

template <class Scalar>
void from_integers(const UIntOf<Scalar>* integers, int count, int exponent, Scalar* values) {
    using Int = typename ZfpScalar<Scalar>::Int;
    const Scalar scale = std::ldexp(Scalar{1}, exponent - (ZfpScalar<Scalar>::bits - 2));
    for (int i = 0; i < count; ++i) values[i] = scale * static_cast<Scalar>(static_cast<Int>(integers[i]));
}

// Between the bits of floats (sign and magnitude) and two's complement integers; its own inverse.
template <class UInt>
void reinterpret(UInt* integers, int count) {
    constexpr UInt magnitude = ~UInt{0} >> 1;
    for (int i = 0; i < count; ++i)
        if (integers[i] > magnitude) integers[i] ^= magnitude;
}

template <class Scalar, int Dims>
struct ZfpBlock {
    using Format = ZfpScalar<Scalar>;
    using UInt = UIntOf<Scalar>;
    static constexpr int kValues = block_values(Dims);
    static constexpr int kBits = Format::bits;
    static constexpr std::int64_t kUnlimited = std::int64_t{1} << 32;

    // Returns the bits that were read.
    static std::int64_t decode_integers(BitReader& reader, std::int64_t most_bits, int planes, UInt* block) {
        UInt coefficients[kValues];
        const std::int64_t bits = decode_planes<kValues>(reader, most_bits, planes, coefficients);
        constexpr UInt mask = negabinary_mask<UInt>();
        for (int i = 0; i < kValues; ++i) block[ZfpOrder<Dims>::position[i]] = (coefficients[i] ^ mask) - mask;
        return bits;
    }

    static void order(const UInt* block, UInt* coefficients) {
        constexpr UInt mask = negabinary_mask<UInt>();
        for (int i = 0; i < kValues; ++i) coefficients[i] = (block[ZfpOrder<Dims>::position[i]] + mask) ^ mask;
    }

    static void decode(BitReader& reader, const ZfpMode& mode, Scalar* values) {
        if (mode.is_reversible) return decode_reversible(reader, values);
        const std::uint64_t begin = reader.position;
        if (reader.read(1) != 0) {
            const int exponent = static_cast<int>(reader.read(Format::exponent_bits)) - Format::bias;
            UInt block[kValues];
            decode_integers(reader, mode.most_bits - 1 - Format::exponent_bits, planes_of(mode, exponent, Dims), block);
            transform<Dims, false>(block, lift_inverse<UInt>);
            from_integers(block, kValues, exponent, values);
        } else {
            for (int i = 0; i < kValues; ++i) values[i] = 0;
        }
        const std::uint64_t least = begin + static_cast<std::uint64_t>(mode.least_bits);
        if (reader.position < least) reader.position = least;
    }

    static void encode(BitWriter& writer, const ZfpMode& mode, const Scalar* values) {
        if (mode.is_reversible) return encode_reversible(writer, values);
        const std::uint64_t begin = writer.written;
        const int exponent = exponent_of(values, kValues);
        const int planes = planes_of(mode, exponent, Dims);
        if (planes > 0 && exponent != -Format::bias) {
            writer.write(2 * static_cast<std::uint64_t>(exponent + Format::bias) + 1, 1 + Format::exponent_bits);
            UInt block[kValues], coefficients[kValues];
            to_integers(values, kValues, exponent, block);
            transform<Dims, true>(block, lift_forward<UInt>);
            order(block, coefficients);
            encode_planes<kValues>(writer, mode.most_bits - 1 - Format::exponent_bits, planes, coefficients);
        } else {
            writer.write(0, 1);
        }
        const std::uint64_t least = begin + static_cast<std::uint64_t>(mode.least_bits);
        if (writer.written < least) writer.write_zeros(least - writer.written);
    }

    // A reversible block begins with a bit for zeros alone, or else with 01 and its exponent, or with 11 where fixed
    // point would lose something and the bits of the values themselves are coded.
    static void decode_reversible(BitReader& reader, Scalar* values) {
        if (reader.read(1) == 0) {
            for (int i = 0; i < kValues; ++i) values[i] = 0;
            return;
        }
        const bool is_fixed_point = reader.read(1) == 0;
        const int exponent = is_fixed_point ? static_cast<int>(reader.read(Format::exponent_bits)) - Format::bias : 0;
        const int planes = static_cast<int>(reader.read(Format::precision_bits)) + 1;
        UInt block[kValues];
        decode_integers(reader, kUnlimited, planes, block);
        transform<Dims, false>(block, difference_inverse<UInt>);
        if (is_fixed_point && exponent != -Format::bias) return from_integers(block, kValues, exponent, values);
        if (is_fixed_point)
            std::memset(block, 0, sizeof block);
        else
            reinterpret(block, kValues);
        std::memcpy(values, block, sizeof block);
    }

    static void encode_reversible(BitWriter& writer, const Scalar* values) {
        UInt block[kValues], coefficients[kValues];
        Scalar again[kValues];
        const int exponent = exponent_of(values, kValues);
        if (exponent == -Format::bias)
            std::memset(block, 0, sizeof block);
        else
            to_integers(values, kValues, exponent, block);
        from_integers(block, kValues, exponent, again);
        if (std::memcmp(again, values, sizeof again) == 0) {
            if (exponent == -Format::bias) return writer.write(0, 1);
            writer.write(1, 2);
            writer.write(static_cast<std::uint64_t>(exponent + Format::bias), Format::exponent_bits);
        } else {
            std::memcpy(block, values, sizeof block);
            reinterpret(block, kValues);
            writer.write(3, 2);
        }
        transform<Dims, true>(block, difference_forward<UInt>);
        order(block, coefficients);
        UInt all = 0;
        for (int i = 0; i < kValues; ++i) all |= coefficients[i];
        const int planes = all == 0 ? 1 : kBits - static_cast<int>(trailing_zeros(all));
        writer.write(static_cast<std::uint64_t>(planes - 1), Format::precision_bits);
        encode_planes<kValues>(writer, kUnlimited, planes, coefficients);
    }
};

}  // namespace
}  // namespace tilepress
