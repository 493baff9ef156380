// Encoding into fixed-rate tiles: what the kernels of every instruction set take and offer.
//
// compress/codecs defines which scales and codes a tensor gets; these kernels find the same ones, bit for bit.
#pragma once

#include "tiles.hpp"

namespace tilepress {

// Where parts are written; `weight` describes them.
struct TileTarget {
    Tiles weight;
    std::uint8_t* codes;
    std::uint8_t* scales;
    std::uint8_t* zero_points;  // null: symmetric
};

// All values of a matrix, row by row without gaps: finite, and at most 2^126 in magnitude.
struct DenseSource {
    const void* values;
    Dtype dtype;
    std::int64_t rows;
    std::int64_t columns;
};

struct TileEncoderKernels {
    void (*encode)(const TileTarget&, Range panels, const DenseSource&);
    // Largest magnitude of a range of consecutive values; NaN where there is one.
    float (*largest)(const void* values, Dtype dtype, Range range);
};

TileEncoderKernels portable_tile_encoder_kernels();
TileEncoderKernels avx2_tile_encoder_kernels();
TileEncoderKernels avx512_tile_encoder_kernels();

}  // namespace tilepress
