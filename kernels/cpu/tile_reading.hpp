// What decoding and multiplication of fixed-rate tiles share; both are written once, over 16 values at a time.
//
// An instruction set is a type `Set` with what product_values.hpp asks for, and
//
//     Book, book(const float*)      16 values to look up
//     subtract, multiply
//     from_integers, from_book, from_e4m3, from_e5m2, from_e8m0     16 codes, a byte each -> Values
//     store_bf16_normal                                  as store_bf16, where no value is subnormal
//     Table, table(const uint16_t*), look_up             16 codes into 16 values of 2 bytes
//     copy_past_cache, end_copies                        memcpy for what is not read again soon; end: others may read
//
// Everything is in an unnamed namespace, for the reason that floats.hpp gives.
#pragma once

#include "arithmetic.hpp"
#include "code_books.hpp"
#include "floats.hpp"
#include "tiles.hpp"

namespace tilepress {
namespace {

// Tiles that are unpacked at a time: their 4 KiB of codes stay in the nearest cache.
constexpr std::int64_t kStripTiles = 16;

// Where the run of at most `most` tiles that begins at `tile`, and lies in one group, ends.
inline std::int64_t strip_end(const Tiles& weight, std::int64_t tile, std::int64_t most) {
    const std::int64_t group_end = (tile / weight.group_tiles + 1) * weight.group_tiles;
    return smaller(smaller(tile + most, group_end), weight.tiles);
}

template <int Width, bool IsFirst>
inline const std::uint8_t* unpack_plane(const std::uint8_t* plane, int low, std::uint8_t* codes) {
    constexpr int size = 32 * Width;
    for (int field = 0; field < 8 / Width; ++field)
        for (int i = 0; i < size; ++i) {
            const auto bits = static_cast<std::uint8_t>((plane[i] >> (Width * field)) & ((1 << Width) - 1));
            std::uint8_t& code = codes[size * field + i];
            code = static_cast<std::uint8_t>(IsFirst ? bits : code | (bits << low));
        }
    return plane + size;
}

template <int Bits>
inline void unpack(const std::uint8_t* plane, std::uint8_t* codes) {
    if constexpr (Bits == 8) {
        std::memcpy(codes, plane, kTileValues);
    } else {
        if constexpr (Bits & 4) plane = unpack_plane<4, true>(plane, 0, codes);
        if constexpr (Bits & 2) plane = unpack_plane<2, !(Bits & 4)>(plane, Bits & 4, codes);
        if constexpr (Bits & 1) unpack_plane<1, Bits == 1>(plane, Bits & 6, codes);
    }
}

inline void unpack_tile(const std::uint8_t* tile, int bits, std::uint8_t* codes) {
    switch (bits) {
        case 2:
            return unpack<2>(tile, codes);
        case 3:
            return unpack<3>(tile, codes);
        case 4:
            return unpack<4>(tile, codes);
        case 5:
            return unpack<5>(tile, codes);
        case 6:
            return unpack<6>(tile, codes);
        case 7:
            return unpack<7>(tile, codes);
        default:
            return unpack<8>(tile, codes);
    }
}

// Scales of one panel and group, a value a row.
template <class Set>
inline typename Set::Values load_scales(const Tiles& weight, std::int64_t panel, std::int64_t group) {
    const std::int64_t first = (panel * weight.groups + group) * kSide;
    switch (weight.scale_format) {
        case ScaleFormat::bfloat16:
            return Set::load_bf16(reinterpret_cast<const std::uint16_t*>(weight.scales) + first);
        case ScaleFormat::e8m0:
            return Set::from_e8m0(weight.scales + first);
        default:
            return Set::multiply(Set::from_e4m3(weight.scales + first), Set::broadcast(weight.global_scale));
    }
}

// Scales and zero points of one panel and group, a value a row.
struct RowConstants {
    alignas(64) float scales[kSide];
    alignas(64) float zeros[kSide];

    template <class Set>
    void read(const Tiles& weight, std::int64_t panel, std::int64_t group) {
        const std::int64_t first = (panel * weight.groups + group) * kSide;
        Set::store(scales, load_scales<Set>(weight, panel, group));
        if (weight.zero_points != nullptr)
            for (int row = 0; row < kSide; ++row) zeros[row] = static_cast<float>(weight.zero_points[first + row]);
        else
            for (int row = 0; row < kSide; ++row) zeros[row] = static_cast<float>(1 << (weight.bits - 1));
    }
};

template <class Set, Code Kind>
struct Reader {
    typename Set::Book book = Set::book(Kind == Code::e2m1 ? kE2m1Book : kNf4Book);

    // 16 codes of one row -> what the scale multiplies.
    typename Set::Values operator()(const std::uint8_t* codes, typename Set::Values zero) const {
        if constexpr (Kind == Code::integer) return Set::subtract(Set::from_integers(codes), zero);
        if constexpr (Kind == Code::nf4 || Kind == Code::e2m1) return Set::from_book(codes, book);
        if constexpr (Kind == Code::e4m3) return Set::from_e4m3(codes);
        if constexpr (Kind == Code::e5m2) return Set::from_e5m2(codes);
    }
};

}  // namespace
}  // namespace tilepress
