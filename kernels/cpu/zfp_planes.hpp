// Bit planes of a block's coefficients, by embedded coding: of each plane the first n bits as they are, where n
// coefficients have been significant before, and the others as runs of zeros, each behind a bit that says whether
// there is a one left (a group test).
#pragma once

#include "zfp_bits.hpp"

namespace tilepress {
namespace {

inline unsigned smaller_count(std::int64_t a, std::int64_t b) {
    return static_cast<unsigned>(a < b ? a : b);
}

// Length of the run of zeros that comes next, at most `most`; it is taken, together with the one that ends it.
inline unsigned read_run(BitReader& reader, unsigned most) {
    constexpr unsigned kStep = 32;
    unsigned length = 0;
    while (length < most) {
        const unsigned step = smaller_count(kStep, most - length);
        const std::uint64_t bits = reader.window() & low_bits(step);
        if (bits != 0) {
            const unsigned zeros = trailing_zeros(bits);
            reader.position += zeros + 1;
            return length + zeros;
        }
        reader.position += step;
        length += step;
    }
    return length;
}

// Read `planes` planes of `Size` coefficients, or as many as `most_bits` bits hold. Returns the bits that were read.
template <int Size, class UInt>
std::int64_t decode_planes(BitReader& reader, std::int64_t most_bits, int planes, UInt* coefficients) {
    constexpr int kBits = 8 * sizeof(UInt);
    const std::uint64_t begin = reader.position;
    const std::uint64_t end = begin + static_cast<std::uint64_t>(most_bits);
    for (int i = 0; i < Size; ++i) coefficients[i] = 0;
    const int lowest = planes < kBits ? kBits - planes : 0;
    const auto left = [&] { return static_cast<std::int64_t>(end - reader.position); };
    unsigned significant = 0;
    for (int plane = kBits - 1; plane >= lowest && left() > 0; --plane) {
        std::uint64_t bits = reader.read(smaller_count(significant, left()));
        while (significant < Size && left() > 0 && reader.read(1) != 0) {
            significant += read_run(reader, smaller_count(Size - 1 - significant, left()));
            bits |= std::uint64_t{1} << significant++;
        }
        for (; bits != 0; bits &= bits - 1) coefficients[trailing_zeros(bits)] |= UInt{1} << plane;
    }
    return static_cast<std::int64_t>(reader.position - begin);
}

// The inverse of `decode_planes`; returns the bits that were written.
template <int Size, class UInt>
std::int64_t encode_planes(BitWriter& writer, std::int64_t most_bits, int planes, const UInt* coefficients) {
    constexpr int kBits = 8 * sizeof(UInt);
    const std::uint64_t begin = writer.written;
    const std::uint64_t end = begin + static_cast<std::uint64_t>(most_bits);
    const int lowest = planes < kBits ? kBits - planes : 0;
    const auto left = [&] { return static_cast<std::int64_t>(end - writer.written); };
    unsigned significant = 0;
    for (int plane = kBits - 1; plane >= lowest && left() > 0; --plane) {
        std::uint64_t bits = 0;
        for (int i = 0; i < Size; ++i) bits |= static_cast<std::uint64_t>((coefficients[i] >> plane) & 1u) << i;
        const unsigned known = smaller_count(significant, left());
        writer.write(bits & low_bits(known), known);
        bits = known < 64 ? bits >> known : 0;
        while (significant < Size && left() > 0) {
            writer.write(bits != 0, 1);
            if (bits == 0) break;
            const unsigned zeros = trailing_zeros(bits);
            const unsigned most = smaller_count(Size - 1 - significant, left());
            if (zeros < most)
                writer.write(std::uint64_t{1} << zeros, zeros + 1);
            else
                writer.write(0, most);
            bits = zeros < 63 ? bits >> (zeros + 1) : 0;
            significant += zeros + 1;
        }
    }
    return static_cast<std::int64_t>(writer.written - begin);
}

}  // namespace
}  // namespace tilepress
