// Encoding into fixed-rate tiles, group by group of a panel. Plain loops over 16 values: each instruction set compiles
// them for itself. In an unnamed namespace for the reason that floats.hpp gives.
#pragma once

#include <limits>
#include <vector>

#include "arithmetic.hpp"
#include "code_books.hpp"
#include "tile_encoders.hpp"
#include "tile_rounding.hpp"

namespace tilepress {
namespace {

constexpr float kLargestE2m1 = 6.0f;
constexpr float kLargestE4m3 = 448.0f;
constexpr float kLargestE5m2 = 57344.0f;

template <class Function>
inline void each(Function function) {
    for (int i = 0; i < kSide; ++i) function(i);
}

// 16 columns of a row in float32; outside of `count` they are zero.
inline void load_columns(const DenseSource& source, std::int64_t first, std::int64_t count, float* to) {
    std::uint32_t words[kSide] = {};
    if (source.dtype == Dtype::float32) {
        std::memcpy(words, static_cast<const float*>(source.values) + first, static_cast<std::size_t>(count) * 4);
        return each([&](int i) { to[i] = float_of_bits(words[i]); });
    }
    std::uint16_t halves[kSide] = {};
    const auto* from = static_cast<const std::uint16_t*>(source.values) + first;
    if (count == kSide)
        std::memcpy(halves, from, sizeof halves);
    else
        std::memcpy(halves, from, static_cast<std::size_t>(count) * 2);
    if (source.dtype == Dtype::bfloat16)
        each([&](int i) { to[i] = float_of_bf16(halves[i]); });
    else
        each([&](int i) { to[i] = float_of_fp16(halves[i]); });
}

// The tiles of one group of a panel: value and code of row r, column c of tile t at (16 t + r) * 16 + c.
struct EncodeGroup {
    std::int64_t tiles;
    std::vector<float> values;
    std::vector<std::uint8_t> codes;

    explicit EncodeGroup(std::int64_t most_tiles)
        : values(static_cast<std::size_t>(most_tiles * kTileValues)),
          codes(static_cast<std::size_t>(most_tiles * kTileValues)) {}

    void load(const DenseSource& source, std::int64_t panel, Range wanted) {
        tiles = wanted.last - wanted.first;
        for (std::int64_t row = 0; row < kSide; ++row)
            for (std::int64_t tile = 0; tile < tiles; ++tile) {
                const std::int64_t column = (wanted.first + tile) * kSide;
                const std::int64_t source_row = panel * kSide + row;
                const std::int64_t count = source_row < source.rows ? smaller(kSide, source.columns - column) : 0;
                const std::int64_t first = count == 0 ? 0 : source_row * source.columns + column;
                load_columns(source, first, count, row_of(tile, row));
            }
    }

    float* row_of(std::int64_t tile, std::int64_t row) { return values.data() + (tile * kSide + row) * kSide; }
    std::uint8_t* codes_of(std::int64_t tile, std::int64_t row) { return codes.data() + (tile * kSide + row) * kSide; }

    float largest_magnitude(std::int64_t row) {
        std::int32_t largest[kSide] = {};
        for (std::int64_t tile = 0; tile < tiles; ++tile) {
            const float* from = row_of(tile, row);
            each([&](int i) {
                const auto magnitude = static_cast<std::int32_t>(bits_of_float(from[i]) & 0x7fffffffu);
                largest[i] = magnitude > largest[i] ? magnitude : largest[i];
            });
        }
        std::int32_t result = 0;
        each([&](int i) { result = largest[i] > result ? largest[i] : result; });
        return float_of_bits(static_cast<std::uint32_t>(result));
    }

    // Lowest and highest value.
    void extremes(std::int64_t row, float& low, float& high) {
        float lows[kSide], highs[kSide];
        std::memcpy(lows, row_of(0, row), sizeof lows);
        std::memcpy(highs, row_of(0, row), sizeof highs);
        for (std::int64_t tile = 1; tile < tiles; ++tile) {
            const float* from = row_of(tile, row);
            each([&](int i) { lows[i] = from[i] < lows[i] ? from[i] : lows[i]; });
            each([&](int i) { highs[i] = from[i] > highs[i] ? from[i] : highs[i]; });
        }
        low = lows[0], high = highs[0];
        each([&](int i) { low = lows[i] < low ? lows[i] : low; });
        each([&](int i) { high = highs[i] > high ? highs[i] : high; });
    }

    // The code of value / scale for each value of a row; value / scale is 0 where the scale is.
    template <class Round>
    void round_row(std::int64_t row, float scale, const Round& round) {
        if (scale == 0.0f) {
            const auto code = static_cast<std::uint8_t>(round(0.0f));
            for (std::int64_t tile = 0; tile < tiles; ++tile) each([&](int i) { codes_of(tile, row)[i] = code; });
            return;
        }
        for (std::int64_t tile = 0; tile < tiles; ++tile) {
            const float* from = row_of(tile, row);
            std::uint8_t* to = codes_of(tile, row);
            std::uint32_t rounded[kSide];
            each([&](int i) { rounded[i] = round(from[i] / scale); });
            each([&](int i) { to[i] = static_cast<std::uint8_t>(rounded[i]); });
        }
    }
};

// Sum of 16 values, always in the same order: in halves.
inline float sum_in_halves(const float* values) {
    float sums[8];
    for (int i = 0; i < 8; ++i) sums[i] = values[i] + values[i + 8];
    for (int half = 4; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) sums[i] += sums[i + half];
    return sums[0];
}

inline std::uint32_t e2m1_code(float value) {
    const std::uint32_t bits = bits_of_float(value);
    const float magnitude = float_of_bits(bits & 0x7fffffffu);
    return E2m1::code(E2m1::round(magnitude < kLargestE2m1 ? magnitude : kLargestE2m1)) | (bits >> 31 << 3);
}

// Squared error of the row's values after rounding them to multiples of codes by `scale`.
inline float e2m1_error(EncodeGroup& group, std::int64_t row, float scale) {
    float sums[kSide] = {};
    // A scale of 0 makes everything 0, as an infinite divisor does.
    const float divisor = scale == 0.0f ? std::numeric_limits<float>::infinity() : scale;
    for (std::int64_t tile = 0; tile < group.tiles; ++tile) {
        const float* from = group.row_of(tile, row);
        each([&](int i) {
            const float true_value = float_of_bits(bits_of_float(from[i]) & 0x7fffffffu);
            const float scaled = true_value / divisor;
            const float error = E2m1::round(scaled < kLargestE2m1 ? scaled : kLargestE2m1) * scale - true_value;
            sums[i] += error * error;
        });
    }
    return sum_in_halves(sums);
}

template <class Function>
inline void scale_values(EncodeGroup& group, std::int64_t row, const Function& function) {
    for (std::int64_t tile = 0; tile < group.tiles; ++tile) {
        float* values = group.row_of(tile, row);
        each([&](int i) { values[i] = function(values[i]); });
    }
}

// Integers of `bits` bits: compress/codecs/int.py.
inline float encode_integers(EncodeGroup& group, std::int64_t row, int bits, std::uint8_t* zero_point) {
    const auto top = static_cast<float>((1 << bits) - 1);
    auto zero = static_cast<float>(1 << (bits - 1));
    float low, high, scale;
    group.extremes(row, low, high);
    if (zero_point == nullptr) {
        const float extreme = (-low > high ? low : high) + 0.0f;
        scale = float_of_bf16(bf16_away_from_zero(-extreme / zero));
    } else {
        high = high > 0.0f ? high : 0.0f;
        low = low < 0.0f ? low : 0.0f;
        scale = float_of_bf16(bf16_away_from_zero(high / top - low / top));
        zero = scale == 0.0f ? 0.0f : round_to_whole(-low / scale);
        zero = zero < top ? zero : top;
        *zero_point = static_cast<std::uint8_t>(zero);
    }
    group.round_row(row, scale, [&](float value) {
        const float code = round_to_whole(value) + zero;
        const float not_below = code > 0.0f ? code : 0.0f;
        return static_cast<std::uint32_t>(static_cast<std::int32_t>(not_below < top ? not_below : top));
    });
    return scale;
}

// compress/codecs/nf4.py.
inline float encode_nf4(EncodeGroup& group, std::int64_t row) {
    const float scale = float_of_bf16(bf16_away_from_zero(group.largest_magnitude(row)));
    group.round_row(row, scale, [](float value) {
        std::uint32_t code = 0;
        for (int i = 0; i < 15; ++i) code += value > (kNf4Book[i] + kNf4Book[i + 1]) / 2 ? 1u : 0u;
        return code;
    });
    return scale;
}

// compress/codecs/fp8.py.
template <class Format>
inline float encode_fp8(EncodeGroup& group, std::int64_t row, float largest) {
    const float scale = float_of_bf16(bf16_away_from_zero(group.largest_magnitude(row) / largest));
    group.round_row(row, scale, [&](float value) {
        const std::uint32_t bits = bits_of_float(value);
        const float magnitude = float_of_bits(bits & 0x7fffffffu);
        return Format::code(Format::round(magnitude < largest ? magnitude : largest)) | (bits >> 31 << 7);
    });
    return scale;
}

// compress/codecs/mxfp4.py; returns the scale's byte.
inline std::uint8_t encode_mxfp4(EncodeGroup& group, std::int64_t row) {
    const auto exponent = static_cast<int>(bits_of_float(group.largest_magnitude(row)) >> 23) - 2;
    const auto smaller = static_cast<std::uint8_t>(exponent > 0 ? exponent : 0);
    const float scale = float_of_e8m0(smaller);
    scale_values(group, row, [&](float value) { return value / scale; });
    const bool is_next = e2m1_error(group, row, 2.0f) < e2m1_error(group, row, 1.0f);
    group.round_row(row, is_next ? 2.0f : 1.0f, e2m1_code);
    return static_cast<std::uint8_t>(smaller + is_next);
}

// compress/codecs/nvfp4.py; returns the scale's byte.
inline std::uint8_t encode_nvfp4(EncodeGroup& group, std::int64_t row, float global_scale) {
    const float divisor = global_scale == 0.0f ? std::numeric_limits<float>::infinity() : global_scale;
    scale_values(group, row, [&](float value) { return value / divisor; });
    const float largest = group.largest_magnitude(row);
    const auto rounded = [](float scale) { return E4m3::round(scale < kLargestE4m3 ? scale : kLargestE4m3); };
    const float to_six = rounded(largest / 6.0f), to_four = rounded(largest / 4.0f);
    const float scale = e2m1_error(group, row, to_four) < e2m1_error(group, row, to_six) ? to_four : to_six;
    group.round_row(row, scale, e2m1_code);
    return static_cast<std::uint8_t>(E4m3::code(scale));
}

template <int Width>
inline std::uint8_t* pack_plane(const std::uint8_t* codes, int low, std::uint8_t* plane) {
    constexpr int size = 32 * Width;
    for (int i = 0; i < size; ++i) {
        unsigned byte = 0;
        for (int field = 0; field < 8 / Width; ++field)
            byte |= ((static_cast<unsigned>(codes[size * field + i]) >> low) & ((1u << Width) - 1)) << (Width * field);
        plane[i] = static_cast<std::uint8_t>(byte);
    }
    return plane + size;
}

inline void pack_tile(const std::uint8_t* codes, int bits, std::uint8_t* tile) {
    int low = 0;
    if (bits & 8) tile = pack_plane<8>(codes, low, tile), low += 8;
    if (bits & 4) tile = pack_plane<4>(codes, low, tile), low += 4;
    if (bits & 2) tile = pack_plane<2>(codes, low, tile), low += 2;
    if (bits & 1) pack_plane<1>(codes, low, tile);
}

// Codes of one row of a group, and its scale.
inline void encode_row(const TileTarget& target, EncodeGroup& group, std::int64_t row, std::int64_t constant) {
    const Tiles& weight = target.weight;
    std::uint8_t* zero_point = target.zero_points == nullptr ? nullptr : target.zero_points + constant;
    float scale = 0.0f;
    switch (weight.code) {
        case Code::integer:
            scale = encode_integers(group, row, weight.bits, zero_point);
            break;
        case Code::nf4:
            scale = encode_nf4(group, row);
            break;
        case Code::e4m3:
            scale = encode_fp8<E4m3>(group, row, kLargestE4m3);
            break;
        case Code::e5m2:
            scale = encode_fp8<E5m2>(group, row, kLargestE5m2);
            break;
        case Code::e2m1:
            target.scales[constant] = weight.scale_format == ScaleFormat::e8m0
                                          ? encode_mxfp4(group, row)
                                          : encode_nvfp4(group, row, weight.global_scale);
            return;
    }
    const auto bits = static_cast<std::uint16_t>(bits_of_float(scale) >> 16);
    std::memcpy(target.scales + 2 * constant, &bits, sizeof bits);
}

void encode(const TileTarget& target, Range panels, const DenseSource& source) {
    const Tiles& weight = target.weight;
    EncodeGroup group(smaller(weight.group_tiles, weight.tiles));
    for (std::int64_t panel = panels.first; panel < panels.last; ++panel)
        for (std::int64_t number = 0; number < weight.groups; ++number) {
            const std::int64_t first = number * weight.group_tiles;
            group.load(source, panel, {first, smaller(first + weight.group_tiles, weight.tiles)});
            for (std::int64_t row = 0; row < kSide; ++row)
                encode_row(target, group, row, (panel * weight.groups + number) * kSide + row);
            for (std::int64_t tile = 0; tile < group.tiles; ++tile)
                pack_tile(group.codes_of(tile, 0), weight.bits,
                          target.codes + (panel * weight.tiles + first + tile) * weight.tile_bytes());
        }
}

template <class Word>
Word largest_word(const void* values, Range range, Word mask) {
    const auto* words = static_cast<const Word*>(values);
    Word largest = 0;
    for (std::int64_t i = range.first; i < range.last; ++i) {
        const auto magnitude = static_cast<Word>(words[i] & mask);
        largest = magnitude > largest ? magnitude : largest;
    }
    return largest;
}

float largest(const void* values, Dtype dtype, Range range) {
    if (dtype == Dtype::float32) return float_of_bits(largest_word<std::uint32_t>(values, range, 0x7fffffffu));
    const auto bits = largest_word<std::uint16_t>(values, range, 0x7fff);
    return dtype == Dtype::bfloat16 ? float_of_bf16(bits) : float_of_fp16(bits);
}

}  // namespace
}  // namespace tilepress
