// Multiplication of a few rows of x by fixed-rate tiles, in float32. See tile_reading.hpp for `Set`.
#pragma once

#include "product_values.hpp"
#include "tile_reading.hpp"

namespace tilepress {
namespace {

inline std::int64_t float_prepared_bytes(const Tiles& weight, const Product& product) {
    return product.count * weight.tiles * kSide * static_cast<std::int64_t>(sizeof(float));
}

// x in float32, [count][16 tiles], filled up with zeros.
template <class Set>
void float_prepare(const Tiles&, const Product& product, std::byte* prepared) {
    x_in_float32<Set>(product, reinterpret_cast<float*>(prepared));
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
        constants.template read<Set>(weight, panel, tile / weight.group_tiles);
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
        case Code::e2m1:
            return multiply_code<Set, Code::e2m1>(weight, panels, product, x);
    }
}

}  // namespace
}  // namespace tilepress
