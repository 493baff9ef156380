// Quantization of `sz` (sz.hpp): values to integers, and which of them would miss the bound.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "floats.hpp"
#include "sz_encode.hpp"

namespace tilepress {
namespace {

// The largest magnitude of an integer: float32 holds all of them, and half of them, exactly.
constexpr std::int32_t kSzMostInteger = 1 << 22;

// The largest magnitude at a shift, so that the high part of every residual fits 16 bits.
constexpr std::int32_t most_integer_at(int shift) {
    return shift >= 10 ? kSzMostInteger : 1 << (12 + shift);
}

// The largest float32 that is not above.
inline float rounded_down(double value) {
    constexpr float most = std::numeric_limits<float>::max();
    if (value >= most) return most;
    const auto nearest = static_cast<float>(value);
    return nearest > value ? std::nextafter(nearest, 0.0f) : nearest;
}

inline void row_in_float32(const SzBlock& block, std::int64_t row, float* to) {
    const auto* halves = static_cast<const std::uint16_t*>(block.values) + row * block.stride;
    switch (block.dtype) {
        case Dtype::float32:
            std::memcpy(to, static_cast<const float*>(block.values) + row * block.stride,
                        static_cast<std::size_t>(block.width) * sizeof(float));
            return;
        case Dtype::bfloat16:
            for (std::int64_t i = 0; i < block.width; ++i) to[i] = float_of_bf16(halves[i]);
            return;
        case Dtype::float16:
            for (std::int64_t i = 0; i < block.width; ++i) to[i] = float_of_fp16(halves[i]);
    }
}

template <Dtype Type>
float rounded_to(float value) {
    if (Type == Dtype::bfloat16) return float_of_bf16(bf16_of_float(value));
    if (Type == Dtype::float16) return float_of_fp16(fp16_of_float(value));
    return value;
}

// Integers and decoded values of a row; sets `is_suspect` where float32 arithmetic can't tell that the bound holds, and
// returns whether there are any. Written so that compilers make vectors of it.
template <Dtype Type>
bool quantize_row(const float* values, std::int64_t width, float step, float most, float bound, std::int32_t* integers,
                  float* decoded, std::uint8_t* is_suspect) {
    const float inverse = 1.0f / step;
    // Adding and subtracting it rounds what is not above 2^22 to an integer, ties to even.
    constexpr float rounder = 0x1.8p23f;
    for (std::int64_t i = 0; i < width; ++i) {
        float scaled = values[i] * inverse;
        // NaN gives the lowest.
        scaled = scaled > -most ? scaled : -most;
        scaled = scaled < most ? scaled : most;
        const float rounded = (scaled + rounder) - rounder;
        integers[i] = static_cast<std::int32_t>(rounded);
        decoded[i] = rounded_to<Type>(rounded * step);
    }
    unsigned any = 0;
    for (std::int64_t i = 0; i < width; ++i) {
        // Below the bound after rounding is below it before; at the bound only exact arithmetic can tell.
        const bool is_within = std::fabs(decoded[i] - values[i]) < bound;
        is_suspect[i] = !is_within;
        any |= !is_within;
    }
    return any != 0;
}

inline bool quantize_row(Dtype dtype, const float* values, std::int64_t width, float step, float most, float bound,
                         std::int32_t* integers, float* decoded, std::uint8_t* is_suspect) {
    switch (dtype) {
        case Dtype::bfloat16:
            return quantize_row<Dtype::bfloat16>(values, width, step, most, bound, integers, decoded, is_suspect);
        case Dtype::float16:
            return quantize_row<Dtype::float16>(values, width, step, most, bound, integers, decoded, is_suspect);
        default:
            return quantize_row<Dtype::float32>(values, width, step, most, bound, integers, decoded, is_suspect);
    }
}

// Call sink(residuals of a row) for every row of a block. `outliers` gets the positions, in order, of the values of
// which |decoded - value| <= bound would not hold, with the decoded value rounded to the block's dtype.
template <class Sink>
void quantize(const SzBlock& block, double bound, float step, std::int32_t most, Predictor predictor,
              std::vector<std::uint16_t>& outliers, const Sink& sink) {
    float values[kSzColumns], decoded[kSzColumns];
    std::int32_t rows[2][kSzColumns] = {}, residuals[kSzColumns];
    std::uint8_t is_suspect[kSzColumns];
    const float bound_below = rounded_down(bound);
    const std::int64_t width = block.width;
    outliers.clear();
    for (std::int64_t row = 0; row < block.rows; ++row) {
        std::int32_t* integers = rows[row % 2];
        row_in_float32(block, row, values);
        const bool any = quantize_row(block.dtype, values, width, step, static_cast<float>(most), bound_below, integers,
                                      decoded, is_suspect);
        for (std::int64_t i = 0; any && i < width; ++i) {
            // In double precision, differences that are near the bound are exact.
            const double error = std::fabs(static_cast<double>(decoded[i]) - static_cast<double>(values[i]));
            if (!is_suspect[i] || error <= bound) continue;
            outliers.push_back(static_cast<std::uint16_t>(row * width + i));
            integers[i] = predictor == Predictor::none || i == 0 ? 0 : integers[i - 1];
        }
        if (predictor == Predictor::none) {
            sink(integers);
            continue;
        }
        const std::int32_t* above = rows[(row + 1) % 2];
        const bool is_flat = predictor == Predictor::lorenzo1 || row == 0;
        std::int32_t left = 0;
        for (std::int64_t i = 0; i < width; ++i) {
            const std::int32_t rise = is_flat ? integers[i] : integers[i] - above[i];
            residuals[i] = rise - left;
            left = rise;
        }
        sink(residuals);
    }
}

}  // namespace
}  // namespace tilepress
