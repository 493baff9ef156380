// Decoding of fixed-rate tiles: blocks of a panel, row by row. See tile_reading.hpp for `Set`.
#pragma once

#include "tile_reading.hpp"

namespace tilepress {
namespace {

struct Float32Output {
    using Value = float;
    template <class Set>
    static void store(float* to, typename Set::Values values) {
        Set::store(to, values);
    }
};

struct Fp16Output {
    using Value = std::uint16_t;
    template <class Set>
    static void store(std::uint16_t* to, typename Set::Values values) {
        Set::store_fp16(to, values);
    }
};

struct Bf16Output {
    using Value = std::uint16_t;
    template <class Set>
    static void store(std::uint16_t* to, typename Set::Values values) {
        Set::store_bf16(to, values);
    }
};

struct Bf16NormalOutput {
    using Value = std::uint16_t;
    template <class Set>
    static void store(std::uint16_t* to, typename Set::Values values) {
        Set::store_bf16_normal(to, values);
    }
};

// True when every product of a scale with a code is 0 or far from float32's subnormal numbers.
inline bool products_are_normal(const RowConstants& constants) {
    bool normal = true;
    for (const float scale : constants.scales) {
        const std::uint32_t magnitude = bits_of_float(scale) & 0x7fffffffu;
        normal &= magnitude == 0 || (magnitude > (27u << 23) && magnitude < 0x7f800000u);
    }
    return normal;
}

// Tiles of a panel that are decoded together, row by row: consecutive addresses are written one after the other.
struct DecodeBlock {
    Range tiles;
    alignas(64) std::uint8_t codes[kStripTiles * kTileValues];
    RowConstants constants[kStripTiles];  // of each group that the tiles lie in
    std::uint8_t group_of[kStripTiles];   // which of them is a tile's
    bool is_normal = true;

    template <class Set>
    void read(const Tiles& weight, std::int64_t panel, Range wanted) {
        tiles = wanted;
        is_normal = true;
        const std::int64_t first = tiles.first / weight.group_tiles;
        for (std::int64_t tile = tiles.first; tile < tiles.last; ++tile) {
            unpack_tile(weight.tile(panel, tile), weight.bits, codes + (tile - tiles.first) * kTileValues);
            const std::int64_t group = tile / weight.group_tiles;
            group_of[tile - tiles.first] = static_cast<std::uint8_t>(group - first);
            if (tile != tiles.first && tile % weight.group_tiles != 0) continue;
            constants[group - first].template read<Set>(weight, panel, group);
            is_normal &= products_are_normal(constants[group - first]);
        }
    }
};

// One row of a block, to consecutive addresses.
template <class Set, Code Kind, class Output>
inline void decode_row(const Reader<Set, Kind>& read, const DecodeBlock& block, std::int64_t row,
                       typename Output::Value* to) {
    const std::uint8_t* codes = block.codes + row * kSide;
    const std::int64_t tiles = block.tiles.last - block.tiles.first;
    for (std::int64_t tile = 0; tile < tiles; ++tile, codes += kTileValues, to += kSide) {
        const RowConstants& constants = block.constants[block.group_of[tile]];
        const auto unscaled = read(codes, Set::broadcast(constants.zeros[row]));
        Output::template store<Set>(to, Set::multiply(unscaled, Set::broadcast(constants.scales[row])));
    }
}

// The same where codes have at most 4 bits and values 2 bytes: decode each code that there can be once a group, then
// look the others up.
template <class Set, Code Kind, class Output>
inline void look_up_row(const Reader<Set, Kind>& read, const DecodeBlock& block, std::int64_t row,
                        typename Output::Value* to) {
    alignas(16) static constexpr std::uint8_t every_code[kSide] = {0, 1, 2,  3,  4,  5,  6,  7,
                                                                   8, 9, 10, 11, 12, 13, 14, 15};
    const std::uint8_t* codes = block.codes + row * kSide;
    const std::int64_t tiles = block.tiles.last - block.tiles.first;
    for (std::int64_t tile = 0; tile < tiles;) {
        const std::uint8_t group = block.group_of[tile];
        const RowConstants& constants = block.constants[group];
        const auto unscaled = read(every_code, Set::broadcast(constants.zeros[row]));
        alignas(64) typename Output::Value values[kSide];
        Output::template store<Set>(values, Set::multiply(unscaled, Set::broadcast(constants.scales[row])));
        const auto table = Set::table(values);
        for (; tile < tiles && block.group_of[tile] == group; ++tile, codes += kTileValues, to += kSide)
            Set::look_up(table, codes, to);
    }
}

template <class Set, Code Kind, class Output>
void decode_block(const DecodeBlock& block, int bits, std::int64_t panel, const Dense& dense) {
    using Value = typename Output::Value;
    const Reader<Set, Kind> read;
    const std::int64_t width = dense.columns.last - dense.columns.first;
    const std::int64_t row_last = smaller((panel + 1) * kSide, dense.rows.last);
    const std::int64_t first = larger(block.tiles.first * kSide, dense.columns.first);
    const std::int64_t last = smaller(block.tiles.last * kSide, dense.columns.last);
    const bool is_whole = last - first == (block.tiles.last - block.tiles.first) * kSide;
    alignas(64) Value beside[kStripTiles * kSide];
    for (std::int64_t row = larger(panel * kSide, dense.rows.first); row < row_last; ++row) {
        Value* place =
            static_cast<Value*>(dense.values) + (row - dense.rows.first) * width + first - dense.columns.first;
        Value* to = is_whole && !dense.bypasses_cache ? place : beside;
        if (sizeof(Value) == 2 && bits <= 4) {
            if constexpr (sizeof(Value) == 2) look_up_row<Set, Kind, Output>(read, block, row - panel * kSide, to);
        } else {
            decode_row<Set, Kind, Output>(read, block, row - panel * kSide, to);
        }
        if (to == place) continue;
        const auto bytes = static_cast<std::size_t>(last - first) * sizeof(Value);
        const Value* from = beside + (first - block.tiles.first * kSide);
        if (dense.bypasses_cache)
            Set::copy_past_cache(place, from, bytes);
        else
            std::memcpy(place, from, bytes);
    }
}

template <class Set, Code Kind>
void decode_code(const Tiles& weight, Range panels, const Dense& dense) {
    const std::int64_t tile_last = rounded_up(dense.columns.last, kSide) / kSide;
    DecodeBlock block;
    for (std::int64_t panel = panels.first; panel < panels.last; ++panel)
        for (std::int64_t tile = dense.columns.first / kSide; tile < tile_last; tile += kStripTiles) {
            block.template read<Set>(weight, panel, {tile, smaller(tile + kStripTiles, tile_last)});
            if (dense.dtype == Dtype::float32)
                decode_block<Set, Kind, Float32Output>(block, weight.bits, panel, dense);
            else if (dense.dtype == Dtype::float16)
                decode_block<Set, Kind, Fp16Output>(block, weight.bits, panel, dense);
            else if (block.is_normal)
                decode_block<Set, Kind, Bf16NormalOutput>(block, weight.bits, panel, dense);
            else
                decode_block<Set, Kind, Bf16Output>(block, weight.bits, panel, dense);
        }
    if (dense.bypasses_cache) Set::end_copies();
}

template <class Set>
void decode(const Tiles& weight, Range panels, const Dense& dense) {
    switch (weight.code) {
        case Code::integer:
            return decode_code<Set, Code::integer>(weight, panels, dense);
        case Code::nf4:
            return decode_code<Set, Code::nf4>(weight, panels, dense);
        case Code::e4m3:
            return decode_code<Set, Code::e4m3>(weight, panels, dense);
        case Code::e5m2:
            return decode_code<Set, Code::e5m2>(weight, panels, dense);
        case Code::e2m1:
            return decode_code<Set, Code::e2m1>(weight, panels, dense);
    }
}

}  // namespace
}  // namespace tilepress
