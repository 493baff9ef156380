// x in the rotated basis as 16-bit integers, which trellis codes are multiplied by without rounding.
//
//     x = factor * (high + low / 65534)      a factor for each 128 columns and row of x
//
// `high` is a plane of its own, and so is `low`, which follows where x is float32 or has outliers: it keeps what
// float32 does. A rotated x has none, and 16 bits of it err by less than rounding to bfloat16 does.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "floats.hpp"
#include "trellis.hpp"

namespace tilepress {
namespace {

constexpr float kMostStep = 32767.0f;
constexpr float kLowStep = 65534.0f;  // of what `high` lacks, at most a half
// Values beyond this many times the mean magnitude are outliers.
constexpr std::int64_t kOutlierRatio = 16;
// Smaller ones are rounded as if there were one of this magnitude.
constexpr float kLeastMagnitude = 0x1p-100f;

class TrellisPlanes {
public:
    // `x` has `count` rows of `width` values; float32 asks for both planes of each.
    TrellisPlanes(const float* x, std::int64_t count, std::int64_t width, bool is_float32) : width_(width) {
        blocks_ = (width + kTrellisBlock - 1) / kTrellisBlock;
        steps_.resize(static_cast<std::size_t>(2 * count * width));
        factors_.resize(static_cast<std::size_t>(2 * count * blocks_));
        sums_.resize(factors_.size());
        for (std::int64_t row = 0; row < count; ++row) {
            // The next row takes the place of a low plane that isn't needed.
            bool needs_low = is_float32;
            for (std::int64_t block = 0; block < blocks_; ++block)
                needs_low |= add_block(x + row * width, planes_, block);
            rows_.push_back(row);
            if (needs_low) rows_.push_back(row);
            planes_ += needs_low ? 2 : 1;
        }
    }

    TrellisInput input() const {
        return {steps_.data(), factors_.data(), sums_.data(), rows_.data(), planes_, width_, blocks_};
    }

private:
    // Writes both planes of a block; true where it has outliers.
    bool add_block(const float* x, std::int64_t plane, std::int64_t block) {
        const std::int64_t first = block * kTrellisBlock, last = std::min(first + kTrellisBlock, width_);
        std::int32_t most = 0;
        for (std::int64_t i = first; i < last; ++i)
            most = std::max(most, static_cast<std::int32_t>(bits_of_float(x[i]) & 0x7fffffffu));
        const bool is_finite = most < 0x7f800000;
        const float largest = std::max(float_of_bits(static_cast<std::uint32_t>(most)), kLeastMagnitude);
        const float steps = is_finite ? kMostStep / largest : 0.0f;
        std::int16_t* high = steps_.data() + plane * width_;
        std::int16_t* low = high + width_;
        std::int32_t sum = 0, low_sum = 0, magnitudes = 0;
        for (std::int64_t i = first; i < last; ++i) {
            const float exact = is_finite ? x[i] * steps : 0.0f;
            const std::int32_t whole = nearest(exact);
            const std::int32_t rest = nearest((exact - static_cast<float>(whole)) * kLowStep);
            high[i] = static_cast<std::int16_t>(whole);
            low[i] = static_cast<std::int16_t>(rest);
            sum += whole;
            low_sum += rest;
            magnitudes += whole < 0 ? -whole : whole;
        }
        const std::int64_t place = plane * blocks_ + block;
        const float factor = is_finite ? largest / kMostStep : std::numeric_limits<float>::quiet_NaN();
        factors_[place] = factor;
        factors_[place + blocks_] = factor / kLowStep;
        sums_[place] = sum;
        sums_[place + blocks_] = low_sum;
        return magnitudes != 0 && (last - first) * std::int64_t{32767} > kOutlierRatio * magnitudes;
    }

    // To the nearest integer, of magnitudes below 2^22.
    static std::int32_t nearest(float value) {
        constexpr float shift = 12582912.0f;  // 1.5 * 2^23
        return static_cast<std::int32_t>((value + shift) - shift);
    }

    std::int64_t width_, blocks_, planes_ = 0;
    std::vector<std::int16_t> steps_;
    std::vector<float> factors_;
    std::vector<std::int32_t> sums_;
    std::vector<std::int64_t> rows_;
};

}  // namespace
}  // namespace tilepress
