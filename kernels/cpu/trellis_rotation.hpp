// The rotation of kernels/layout/rotation.py, in place, in the order of sums that kernels/reference/rotation.py
// defines.
//
// In an unnamed namespace, for the reason that floats.hpp gives.
#pragma once

#include <vector>

#include "trellis.hpp"

namespace tilepress {
namespace {

inline void apply_signs(const RotatedSide& side, float* values, std::int64_t stride, std::int64_t width) {
    for (std::int64_t i = 0; i < side.length; ++i) {
        const float sign = side.signs[i / 8] >> (i % 8) & 1 ? -1.0f : 1.0f;
        for (std::int64_t column = 0; column < width; ++column) values[i * stride + column] *= sign;
    }
}

// Sums and differences of rows `half` apart, for each power of two; rows of `length` values, `stride` apart.
inline void walsh_hadamard(float* values, std::int64_t power, std::int64_t stride, std::int64_t width) {
    for (std::int64_t half = 1; half < power; half *= 2)
        for (std::int64_t first = 0; first < power; first += 2 * half) {
            // Neighbours of a contiguous side are one long row.
            const bool is_contiguous = stride == width;
            const std::int64_t rows = is_contiguous ? 1 : half;
            const std::int64_t length = is_contiguous ? half * width : width;
            for (std::int64_t row = 0; row < rows; ++row) {
                float* a = values + (first + row) * stride;
                float* b = a + half * stride;
                for (std::int64_t i = 0; i < length; ++i) {
                    const float sum = a[i] + b[i];
                    b[i] = a[i] - b[i];
                    a[i] = sum;
                }
            }
        }
}

inline void hartley(const RotatedSide& side, float* values, std::int64_t stride, std::int64_t width,
                    std::vector<float>& mixed) {
    const bool is_contiguous = stride == width;
    const std::int64_t rows = is_contiguous ? 1 : side.power;
    const std::int64_t length = is_contiguous ? side.power * width : width;
    mixed.resize(static_cast<std::size_t>(side.odd * length));
    for (std::int64_t row = 0; row < rows; ++row) {
        float* lines = values + row * stride;
        for (std::int64_t i = 0; i < side.odd; ++i) {
            float* line = mixed.data() + i * length;
            const float* table = side.table + i * side.odd;
            for (std::int64_t k = 0; k < length; ++k) line[k] = table[0] * lines[k];
            for (std::int64_t j = 1; j < side.odd; ++j) {
                const float* from = lines + j * side.power * stride;
                for (std::int64_t k = 0; k < length; ++k) line[k] += table[j] * from[k];
            }
        }
        for (std::int64_t i = 0; i < side.odd; ++i)
            for (std::int64_t k = 0; k < length; ++k) lines[i * side.power * stride + k] = mixed[i * length + k];
    }
}

inline void rotate(const RotatedSide& side, bool back, float* values, std::int64_t stride, std::int64_t width) {
    std::vector<float> mixed;
    if (!back) apply_signs(side, values, stride, width);
    for (std::int64_t block = 0; block < side.length; block += side.odd * side.power) {
        for (std::int64_t i = 0; i < side.odd; ++i)
            walsh_hadamard(values + (block + i * side.power) * stride, side.power, stride, width);
        for (std::int64_t i = 0; i < side.odd * side.power; ++i)
            for (std::int64_t column = 0; column < width; ++column) values[(block + i) * stride + column] *= side.scale;
        if (side.odd > 1) hartley(side, values + block * stride, stride, width, mixed);
    }
    if (back) apply_signs(side, values, stride, width);
}

}  // namespace
}  // namespace tilepress
