// Products of a few rows of x by 4-bit floating codes, whose scales are those of 16 or 32 columns; a part of
// tiles_avx512.cpp.
//
// Twice the value of a code is a small integer. Of 16 codes, those of even columns become the upper bytes of 8 words
// and those of odd columns of 8 others, so that 512 times each value meets a 16-bit integer of x without being
// unpacked. With groups so short, sums over a group are scaled where they lie, in lanes, and rows are added up once a
// panel.
#pragma once

#include "avx512_input.hpp"
#include "avx512_rows.hpp"

namespace tilepress {
namespace {

template <int GroupTiles, int Count>
struct E2m1Dot {
    static_assert(GroupTiles <= 2, "12 * 256 * 32512 * 4 columns * GroupTiles must fit in 31 bits");

    const Tiles& weight;
    const DotArrays& arrays;
    const DotHeader& header;
    std::int64_t panel;
    std::int64_t vector_first;

    static __m512i eight_low(const std::int8_t* x) {
        const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(x));
        return _mm512_broadcast_i32x4(_mm_cvtepi8_epi16(bytes));
    }

    template <class Set, bool IsWide>
    void add_group(std::int64_t group, __m512 (&totals)[Count][4]) const {
        const std::int64_t tile_last = smaller((group + 1) * GroupTiles, weight.tiles);
        const __m512i book = _mm512_load_si512(header.book_high);
        const __m512 scales = load_scales<Set>(weight, panel, group);
        __m512i rows = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
        for (int quarter = 0; quarter < 4; ++quarter) {
            __m512i sums[Count], low_sums[Count];
            for (int vector = 0; vector < Count; ++vector) sums[vector] = low_sums[vector] = _mm512_setzero_si512();
            for (std::int64_t tile = group * GroupTiles; tile < tile_last; ++tile) {
                const __m512i values = _mm512_shuffle_epi8(book, four_rows<4>(weight.tile(panel, tile), quarter));
                const __m512i even = _mm512_slli_epi16(values, 8);
                const __m512i odd = _mm512_and_si512(values, _mm512_set1_epi16(static_cast<short>(0xff00)));
                for (int vector = 0; vector < Count; ++vector) {
                    const std::int16_t* x = arrays.words(vector_first + vector) + tile * kSide;
                    sums[vector] = _mm512_dpwssd_epi32(sums[vector], even, sixteen_columns(x));
                    sums[vector] = _mm512_dpwssd_epi32(sums[vector], odd, sixteen_columns(x + 8));
                    if constexpr (IsWide) {
                        const std::int8_t* low = arrays.low(vector_first + vector) + tile * kSide;
                        low_sums[vector] = _mm512_dpwssd_epi32(low_sums[vector], even, eight_low(low));
                        low_sums[vector] = _mm512_dpwssd_epi32(low_sums[vector], odd, eight_low(low + 8));
                    }
                }
            }
            const __m512 of_rows = _mm512_permutexvar_ps(rows, scales);
            rows = _mm512_add_epi32(rows, _mm512_set1_epi32(4));
            for (int vector = 0; vector < Count; ++vector) {
                __m512 sum = _mm512_cvtepi32_ps(sums[vector]);
                if constexpr (IsWide)
                    sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(low_sums[vector]), _mm512_set1_ps(1.0f / kLowStep), sum);
                const float factor = arrays.factors(vector_first + vector)[group] * (1.0f / 512.0f);
                const __m512 factors = _mm512_mul_ps(of_rows, _mm512_set1_ps(factor));
                totals[vector][quarter] = _mm512_fmadd_ps(factors, sum, totals[vector][quarter]);
            }
        }
    }

    template <class Set>
    void add_panel(__m512 (&totals)[Count]) const {
        __m512 in_lanes[Count][4];
        for (auto& of_vector : in_lanes)
            for (auto& quarter : of_vector) quarter = _mm512_setzero_ps();
        for (std::int64_t group = 0; group < weight.groups; ++group) {
            for (std::int64_t tile = group * GroupTiles; tile < (group + 1) * GroupTiles; ++tile)
                prefetch(weight.tile(panel, tile), weight.tile_bytes());
            bool is_wide = false;
            for (int vector = 0; vector < Count; ++vector) is_wide |= arrays.is_wide(vector_first + vector)[group];
            if (is_wide)
                add_group<Set, true>(group, in_lanes);
            else
                add_group<Set, false>(group, in_lanes);
        }
        for (int vector = 0; vector < Count; ++vector)
            totals[vector] = _mm512_add_ps(totals[vector], row_sums(in_lanes[vector]));
    }
};

}  // namespace
}  // namespace tilepress
