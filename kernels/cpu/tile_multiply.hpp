// Multiplication of a few rows of x by fixed-rate tiles, in float32. See tile_reading.hpp for `Set`.
#pragma once

#include "tile_reading.hpp"

namespace tilepress {
namespace {

// 16 values of a row of x, bias or y; outside of `count` they are zero.
template <class Set>
typename Set::Values load_values(const void* values, Dtype dtype, std::int64_t first, std::int64_t count) {
    alignas(64) std::byte copy[kSide * 4] = {};
    const std::byte* from = static_cast<const std::byte*>(values) + first * size_of(dtype);
    if (count < kSide) {
        std::memcpy(copy, from, static_cast<std::size_t>(count * size_of(dtype)));
        from = copy;
    }
    if (dtype == Dtype::float32) return Set::load(reinterpret_cast<const float*>(from));
    const auto* halves = reinterpret_cast<const std::uint16_t*>(from);
    return dtype == Dtype::bfloat16 ? Set::load_bf16(halves) : Set::load_fp16(halves);
}

template <class Set>
void store_values(typename Set::Values values, void* to, Dtype dtype) {
    if (dtype == Dtype::float32) return Set::store(static_cast<float*>(to), values);
    if (dtype == Dtype::bfloat16) return Set::store_bf16(static_cast<std::uint16_t*>(to), values);
    Set::store_fp16(static_cast<std::uint16_t*>(to), values);
}

// Add the bias to the panel's 16 results, round them, and write those of the range.
template <class Set>
void finish(const Product& product, std::int64_t panel, std::int64_t vector, const float* results) {
    const std::int64_t first = larger(panel * kSide, product.rows.first);
    const std::int64_t last = smaller((panel + 1) * kSide, product.rows.last);
    const std::int64_t size = size_of(product.dtype);
    alignas(64) float wanted[kSide] = {};
    std::memcpy(wanted, results + (first - panel * kSide), static_cast<std::size_t>(last - first) * sizeof(float));
    auto values = Set::load(wanted);
    if (product.bias != nullptr) {
        const auto bias = load_values<Set>(product.bias, product.dtype, first - product.rows.first, last - first);
        values = Set::add(values, bias);
    }
    alignas(64) std::byte rounded[kSide * 4];
    store_values<Set>(values, rounded, product.dtype);
    const std::int64_t row = vector * (product.rows.last - product.rows.first) + first - product.rows.first;
    std::memcpy(static_cast<std::byte*>(product.y) + row * size, rounded,
                static_cast<std::size_t>((last - first) * size));
}

inline std::int64_t float_prepared_bytes(const Tiles& weight, const Product& product) {
    return product.count * weight.tiles * kSide * static_cast<std::int64_t>(sizeof(float));
}

// x in float32, [count][16 tiles], filled up with zeros.
template <class Set>
void float_prepare(const Tiles& weight, const Product& product, std::byte* prepared) {
    auto* to = reinterpret_cast<float*>(prepared);
    for (std::int64_t vector = 0; vector < product.count; ++vector)
        for (std::int64_t column = 0; column < weight.tiles * kSide; column += kSide, to += kSide) {
            const std::int64_t count = smaller(kSide, product.columns - column);
            Set::store(to, load_values<Set>(product.x, product.dtype, vector * product.columns + column, count));
        }
}

// 4 rows of a strip, `Count` rows of x: totals[row][vector] += scale * sum over the strip.
template <class Set, Code Kind, int Count>
inline void add_rows(const Reader<Set, Kind>& read, const std::uint8_t* codes, std::int64_t tiles, int row_first,
                     const RowConstants& constants, const float* x, std::int64_t stride,
                     typename Set::Values (*totals)[Count]) {
    constexpr int rows = 4;
    typename Set::Values sums[rows][Count];
    typename Set::Values zeros[rows];
    for (int row = 0; row < rows; ++row) {
        zeros[row] = Set::broadcast(constants.zeros[row_first + row]);
        for (int vector = 0; vector < Count; ++vector) sums[row][vector] = Set::broadcast(0.0f);
    }
    for (std::int64_t tile = 0; tile < tiles; ++tile)
        for (int row = 0; row < rows; ++row) {
            const auto values = read(codes + tile * kTileValues + (row_first + row) * kSide, zeros[row]);
            for (int vector = 0; vector < Count; ++vector)
                sums[row][vector] =
                    Set::multiply_add(values, Set::load(x + vector * stride + tile * kSide), sums[row][vector]);
        }
    for (int row = 0; row < rows; ++row)
        for (int vector = 0; vector < Count; ++vector) {
            auto& total = totals[row_first + row][vector];
            total = Set::multiply_add(Set::broadcast(constants.scales[row_first + row]), sums[row][vector], total);
        }
}

template <class Set, Code Kind, int Count>
void multiply_panel(const Tiles& weight, std::int64_t panel, const Product& product, const float* x,
                    std::int64_t vector_first) {
    const Reader<Set, Kind> read;
    const std::int64_t stride = weight.tiles * kSide;
    typename Set::Values totals[kSide][Count];
    for (auto& of_row : totals)
        for (auto& total : of_row) total = Set::broadcast(0.0f);
    alignas(64) std::uint8_t codes[kStripTiles * kTileValues];
    RowConstants constants;
    for (std::int64_t tile = 0; tile < weight.tiles;) {
        const std::int64_t end = strip_end(weight, tile, kStripTiles);
        for (std::int64_t inner = tile; inner < end; ++inner)
            unpack_tile(weight.tile(panel, inner), weight.bits, codes + (inner - tile) * kTileValues);
        constants.read(weight, panel, tile / weight.group_tiles);
        for (int row = 0; row < kSide; row += 4)
            add_rows<Set, Kind, Count>(read, codes, end - tile, row, constants,
                                       x + vector_first * stride + tile * kSide, stride, totals);
        tile = end;
    }
    for (int vector = 0; vector < Count; ++vector) {
        alignas(64) float results[kSide];
        for (int row = 0; row < kSide; ++row) results[row] = Set::sum(totals[row][vector]);
        finish<Set>(product, panel, vector_first + vector, results);
    }
}

template <class Set, Code Kind>
void multiply_code(const Tiles& weight, Range panels, const Product& product, const float* x) {
    for (std::int64_t panel = panels.first; panel < panels.last; ++panel)
        for (std::int64_t vector = 0; vector < product.count;) {
            const std::int64_t left = product.count - vector;
            if (Set::most_vectors >= 4 && left >= 4) {
                multiply_panel<Set, Kind, 4>(weight, panel, product, x, vector);
                vector += 4;
            } else if (left >= 2) {
                multiply_panel<Set, Kind, 2>(weight, panel, product, x, vector);
                vector += 2;
            } else {
                multiply_panel<Set, Kind, 1>(weight, panel, product, x, vector);
                vector += 1;
            }
        }
}

template <class Set>
void float_multiply(const Tiles& weight, Range panels, const Product& product, const std::byte* prepared) {
    const auto* x = reinterpret_cast<const float*>(prepared);
    switch (weight.code) {
        case Code::integer:
            return multiply_code<Set, Code::integer>(weight, panels, product, x);
        case Code::nf4:
            return multiply_code<Set, Code::nf4>(weight, panels, product, x);
        case Code::e4m3:
            return multiply_code<Set, Code::e4m3>(weight, panels, product, x);
        case Code::e5m2:
            return multiply_code<Set, Code::e5m2>(weight, panels, product, x);
    }
}

}  // namespace
}  // namespace tilepress
