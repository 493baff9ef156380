// Encoding of panels, sixteen blocks at a time up to their bit planes, which are then written block by block.
#pragma once

#include <algorithm>
#include <cstddef>

#include "zfp_lanes.hpp"
#include "zfp_runs.hpp"
#include "zfp_stream.hpp"

namespace tilepress {
namespace {

// Biased exponents of sixteen blocks; 0 of zeros. See `exponent_of`.
inline void exponents_of(const LaneBlock& values, std::uint32_t* exponents) {
    std::uint32_t largest[kLanes] = {};
    std::uint32_t bits[16][kLanes];
    std::memcpy(bits, values.of, sizeof bits);
    for (const auto& value : bits)
        for (int lane = 0; lane < kLanes; ++lane) {
            const std::uint32_t magnitude = value[lane] & 0x7fffffffu;
            const std::uint32_t counted = magnitude > 0x7f800000u ? 0 : magnitude;
            largest[lane] = largest[lane] < counted ? counted : largest[lane];
        }
    for (int lane = 0; lane < kLanes; ++lane) {
        const std::uint32_t biased = (largest[lane] >> 23) + 1;
        exponents[lane] = largest[lane] == 0 ? 0 : largest[lane] == 0x7f800000u ? 127 : biased;
    }
}

// Float32 bits -> fixed point, in place. See `to_integers`.
inline void integers_of(LaneBlock& block, const std::uint32_t* exponents) {
    float scales[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) scales[lane] = encoding_scale(exponents[lane]);
    for (auto& values : block.of) {
        float numbers[kLanes];
        std::int32_t integers[kLanes];
        std::memcpy(numbers, &values, sizeof numbers);
        for (int lane = 0; lane < kLanes; ++lane) {
            const float scaled = scales[lane] * numbers[lane];
            const float within = scaled >= -0x1p31f && scaled < 0x1p31f ? scaled : -0x1p31f;
            integers[lane] = static_cast<std::int32_t>(within);
        }
        std::memcpy(&values, integers, sizeof integers);
    }
}

// The values of sixteen blocks, as bits.
inline void load_block(const LaneRows& rows, LaneBlock& block) {
    for (int y = 0; y < kZfpSide; ++y) {
        float values[kZfpSide][kLanes];
        for (int lane = 0; lane < kLanes; ++lane) {
            values[0][lane] = rows.of[y][kZfpSide * lane];
            values[1][lane] = rows.of[y][kZfpSide * lane + 1];
            values[2][lane] = rows.of[y][kZfpSide * lane + 2];
            values[3][lane] = rows.of[y][kZfpSide * lane + 3];
        }
        std::memcpy(block.of + kZfpSide * y, values, sizeof values);
    }
}

// Integers -> bit planes, by a transform that changes them. A bit of `all` is set where a plane has a one, in each
// lane.
template <class Lift>
inline void planes_of_integers(LaneBlock& block, const Lift& lift, LanePlanes& planes, LaneWords& all) {
    lift_lines(block, 1, lift);
    lift_lines(block, kZfpSide, lift);
    constexpr std::uint32_t mask = negabinary_mask<std::uint32_t>();
    const std::uint8_t* position = ZfpOrder<2>::position;
    LaneBits high[16], low[16];
    all = LaneWords{};
    for (int i = 0; i < 16; ++i) {
        const LaneWords coefficients = (block.of[position[i]] + mask) ^ mask;
        all |= coefficients;
        high[i] = __builtin_convertvector(coefficients >> 16, LaneBits);
        low[i] = __builtin_convertvector(coefficients, LaneBits);
    }
    transpose_bits(high);
    transpose_bits(low);
    std::memcpy(planes.of + 16, high, sizeof high);
    std::memcpy(planes.of, low, sizeof low);
}

// Values -> exponents and bit planes.
inline void planes_of_values(const LaneRows& rows, std::uint32_t* exponents, LanePlanes& planes) {
    LaneBlock block;
    LaneWords all;
    load_block(rows, block);
    exponents_of(block, exponents);
    integers_of(block, exponents);
    planes_of_integers(block, lift_forward<LaneWords>, planes, all);
}

// What a reversible block begins with, one a lane. See `encode_reversible`.
struct ReversibleLanes {
    std::uint32_t exponents[kLanes];
    std::uint32_t lost[kLanes];  // not 0 where fixed point would lose something
    std::uint32_t planes[kLanes];
};

// Values -> bit planes, of fixed point where that loses nothing and of the values' own bits elsewhere.
inline void reversible_planes_of_values(const LaneRows& rows, ReversibleLanes& lanes, LanePlanes& planes) {
    LaneBlock block;
    load_block(rows, block);
    std::uint32_t bits[16][kLanes], integers[16][kLanes];
    std::memcpy(bits, block.of, sizeof bits);
    exponents_of(block, lanes.exponents);
    integers_of(block, lanes.exponents);
    std::memcpy(integers, block.of, sizeof integers);
    for (auto& values : integers)
        for (int lane = 0; lane < kLanes; ++lane) values[lane] = lanes.exponents[lane] == 0 ? 0 : values[lane];
    float scales[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) scales[lane] = decoding_scale(lanes.exponents[lane]);
    std::memset(lanes.lost, 0, sizeof lanes.lost);
    for (int i = 0; i < 16; ++i)
        for (int lane = 0; lane < kLanes; ++lane) {
            const float again = scales[lane] * static_cast<float>(static_cast<std::int32_t>(integers[i][lane]));
            lanes.lost[lane] |= bits_of_float(again) ^ bits[i][lane];
        }
    for (int i = 0; i < 16; ++i)
        for (int lane = 0; lane < kLanes; ++lane) {
            const std::uint32_t own = bits[i][lane] ^ (bits[i][lane] >> 31) * 0x7fffffffu;
            integers[i][lane] = lanes.lost[lane] != 0 ? own : integers[i][lane];
        }
    std::memcpy(block.of, integers, sizeof integers);
    LaneWords all;
    planes_of_integers(block, difference_forward<LaneWords>, planes, all);
    std::memcpy(lanes.planes, &all, sizeof lanes.planes);
    for (std::uint32_t& ones : lanes.planes) ones = ones == 0 ? 1 : kPlanes - trailing_zeros(ones);
}

// Bits of one plane: `known` coefficients as they are, then runs. Both change.
struct PlaneBits {
    std::uint64_t bits;
    unsigned count;
};

inline PlaneBits plane_bits(std::uint32_t ones, unsigned& known) {
    const std::uint32_t rest = ones >> known;
    RunCode code = kRunCodes.only[rest & 0xff];
    std::uint64_t bits = code.bits();
    unsigned count = code.count(), coefficients = code.coefficients();
    if (rest > 0xff) {
        const RunCode first = kRunCodes.first[rest & 0xff];
        const bool is_inside = (rest & 0x80) == 0;
        code = kRunCodes.second[(rest >> 8) | (is_inside ? 256u : 0u)];
        bits = first.bits() | static_cast<std::uint64_t>(code.bits()) << first.count();
        count = first.count() + code.count();
        coefficients = 8 + code.coefficients();
    }
    const unsigned before = known;
    known += coefficients;
    if (known < kAllSignificant) {
        ++count;  // no one is left
    } else if (coefficients != 0) {
        --count;  // that the last coefficient has a one goes without saying
        bits &= low_bits(count);
    }
    return {bits << before | (ones & low_bits(before)), before + count};
}

inline void write_block(BitWriter& writer, const ZfpMode& mode, const LanePlanes& planes, int lane,
                        std::uint32_t exponent) {
    const std::uint64_t begin = writer.written;
    const int count = exponent == 0 ? 0 : planes_of(mode, static_cast<int>(exponent) - 127, 2);
    if (count > 0) {
        constexpr unsigned header_bits = 1 + ZfpScalar<float>::exponent_bits;
        writer.write(2 * exponent + 1, header_bits);
        auto left = static_cast<std::uint64_t>(mode.most_bits) - header_bits;
        unsigned known = 0;
        for (int plane = kPlanes - 1; plane >= kPlanes - std::min(count, kPlanes) && left > 0; --plane) {
            PlaneBits next = plane_bits(planes.of[plane][lane], known);
            if (next.count > left)
                next = {next.bits & low_bits(static_cast<unsigned>(left)), static_cast<unsigned>(left)};
            writer.write(next.bits, next.count);
            left -= next.count;
        }
    } else {
        writer.write(0, 1);
    }
    const std::uint64_t least = begin + static_cast<std::uint64_t>(mode.least_bits);
    if (writer.written < least) writer.write_zeros(least - writer.written);
}

inline void write_reversible_block(BitWriter& writer, const ReversibleLanes& lanes, const LanePlanes& planes,
                                   int lane) {
    using Format = ZfpScalar<float>;
    if (lanes.lost[lane] != 0) {
        writer.write(3, 2);
    } else if (lanes.exponents[lane] == 0) {
        return writer.write(0, 1);
    } else {
        writer.write(1 | lanes.exponents[lane] << 2, 2 + Format::exponent_bits);
    }
    const auto count = static_cast<int>(lanes.planes[lane]);
    writer.write(static_cast<std::uint64_t>(count - 1), Format::precision_bits);
    unsigned known = 0;
    for (int plane = kPlanes - 1; plane >= kPlanes - count; --plane) {
        const PlaneBits next = plane_bits(planes.of[plane][lane], known);
        writer.write(next.bits, next.count);
    }
}

inline std::int64_t encode_panel(const float* values, const ZfpShape& shape, const ZfpMode& mode, std::uint8_t* to) {
    const std::int64_t columns = shape.sizes[0], height = shape.sizes[1];
    constexpr std::int64_t lane_columns = kZfpSide * kLanes;
    BitWriter writer{to};
    LaneRows rows = {};
    LanePlanes planes;
    std::uint32_t exponents[kLanes];
    ReversibleLanes reversible;
    for (std::int64_t row = 0; row < height; row += kZfpSide)
        for (std::int64_t column = 0; column < columns; column += lane_columns) {
            const std::int64_t width = std::min(columns - column, lane_columns);
            const std::int64_t padded = (width + kZfpSide - 1) / kZfpSide * kZfpSide;
            for (std::int64_t y = 0; y < kZfpSide; ++y) {
                const float* from =
                    values + (row + place_within(y, std::min(height - row, kZfpSide))) * columns + column;
                std::memcpy(rows.of[y], from, static_cast<std::size_t>(width) * sizeof(float));
                for (std::int64_t x = width; x < padded; ++x) {
                    const std::int64_t block = x / kZfpSide * kZfpSide;
                    rows.of[y][x] = from[block + place_within(x - block, width - block)];
                }
            }
            const auto count = static_cast<int>(padded / kZfpSide);
            if (mode.is_reversible) {
                reversible_planes_of_values(rows, reversible, planes);
                for (int lane = 0; lane < count; ++lane) write_reversible_block(writer, reversible, planes, lane);
            } else {
                planes_of_values(rows, exponents, planes);
                for (int lane = 0; lane < count; ++lane) write_block(writer, mode, planes, lane, exponents[lane]);
            }
        }
    writer.finish();
    return writer.next - to;
}

}  // namespace
}  // namespace tilepress
