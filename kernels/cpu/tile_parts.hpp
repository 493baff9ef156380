// The parts of a weight in fixed-rate tiles, as bindings take them from Python.
#pragma once

#include <algorithm>
#include <cstring>
#include <string>

#include "buffers.hpp"
#include "tiles.hpp"

namespace tilepress {

inline Code code_named(const std::string& name) {
    if (name == "int") return Code::integer;
    if (name == "nf4") return Code::nf4;
    if (name == "e4m3") return Code::e4m3;
    if (name == "e5m2") return Code::e5m2;
    if (name == "e2m1") return Code::e2m1;
    throw std::invalid_argument("there is no code of this name");
}

inline bool has_right_bits(Code code, int bits) {
    switch (code) {
        case Code::integer:
            return 2 <= bits && bits <= 8;
        case Code::nf4:
        case Code::e2m1:
            return bits == 4;
        default:
            return bits == 8;
    }
}

inline ScaleFormat scale_format_named(const std::string& name) {
    if (name == "bfloat16") return ScaleFormat::bfloat16;
    if (name == "e8m0") return ScaleFormat::e8m0;
    if (name == "e4m3") return ScaleFormat::e4m3;
    throw std::invalid_argument("there is no scale format of this name");
}

// A float32, four times.
constexpr std::int64_t kGlobalScaleBytes = 16;

// What all calls have in common: the parts of a weight, checked against each other.
struct Parts {
    Buffer codes;
    Buffer scales;
    Buffer zero_points;
    Buffer global_scale;
    std::string code;
    int bits;
    std::int64_t group;
    std::string scale_format;
    std::int64_t panels;
    std::int64_t columns;
};

inline Tiles checked(const Parts& parts) {
    require(0 <= parts.panels && parts.panels <= kMost && 0 <= parts.columns && parts.columns <= kMost,
            "the weight's shape is out of bounds");
    require(parts.group >= 0 && parts.group % kSide == 0, "a group is not a whole number of tiles");
    const Code code = code_named(parts.code);
    require(has_right_bits(code, parts.bits), "the code does not have so many bits");
    require(code != Code::e2m1 || parts.group == kSide || parts.group == 2 * kSide,
            "4-bit floating codes have groups of 16 or 32 columns");
    const std::int64_t tiles = (parts.columns + kSide - 1) / kSide;
    const std::int64_t group_tiles = parts.group == 0 ? std::max<std::int64_t>(tiles, 1) : parts.group / kSide;
    const std::int64_t groups = parts.group == 0 ? 1 : (tiles + group_tiles - 1) / group_tiles;
    require(holds(parts.codes, parts.panels, tiles, 32 * parts.bits), "the codes do not fit the weight's shape");
    const ScaleFormat scale_format = scale_format_named(parts.scale_format);
    const std::int64_t scale_bytes = scale_format == ScaleFormat::bfloat16 ? 2 : 1;
    require(holds(parts.scales, parts.panels, groups, scale_bytes * kSide), "the scales do not fit the weight's shape");
    require(parts.zero_points.second < 0 || holds(parts.zero_points, parts.panels, groups, kSide),
            "the zero points do not fit the weight's shape");
    float global_scale = 1.0f;
    require((parts.global_scale.second >= 0) == (scale_format == ScaleFormat::e4m3),
            "scales of a byte with a fraction need a global scale, and no others do");
    if (parts.global_scale.second >= 0) {
        require(parts.global_scale.second == kGlobalScaleBytes, "the global scale is not there four times");
        std::memcpy(&global_scale, reinterpret_cast<const void*>(parts.global_scale.first), sizeof global_scale);
    }
    return {reinterpret_cast<const std::uint8_t*>(parts.codes.first),
            reinterpret_cast<const std::uint8_t*>(parts.scales.first),
            reinterpret_cast<const std::uint8_t*>(parts.zero_points.first),
            code,
            scale_format,
            global_scale,
            parts.bits,
            parts.panels,
            tiles,
            group_tiles,
            groups};
}

}  // namespace tilepress
