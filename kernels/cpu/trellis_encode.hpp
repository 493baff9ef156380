// The search for trellis codes (see trellis.hpp for what they mean), for every instruction set.
#pragma once

#include <cstdint>

#include "values.hpp"

namespace tilepress {

struct TrellisSearch {
    int bits;
    int window;
    // Paths that are followed at each step, about; 0 follows all.
    int survivors;
};

// Tiles of a matrix, in code units. Rows and columns are whole tiles.
struct TrellisTarget {
    const float* wanted;  // [rows][columns]
    float* found;         // [rows][columns], what the codes decode to
    std::uint8_t* codes;  // [panels][tiles][32 bits]
    std::int64_t tiles;   // of a panel
};

struct TrellisEncodeKernels {
    // Encode the tiles `range`, numbered panel by panel; `book` has the value of each state.
    void (*encode)(const TrellisSearch&, const TrellisTarget&, const float* book, Range range);
};

TrellisEncodeKernels portable_trellis_encode_kernels();
TrellisEncodeKernels avx2_trellis_encode_kernels();
TrellisEncodeKernels avx512_trellis_encode_kernels();

}  // namespace tilepress
