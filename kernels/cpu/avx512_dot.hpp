// Products of a few rows of x in bfloat16 or float16, by the dot-product instructions; a part of tiles_avx512.cpp.
//
// avx512_input.hpp says what becomes of x, avx512_rows.hpp how rows lie in registers.
#pragma once

#include "avx512_e2m1.hpp"
#include "avx512_input.hpp"
#include "avx512_rows.hpp"

namespace tilepress {
namespace {

// Strip by strip: totals += what `dot.add_strip` finds.
template <class Set, class Dot, int Count>
void add_strips(const Dot& dot, const Tiles& weight, __m512 (&totals)[Count]) {
    std::int64_t number = 0;
    for (std::int64_t tile = 0; tile < weight.tiles; ++number) {
        const std::int64_t end = strip_end(weight, tile, Dot::most_tiles);
        dot.template add_strip<Set>({tile, end}, number, totals);
        tile = end;
    }
}

// Integers of `Bits` bits, or nf4.
template <int Bits, bool IsBook, int Count>
struct IntegerDot {
    const Tiles& weight;
    const DotArrays& arrays;
    const DotHeader& header;
    std::int64_t panel;
    std::int64_t vector_first;

    static constexpr std::int64_t most_tiles = kDotTiles;

    struct Sums {
        __m512i high[Count][4], middle[Count][4], low[Count][4];
    };

    template <bool IsWide>
    void add_tile(const std::uint8_t* tile, std::int64_t column, Sums& sums) const {
        prefetch(tile, 32 * Bits);
        const __m512i book_high = _mm512_load_si512(header.book_high);
        const __m512i book_low = _mm512_load_si512(header.book_low);
        for (int quarter = 0; quarter < 4; ++quarter) {
            const __m512i codes = four_rows<Bits>(tile, quarter);
            const __m512i upper = IsBook ? _mm512_shuffle_epi8(book_high, codes) : codes;
            for (int vector = 0; vector < Count; ++vector) {
                const __m512i x_high = sixteen_columns(arrays.high(vector_first + vector) + column);
                const __m512i x_middle = sixteen_columns(arrays.middle(vector_first + vector) + column);
                __m512i &high = sums.high[vector][quarter], &middle = sums.middle[vector][quarter];
                high = _mm512_dpbusd_epi32(high, upper, x_high);
                middle = _mm512_dpbusd_epi32(middle, upper, x_middle);
                if constexpr (IsWide) {
                    const __m512i x_low = sixteen_columns(arrays.low(vector_first + vector) + column);
                    sums.low[vector][quarter] = _mm512_dpbusd_epi32(sums.low[vector][quarter], upper, x_low);
                }
                if constexpr (IsBook) {
                    const __m512i lower = _mm512_shuffle_epi8(book_low, codes);
                    middle = _mm512_dpbusd_epi32(middle, lower, x_high);
                    if constexpr (IsWide)
                        sums.low[vector][quarter] = _mm512_dpbusd_epi32(sums.low[vector][quarter], lower, x_middle);
                }
            }
        }
    }

    // What the codes' offset contributes to the sum of each row.
    __m512i offset(std::int64_t first, std::int32_t sum) const {
        if constexpr (IsBook) return _mm512_set1_epi32(sum * 128 - sum / 256);  // 32767 / 256 times
        if (weight.zero_points == nullptr) return _mm512_set1_epi32(sum * (1 << (Bits - 1)));
        const __m128i zeros = _mm_loadu_si128(reinterpret_cast<const __m128i*>(weight.zero_points + first));
        return _mm512_mullo_epi32(_mm512_cvtepu8_epi32(zeros), _mm512_set1_epi32(sum));
    }

    template <class Set, bool IsWide>
    void add_strip_of_width(Range strip, std::int64_t number, __m512 (&totals)[Count]) const {
        Sums sums;
        for (int vector = 0; vector < Count; ++vector)
            for (int quarter = 0; quarter < 4; ++quarter)
                sums.high[vector][quarter] = sums.middle[vector][quarter] = sums.low[vector][quarter] =
                    _mm512_setzero_si512();
        for (std::int64_t tile = strip.first; tile < strip.last; ++tile)
            add_tile<IsWide>(weight.tile(panel, tile), tile * kSide, sums);
        const std::int64_t group = strip.first / weight.group_tiles;
        const std::int64_t first = (panel * weight.groups + group) * kSide;
        const __m512 scales = load_scales<Set>(weight, panel, group);
        for (int vector = 0; vector < Count; ++vector) {
            const std::int64_t x = vector_first + vector;
            __m512i both[4];
            for (int quarter = 0; quarter < 4; ++quarter)
                both[quarter] =
                    _mm512_add_epi32(_mm512_slli_epi32(sums.high[vector][quarter], 8), sums.middle[vector][quarter]);
            const __m512i upper = _mm512_sub_epi32(row_sums(both), offset(first, arrays.sums(x)[number]));
            __m512 sum = _mm512_cvtepi32_ps(upper);
            if constexpr (IsWide) {
                const __m512i low = row_sums(sums.low[vector]);
                const __m512i lower = _mm512_sub_epi32(low, offset(first, arrays.low_sums(x)[number]));
                sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(lower), _mm512_set1_ps(1.0f / kLowStep), sum);
            }
            const float factor = arrays.factors(x)[number] * (IsBook ? 256.0f / kBookStep : 1.0f);
            totals[vector] = _mm512_fmadd_ps(_mm512_mul_ps(scales, _mm512_set1_ps(factor)), sum, totals[vector]);
        }
    }

    template <class Set>
    void add_strip(Range strip, std::int64_t number, __m512 (&totals)[Count]) const {
        bool is_wide = false;
        for (int vector = 0; vector < Count; ++vector) is_wide |= arrays.is_wide(vector_first + vector)[number];
        if (is_wide)
            add_strip_of_width<Set, true>(strip, number, totals);
        else
            add_strip_of_width<Set, false>(strip, number, totals);
    }

    template <class Set>
    void add_panel(__m512 (&totals)[Count]) const {
        add_strips<Set>(*this, weight, totals);
    }
};

// fp8; `Terms` bfloat16 make one value of x.
template <int Terms, int Count>
struct FloatDot {
    const Tiles& weight;
    const DotArrays& arrays;
    const DotHeader& header;
    std::int64_t panel;
    std::int64_t vector_first;

    static constexpr std::int64_t most_tiles = kMostVectors << 20;

    static __m512 dot(__m512 sums, __m512i weights, const std::uint16_t* x) {
        const __m512i values = sixteen_columns(x);
        __m512bh a, b;
        std::memcpy(&a, &weights, sizeof a);
        std::memcpy(&b, &values, sizeof b);
        return _mm512_dpbf16_ps(sums, a, b);
    }

    template <class Set>
    void add_strip(Range strip, std::int64_t, __m512 (&totals)[Count]) const {
        const __m512i high_0 = _mm512_load_si512(header.float_high), high_1 = _mm512_load_si512(header.float_high + 64);
        const __m512i low_0 = _mm512_load_si512(header.float_low), low_1 = _mm512_load_si512(header.float_low + 64);
        __m512 sums[Count][4];
        for (int vector = 0; vector < Count; ++vector)
            for (int quarter = 0; quarter < 4; ++quarter) sums[vector][quarter] = _mm512_setzero_ps();
        for (std::int64_t tile = strip.first; tile < strip.last; ++tile) {
            prefetch(weight.tile(panel, tile), kTileValues);
            for (int quarter = 0; quarter < 4; ++quarter) {
                const __m512i codes = four_rows<8>(weight.tile(panel, tile), quarter);
                const __m512i sign = _mm512_and_si512(codes, _mm512_set1_epi8(static_cast<char>(0x80)));
                const __m512i high = _mm512_or_si512(_mm512_permutex2var_epi8(high_0, codes, high_1), sign);
                const __m512i low = _mm512_permutex2var_epi8(low_0, codes, low_1);
                const __m512i left = _mm512_unpacklo_epi8(low, high), right = _mm512_unpackhi_epi8(low, high);
                for (int vector = 0; vector < Count; ++vector)
                    for (int term = 0; term < Terms; ++term) {
                        const std::int64_t number = vector_first + vector;
                        const auto* x = (term == 0 ? arrays.near(number) : arrays.rest(number)) + tile * kSide;
                        sums[vector][quarter] = dot(dot(sums[vector][quarter], left, x), right, x + 8);
                    }
            }
        }
        const __m512 scales = load_scales<Set>(weight, panel, strip.first / weight.group_tiles);
        for (int vector = 0; vector < Count; ++vector)
            totals[vector] = _mm512_fmadd_ps(scales, row_sums(sums[vector]), totals[vector]);
    }

    template <class Set>
    void add_panel(__m512 (&totals)[Count]) const {
        add_strips<Set>(*this, weight, totals);
    }
};

template <class Set, class Dot, int Count>
void dot_panel(const Dot& dot, const Product& product) {
    __m512 totals[Count];
    for (auto& total : totals) total = _mm512_setzero_ps();
    dot.template add_panel<Set>(totals);
    for (int vector = 0; vector < Count; ++vector) {
        alignas(64) float results[kSide];
        _mm512_store_ps(results, totals[vector]);
        finish<Set>(product, dot.panel, dot.vector_first + vector, results);
    }
}

template <class Set, template <int> class Dot>
void dot_panels(const Tiles& weight, Range panels, const Product& product, const DotArrays& arrays,
                const DotHeader& header) {
    for (std::int64_t panel = panels.first; panel < panels.last; ++panel) {
        std::int64_t vector = 0;
        for (; vector + 2 <= product.count; vector += 2)
            dot_panel<Set, Dot<2>, 2>({weight, arrays, header, panel, vector}, product);
        if (vector < product.count) dot_panel<Set, Dot<1>, 1>({weight, arrays, header, panel, vector}, product);
    }
}

template <int Bits>
struct Integers {
    template <int Count>
    using Dot = IntegerDot<Bits, false, Count>;
};
template <int Count>
using Nf4Dot = IntegerDot<4, true, Count>;
template <int Count>
using Mxfp4Dot = E2m1Dot<2, Count>;
template <int Count>
using Nvfp4Dot = E2m1Dot<1, Count>;
template <int Count>
using Bf16Dot = FloatDot<1, Count>;
template <int Count>
using Fp16Dot = FloatDot<2, Count>;

template <class Set>
void dot_multiply(const Tiles& weight, Range panels, const Product& product, const std::byte* prepared) {
    const auto& header = *reinterpret_cast<const DotHeader*>(prepared);
    const DotArrays arrays{const_cast<std::byte*>(prepared) + sizeof(DotHeader), product.count, weight.tiles};
    if (!header.uses_dot) return float_multiply<Set>(weight, panels, product, arrays.base);
    if (weight.code == Code::nf4) return dot_panels<Set, Nf4Dot>(weight, panels, product, arrays, header);
    if (weight.code == Code::e2m1)
        return weight.group_tiles == 1 ? dot_panels<Set, Nvfp4Dot>(weight, panels, product, arrays, header)
                                       : dot_panels<Set, Mxfp4Dot>(weight, panels, product, arrays, header);
    if (weight.code != Code::integer)
        return product.dtype == Dtype::bfloat16 ? dot_panels<Set, Bf16Dot>(weight, panels, product, arrays, header)
                                                : dot_panels<Set, Fp16Dot>(weight, panels, product, arrays, header);
    switch (weight.bits) {
        case 2:
            return dot_panels<Set, Integers<2>::template Dot>(weight, panels, product, arrays, header);
        case 3:
            return dot_panels<Set, Integers<3>::template Dot>(weight, panels, product, arrays, header);
        case 4:
            return dot_panels<Set, Integers<4>::template Dot>(weight, panels, product, arrays, header);
        case 5:
            return dot_panels<Set, Integers<5>::template Dot>(weight, panels, product, arrays, header);
        case 6:
            return dot_panels<Set, Integers<6>::template Dot>(weight, panels, product, arrays, header);
        case 7:
            return dot_panels<Set, Integers<7>::template Dot>(weight, panels, product, arrays, header);
        default:
            return dot_panels<Set, Integers<8>::template Dot>(weight, panels, product, arrays, header);
    }
}

}  // namespace
}  // namespace tilepress
