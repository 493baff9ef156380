// Quantization of `sz` (sz.hpp): values to integers, and which of them would miss the bound.
#pragma once

#include <cstdint>
#include <vector>

#include "sz.hpp"

namespace tilepress {

// The largest magnitude of an integer: float32 holds all of them, and half of them, exactly.
constexpr std::int32_t kSzMostInteger = 1 << 22;

// The largest magnitude at a shift, so that the high part of every residual fits 16 bits.
constexpr std::int32_t most_integer_at(int shift) {
    return shift >= 10 ? kSzMostInteger : 1 << (12 + shift);
}

// A tile of a matrix: `width` values a row, `stride` from one row to the next.
struct SzBlock {
    const void* values;
    Dtype dtype;
    std::int64_t rows;
    std::int64_t width;
    std::int64_t stride;
};

// Write the residuals of a block to `residuals`, row by row, and the positions of its outliers, in order: of those
// |decoded - value| <= bound would not hold, with the decoded value rounded to the block's dtype.
void quantize(const SzBlock& block, double bound, float step, std::int32_t most, Predictor predictor,
              std::int32_t* residuals, std::vector<std::int32_t>& outliers);

}  // namespace tilepress
