// The search for trellis codes (see trellis.hpp for what they mean), for every instruction set.
#pragma once

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
};

// The value of each state, and how the distance to it is priced, in units such that the distance is about 10 where
// a search ends up: rounding to them costs some 0.001 bit.
struct TrellisBook {
    alignas(64) std::int16_t values[1 << 16];
    std::uint16_t longest;  // no distance counts for more
    std::uint16_t bend;     // bend * longest fits in 16 bits
    float units;            // of 1
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
