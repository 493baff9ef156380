// The encoder of `sz` (sz.hpp), for every instruction set. What it writes depends on nothing but its arguments.
#pragma once

#include <cstdint>

#include "sz.hpp"

namespace tilepress {

// A tile of a matrix: `width` values a row, `stride` from one row to the next.
struct SzBlock {
    const void* values;
    Dtype dtype;
    std::int64_t rows;
    std::int64_t width;
    std::int64_t stride;
};

// A matrix and its tiles, panel by panel.
struct SzMatrix {
    const std::uint8_t* values;
    Dtype dtype;
    std::int64_t rows;
    std::int64_t columns;

    std::int64_t tiles_across() const { return (columns + kSzColumns - 1) / kSzColumns; }
    std::int64_t tiles() const { return (rows + kSide - 1) / kSide * tiles_across(); }
    SzBlock tile(std::int64_t number) const {
        const std::int64_t row = number / tiles_across() * kSide, column = number % tiles_across() * kSzColumns;
        const std::int64_t below = rows - row, right = columns - column;
        return {values + (row * columns + column) * size_of(dtype), dtype, below < kSide ? below : kSide,
                right < kSzColumns ? right : kSzColumns, columns};
    }
};

struct SzEncodeKernels {
    // Encode the tiles `range`, so that decoded values are within `bound`, one after the other to `to`. Tile n takes
    // sizes[n] bytes: a multiple of kSzAlignment and at most `most_sz_tile_bytes`.
    void (*encode)(const SzCode&, double bound, const SzMatrix&, Range range, std::uint8_t* to, std::int64_t* sizes);
};

SzEncodeKernels portable_sz_encode_kernels();
SzEncodeKernels avx2_sz_encode_kernels();
SzEncodeKernels avx512_sz_encode_kernels();

}  // namespace tilepress
