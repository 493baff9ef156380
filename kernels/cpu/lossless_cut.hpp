// Cutting values into planes (lossless.hpp), a byte a value.
#pragma once

#include <cstdint>

#include "lossless.hpp"

namespace tilepress {
namespace {

struct PlaneRoom {
    alignas(64) std::uint8_t of[kMostPlanes][kBlockValues];
};

// Cut `count` consecutive values into planes, from place `to` on.
inline void cut_values(Dtype dtype, const void* values, std::int64_t count, PlaneRoom& planes, std::int64_t to) {
    const auto* halves = static_cast<const std::uint16_t*>(values);
    const auto* words = static_cast<const std::uint32_t*>(values);
    std::uint8_t* const first = planes.of[0] + to;
    std::uint8_t* const second = planes.of[1] + to;
    std::uint8_t* const third = planes.of[2] + to;
    std::uint8_t* const fourth = planes.of[3] + to;
    switch (dtype) {
        case Dtype::bfloat16:
            for (std::int64_t i = 0; i < count; ++i) {
                first[i] = static_cast<std::uint8_t>(halves[i] << 1 | halves[i] >> 15);
                second[i] = static_cast<std::uint8_t>(halves[i] >> 7);
            }
            return;
        case Dtype::float16:
            for (std::int64_t i = 0; i < count; ++i) {
                first[i] = static_cast<std::uint8_t>(halves[i] << 1 | halves[i] >> 15);
                second[i] = static_cast<std::uint8_t>(halves[i] >> 7 & 3);
                third[i] = static_cast<std::uint8_t>(halves[i] >> 9 & 0x3f);
            }
            return;
        case Dtype::float32:
            for (std::int64_t i = 0; i < count; ++i) {
                first[i] = static_cast<std::uint8_t>(words[i]);
                second[i] = static_cast<std::uint8_t>(words[i] >> 8);
                third[i] = static_cast<std::uint8_t>(words[i] >> 16 << 1 | words[i] >> 31);
                fourth[i] = static_cast<std::uint8_t>(words[i] >> 23);
            }
    }
}

}  // namespace
}  // namespace tilepress
