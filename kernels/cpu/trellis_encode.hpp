// The search for trellis codes (see trellis.hpp for what they mean), for every instruction set.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "trellis.hpp"
#include "values.hpp"

namespace tilepress {

struct TrellisSearch {
    int bits;
    int window;
    // Paths that are followed at each step, about; 0 follows all.
    int survivors;

    // A path's memory is its state without the oldest bits.
    std::size_t memories() const { return std::size_t{1} << (window - bits); }
    // Where following some of the paths would take longer than all, as measured, all are.
    bool is_exact() const {
        const std::size_t vectors = bits < 4 ? 1 : std::size_t{1} << (bits - 4);
        const std::size_t work = 16 * static_cast<std::size_t>(survivors) * (2 + vectors) + 2 * memories();
        return survivors == 0 || memories() < 64 || work > std::size_t{1} << window;
    }
    // The most paths that a tile's steps follow, and room to write past them.
    std::size_t list_size() const { return (kTrellisSteps + 1) * memories() + 64; }
    // Values that a thread needs to search, from a multiple of 64 bytes on.
    std::size_t workspace_size() const {
        return is_exact() ? (kTrellisSteps + 1 + (std::size_t{1} << bits)) * memories() : memories() + 2 * list_size();
    }
};

// Books of as many bits a weight, or more, are so fine that far distances would overflow.
constexpr int kTrellisFineBits = 5;

// The value of each state, and how the distance to it is priced, in units such that the distance is about 9 where
// a search ends up: rounding to them costs some 0.001 bit.
struct TrellisBook {
    alignas(64) std::int16_t values[1 << 16];
    std::uint16_t longest;  // no distance counts for more
    std::uint16_t bend;     // bend * longest fits in 16 bits
    float units;            // of 1

    explicit TrellisBook(int bits) {
        constexpr float kUnits[] = {1.0f / 4.0f, 1.0f / 2.0f, 2.0f / 3.0f, 1.0f, 2.0f, 4.0f, 8.0f, 8.0f};
        constexpr float kLongest = 1638.0f;
        units = kUnits[bits - 1];
        longest = static_cast<std::uint16_t>(std::fmin(2.0f * kTrellisOffset * units + 2.0f, kLongest));
        bend = static_cast<std::uint16_t>(0xffff / longest);
        for (std::uint32_t state = 0; state < 1u << 16; ++state)
            values[state] = in_units(static_cast<float>(trellis_value(state)));
    }

    std::int16_t in_units(float value) const { return static_cast<std::int16_t>(std::floor(value * units + 0.5f)); }
};

// Tiles of a matrix, in code units. Rows and columns are whole tiles.
struct TrellisTarget {
    const float* wanted;  // [rows][columns]
    float* found;         // [rows][columns], what the codes decode to
    std::uint8_t* codes;  // [panels][tiles][32 bits]
    std::int64_t tiles;   // of a panel
};

struct TrellisEncodeKernels {
    // Encode the tiles `range`, numbered panel by panel.
    void (*encode)(const TrellisSearch&, const TrellisTarget&, const TrellisBook&, std::uint16_t* workspace,
                   Range range);
};

TrellisEncodeKernels portable_trellis_encode_kernels();
TrellisEncodeKernels avx2_trellis_encode_kernels();
TrellisEncodeKernels avx512_trellis_encode_kernels();

}  // namespace tilepress
