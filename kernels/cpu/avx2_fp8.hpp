// Products of a few rows of x in float32 by 8-bit floating codes; a part of tiles_avx2.cpp.
//
// Shifted into place, e5m2 is float16, and e4m3 is float16 of a 256th of its value, except NaN: where a panel has one,
// tile_multiply.hpp multiplies it.
#pragma once

#include "avx2_rows.hpp"
#include "tile_multiply.hpp"

namespace tilepress {
namespace {

template <class Set, Code Kind, int Count>
struct FloatDot {
    static constexpr std::int64_t most_tiles = 16;
    static constexpr int pairs_at_once = Count == 1 ? 4 : 2;
    using Values = typename Set::Values;

    const Tiles& weight;
    const float* x;  // of the first row, others follow in steps of `stride`
    std::int64_t stride;

    static __m256i halves(__m256i words) {
        if constexpr (Kind == Code::e5m2) return words;
        return _mm256_and_si256(_mm256_srai_epi16(words, 1), _mm256_set1_epi16(static_cast<short>(0xbf80)));
    }

    void add_pairs(std::int64_t panel, Range strip, int first, __m256 (&sums)[Count][kSide], __m256i& largest) const {
        __m256 now[Count][2 * pairs_at_once] = {};
        for (std::int64_t tile = strip.first; tile < strip.last; ++tile)
            for (int pair = 0; pair < pairs_at_once; ++pair) {
                const __m256i zero = _mm256_setzero_si256();
                const __m256i codes = row_pair<8>(weight.tile(panel, tile), first + pair);
                largest = _mm256_max_epu8(largest, _mm256_add_epi8(codes, codes));
                const Values left = Set::from_halves(halves(_mm256_unpacklo_epi8(zero, codes)));
                const Values right = Set::from_halves(halves(_mm256_unpackhi_epi8(zero, codes)));
                for (int vector = 0; vector < Count; ++vector) {
                    const float* columns = x + vector * stride + tile * kSide;
                    const __m256 x_left = _mm256_loadu_ps(columns), x_right = _mm256_loadu_ps(columns + 8);
                    __m256 &even = now[vector][2 * pair], &odd = now[vector][2 * pair + 1];
                    even = _mm256_fmadd_ps(right.low, x_right, _mm256_fmadd_ps(left.low, x_left, even));
                    odd = _mm256_fmadd_ps(right.high, x_right, _mm256_fmadd_ps(left.high, x_left, odd));
                }
            }
        for (int vector = 0; vector < Count; ++vector)
            for (int row = 0; row < 2 * pairs_at_once; ++row) sums[vector][2 * first + row] = now[vector][row];
    }

    // False where a code is NaN of e4m3, whose sums are wrong then.
    bool add_panel(std::int64_t panel, Values (&totals)[Count]) const {
        __m256i largest = _mm256_setzero_si256();
        for (std::int64_t tile = 0; tile < weight.tiles;) {
            const std::int64_t end = strip_end(weight, tile, most_tiles);
            prefetch(weight.tile(panel, tile), (end - tile) * kTileValues);
            __m256 sums[Count][kSide];
            for (int pair = 0; pair < kRowPairs; pair += pairs_at_once)
                add_pairs(panel, {tile, end}, pair, sums, largest);
            const Values scales = load_scales<Set>(weight, panel, tile / weight.group_tiles);
            const Values unit = Set::broadcast(Kind == Code::e4m3 ? 256.0f : 1.0f);
            for (int vector = 0; vector < Count; ++vector) {
                const Values of_rows{eight_row_sums_of_8(sums[vector]), eight_row_sums_of_8(sums[vector] + 8)};
                totals[vector] = Set::multiply_add(scales, Set::multiply(of_rows, unit), totals[vector]);
            }
            tile = end;
        }
        const __m256i is_nan = _mm256_cmpeq_epi8(largest, _mm256_set1_epi8(static_cast<char>(0xfe)));
        return Kind == Code::e5m2 || _mm256_testz_si256(is_nan, is_nan) != 0;
    }
};

template <class Set, Code Kind, int Count>
void fp8_panel(const Tiles& weight, std::int64_t panel, const Product& product, const float* x,
               std::int64_t vector_first) {
    const std::int64_t stride = weight.tiles * kSide;
    typename Set::Values totals[Count];
    for (auto& total : totals) total = Set::broadcast(0.0f);
    const FloatDot<Set, Kind, Count> dot{weight, x + vector_first * stride, stride};
    if (!dot.add_panel(panel, totals)) return multiply_panel<Set, Kind, Count>(weight, panel, product, x, vector_first);
    for (int vector = 0; vector < Count; ++vector) {
        alignas(64) float results[kSide];
        Set::store(results, totals[vector]);
        finish<Set>(product, panel, vector_first + vector, results);
    }
}

template <class Set, Code Kind>
void fp8_multiply(const Tiles& weight, Range panels, const Product& product, const float* x) {
    for (std::int64_t panel = panels.first; panel < panels.last; ++panel) {
        std::int64_t vector = 0;
        for (; vector + 2 <= product.count; vector += 2) fp8_panel<Set, Kind, 2>(weight, panel, product, x, vector);
        if (vector < product.count) fp8_panel<Set, Kind, 1>(weight, panel, product, x, vector);
    }
}

}  // namespace
}  // namespace tilepress
